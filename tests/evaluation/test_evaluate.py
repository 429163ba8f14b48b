"""`evaluate.py` as people run it, and what its report says."""

import json
import os
import re
import sys
from pathlib import Path

import pytest
from helpers import ROOT, make_run
from PIL import Image
from zygote import run_ranks

import evaluate
from smile.data.load import load_examples
from smile.errors import UserError
from smile.evaluation.catalogue import METRICS
from smile.evaluation.scoring import FAMILIES
from smile.system.output import ReaderLeft
from smile.weights.run_folder import load_run

SMALL = ["--set", "data.num_test=12", "--set", "data.num_train=20", "--draws", "50"]
NO_MODELS = ["--clip", "none", "--gpt2", "none"]


@pytest.fixture(scope="module")
def work(tmp_path_factory):
    """A folder with runs `run` and `other`, and captions `one.jsonl` and `two.jsonl` by people."""
    folder = tmp_path_factory.mktemp("work")
    make_run(folder / "run")
    make_run(folder / "other", seed=1)
    data = load_run(folder / "run").config.data
    examples = load_examples(data, "test")[:12]
    for turn, name in enumerate(("one", "two")):
        lines = [json.dumps({"image": ex.name, "caption": ex.captions[turn]}) for ex in examples]
        (folder / f"{name}.jsonl").write_text("\n".join(lines))
    return folder


@pytest.fixture
def run_evaluate(work, monkeypatch, run_script):
    """Runs main() in the folder, without Java: (exit status, standard output, standard error)."""
    monkeypatch.chdir(work)
    monkeypatch.setenv("PATH", "")

    def run(*args: object, data: bool = True) -> tuple[int, str, str]:
        more = [*SMALL, *NO_MODELS] if data else []
        return run_script(evaluate.main, *args, *more)

    return run


def read(folder: Path) -> dict:
    return json.loads((folder / "report.json").read_text("utf-8"))


def values(report: dict, label: str) -> dict[str, dict]:
    return {metric["key"]: metric["values"][label] for metric in report["metrics"]}


def test_every_metric_has_one_family_and_one_place_in_the_catalogue():
    computed = [key for keys, _ in FAMILIES for key in keys]
    listed = [metric.key for metric in METRICS]
    assert sorted(computed) == sorted(listed) and len(set(listed)) == len(listed)


@pytest.mark.slow
def test_a_run_is_scored_on_its_own_data(run_evaluate, work):
    code, out, _ = run_evaluate("--model", "run", "--judge", "other")
    assert code == 0
    report = read(work / "run")
    assert (work / "run" / "report.html").exists()
    assert report["images"]["number"] == 12 and report["images"]["data"]["format"] == "shapes"
    assert report["systems"][0]["weights"] and report["systems"][0]["num_beams"] == 2
    found = values(report, "run")
    captions = [image["systems"]["run"]["caption"] for image in report["per_image"]]
    words = [len(caption.split()) for caption in captions]
    assert found["length"]["value"] == pytest.approx(sum(words) / 12)
    assert found["length"]["low"] <= found["length"]["value"] <= found["length"]["high"]
    assert "pool of 12 images, judge other" in found["judge_r1"]["note"]
    out = " ".join(out.split())
    for metric in METRICS:  # every one is there, on the terminal too, measured or with a reason
        assert metric.title in out or metric.family in out.partition("not measured")[2]
        assert ("value" in found[metric.key]) != bool(found[metric.key].get("missing"))


@pytest.mark.slow
def test_what_is_missing_says_why_and_is_never_a_number(run_evaluate, work):
    code, out, _ = run_evaluate("--captions", "one.jsonl", "--data", "run/config.toml")
    assert code == 0
    found = values(read(work / "evaluation" / "one.jsonl"), "one.jsonl")
    reasons = {
        "clip_score": "left out (--clip none)",
        "ppl": "left out (--gpt2 none)",
        "judge_r1": "--judge RUN",
    }
    for key, reason in reasons.items():
        assert reason in found[key]["missing"] and found[key].keys() == {"missing"}
        assert reason in " ".join(out.split())
    for key in ("meteor", "spice"):
        assert re.search("pip install|no `java`", found[key]["missing"])


def test_comparison_with_oneself_finds_nothing(run_evaluate, work):
    (work / "same.jsonl").write_bytes((work / "one.jsonl").read_bytes())
    args = ["one.jsonl", "same.jsonl", "two.jsonl", "--data", "run/config.toml", "--out", "c"]
    code, out, _ = run_evaluate("--compare", *args, "--paper")
    assert code == 0 and "two.jsonl - one.jsonl" in out
    assert "PT+FT SMILE" in out and "573.4" in out
    for metric in read(work / "c")["metrics"]:
        both = [metric["values"][label].get("value") for label in ("one.jsonl", "two.jsonl")]
        same, two = (metric["differences"][label] for label in ("same.jsonl", "two.jsonl"))
        if None in both:
            assert two is None
        elif same is not None:
            assert same["value"] == 0 and same["p_value"] == 1
            assert re.search(rf"{re.escape(metric['title'])} .*no difference", out)
        if two is not None:
            assert two["value"] == pytest.approx(both[1] - both[0], abs=1e-5)
            assert two["low"] <= two["value"] <= two["high"] and two["from"] == "one.jsonl"


@pytest.mark.slow
def test_models_and_files_stand_side_by_side(run_evaluate, work):
    code, *_ = run_evaluate("--compare", "run", "other", "one.jsonl", "--limit", "5")
    assert code == 0
    report = read(work / "evaluation" / "run-vs-other-vs-one.jsonl")
    assert [system["label"] for system in report["systems"]] == ["run", "other", "one.jsonl"]
    assert len(report["per_image"]) == 5 and report["images"]["number_in_split"] == 12
    run_evaluate("--model", "other", "--limit", "5", "--out", "alone")
    alone = read(work / "alone")
    for together, single in zip(report["per_image"], alone["per_image"], strict=True):
        assert together["systems"]["other"] == single["systems"]["other"]


def test_scores_that_cannot_be_printed_are_in_the_report(run_evaluate, work, monkeypatch):
    read_end, write_end = os.pipe()
    os.close(read_end)
    with os.fdopen(write_end, "w") as nobody, monkeypatch.context() as patch:
        patch.setattr(sys, "stdout", nobody)
        words = ["--captions", "one.jsonl", "--data", "run/config.toml", "--out", "unread"]
        with pytest.raises(SystemExit) as ended:
            patch.setattr(sys, "argv", ["evaluate.py", *words, *SMALL, *NO_MODELS])
            evaluate.main()
    assert ended.value.code == 141
    assert values(read(work / "unread"), "one.jsonl")["cider_d"]["value"] > 0


@pytest.mark.parametrize("is_read", [True, False])
def test_scores_that_cannot_be_written_are_printed(run_evaluate, monkeypatch, is_read):
    said = "report.json: cannot write: no space left on device"

    def full(*args, **options):
        raise UserError(said)

    def unread(text):
        raise ReaderLeft

    monkeypatch.setattr(evaluate, "write_report", full)
    if not is_read:
        monkeypatch.setattr(evaluate, "say", unread)
    code, out, err = run_evaluate("--captions", "one.jsonl", "--data", "run/config.toml")
    assert code == 2 and err.endswith(f"evaluate.py: {said}\n")
    assert ("CIDEr-D" in out) is is_read


@pytest.mark.slow
def test_people_are_measured_by_each_other(run_evaluate, work):
    code, out, _ = run_evaluate("--human", "--data", "run/config.toml")
    assert code == 0 and "human" in out
    found = values(read(work / "evaluation" / "human"), "human")
    examples = load_examples(load_run(work / "run").config.data, "test")[:12]
    lengths = [len(text.split()) for ex in examples for text in ex.captions]
    assert found["length"]["value"] == pytest.approx(sum(lengths) / len(lengths))
    assert found["true_share"]["value"] == pytest.approx(100)


def test_the_page_is_one_file_in_which_captions_stay_text(run_evaluate, work):
    nasty = "</script><img src=x onerror=alert(1)> & ${data} <b>"
    lines = [json.loads(line) for line in (work / "one.jsonl").read_text().splitlines()]
    lines[3]["caption"] = nasty
    (work / "nasty.jsonl").write_text("\n".join(map(json.dumps, lines)))
    args = ["--captions", "nasty.jsonl", "--data", "run/config.toml", "--out", "nasty"]
    assert run_evaluate(*args)[0] == 0
    page = (work / "nasty" / "report.html").read_text("utf-8")
    data = re.search(r'<script type="application/json" id="data">(.*?)</script>', page, re.S)[1]
    assert "<" not in data
    content = json.loads(data)
    assert content["per_image"][3]["systems"]["nasty.jsonl"]["caption"] == nasty
    assert all(uri.startswith("data:image/jpeg;base64,") for uri in content["thumbnails"])
    rest = page.replace(data, "")
    assert set(re.findall(r"https?://[^\s\"']+", rest)) == {"http://www.w3.org/2000/svg"}
    assert not re.search(r"innerHTML|outerHTML|insertAdjacent|document\.write|\bsrc=|@import", rest)
    assert "default-src 'none'" in rest


@pytest.fixture
def photos(tmp_path):
    """Three pictures with references; the third lies elsewhere. Captions of the first two."""
    (tmp_path / "refs").mkdir()
    names = ["0.png", "1.png", "../private.png"]
    for number, name in enumerate(names):
        Image.new("RGB", (8, 8), (80 * number, 0, 0)).save(tmp_path / "refs" / name)
    references = {name: [f"a red photo {number}"] for number, name in enumerate(names)}
    (tmp_path / "refs" / "refs.json").write_text(json.dumps(references))
    lines = [json.dumps({"image": name, "caption": "a red photo"}) for name in names[:2]]
    (tmp_path / "two.jsonl").write_text("\n".join(lines))
    lines.append(json.dumps({"image": "private.png", "caption": "a red photo"}))
    (tmp_path / "three.jsonl").write_text("\n".join(lines))
    return tmp_path


def test_captions_of_a_part_are_scored_if_asked(run_evaluate, photos):
    args = ["--compare", photos / "three.jsonl", photos / "two.jsonl", *NO_MODELS, "--draws", "9"]
    args += ["--references", photos / "refs" / "refs.json", "--out", photos / "out"]
    code, _, err = run_evaluate(*args, data=False)
    assert code == 2 and "1 of 3 images" in err and "--only-captioned" in err
    code, out, _ = run_evaluate(*args, "--only-captioned", data=False)
    assert code == 0 and "2 of 3 images" in out
    report = read(photos / "out")
    assert [Path(image["image"]).name for image in report["per_image"]] == ["0.png", "1.png"]
    assert report["settings"]["only_captioned"]
    code, _, err = run_evaluate("--model", "run", "--only-captioned")
    assert code == 2 and "goes with files of captions" in err


def test_pictures_from_elsewhere_are_not_embedded_unless_asked(run_evaluate, photos):
    args = ["--captions", photos / "three.jsonl", "--references", photos / "refs" / "refs.json"]
    args += ["--out", photos / "out", "--draws", "9", *NO_MODELS]
    for more, count in ([], 2), (["--embed-outside"], 3):
        code, _, err = run_evaluate(*args, *more, data=False)
        page = (photos / "out" / "report.html").read_text("utf-8")
        assert code == 0 and page.count("data:image/jpeg;base64") == count
        assert ("1 of 3 pictures lie outside" in err) == (not more)


def test_photos_have_no_rows_of_drawn_scenes(run_evaluate, photos):
    args = ["--captions", photos / "three.jsonl", "--references", photos / "refs" / "refs.json"]
    code, out, _ = run_evaluate(*args, "--out", photos / "out", *NO_MODELS, data=False)
    assert code == 0 and "true" not in out and "drawn" not in out and "missing" not in out
    last = " ".join(out.partition("not measured: ")[2].split())
    assert "CLIP (left out (--clip none))" in last and "METEOR, SPICE (needs " in last
    keys = {metric["key"] for metric in read(photos / "out")["metrics"]}
    assert "cider_d" in keys and not keys & {"true_share", "true_color", "statements"}


@pytest.mark.slow
def test_unreadable_pictures_are_left_out_if_asked(run_evaluate, photos, monkeypatch):
    rows = [{"image": f"{n}.png", "caption": "a photo", "split": "test"} for n in range(3)]
    (photos / "refs" / "captions.jsonl").write_text("\n".join(map(json.dumps, rows)))
    (photos / "refs" / "2.png").write_text("no picture")
    config = photos / "d.toml"
    config.write_text(f'[data]\nformat = "folder"\nroot = "{photos / "refs"}"\n')
    args = ["--model", "run", "--data", config, "--out", photos / "out", *NO_MODELS]
    with monkeypatch.context() as patch:
        patch.setattr(evaluate, "describe", lambda *_: pytest.fail("captioned"))
        code, _, err = run_evaluate(*args, data=False)
    assert code == 2 and "1 of 3 images cannot be read" in err and "data.skip_broken=true" in err
    code, out, err = run_evaluate(*args, "--set", "data.skip_broken=true", data=False)
    assert err.count("cannot be read") == 1
    assert code == 0 and "2 of 3 images" in out and "left out (data.skip_broken)" in err
    assert len(read(photos / "out")["per_image"]) == 2


@pytest.mark.parametrize(
    ("args", "said"),
    [
        (["--out", "one.jsonl"], "one.jsonl/report.json: cannot write: not a directory"),
        (["--out", "one.jsonl/below"], "below/report.json: cannot write: not a directory"),
        (["--out", "taken"], "taken/report.html: it is a folder"),
        (["--draws", "99999999"], "--draws 99999999: of 12 images at most"),
        (["--clip", "nowhere"], "nowhere"),
        (["--gpt2", "nowhere"], "nowhere"),
        (["--judge", "nowhere"], "nowhere"),
        (["--num-beams", "1", "--num-return", "2"], "--num-return is 2, but --num-beams only 1"),
        (["--max-length", "3", "--min-length", "0"], "--max-length is 3, but the prompt alone has"),
    ],
)
def test_what_would_fail_later_is_found_before_the_first_caption(
    run_evaluate, work, monkeypatch, args, said
):
    (work / "taken" / "report.html").mkdir(parents=True, exist_ok=True)
    monkeypatch.setattr(evaluate, "describe", lambda *_: pytest.fail("captioned"))
    code, out, err = run_evaluate("--model", "run", *SMALL, *args, data=False)
    assert code == 2 and said in err.splitlines()[-1] and not out


def test_names_that_are_not_utf8_reach_the_report(run_evaluate, photos):
    name = os.fsdecode(b"\xff\x1b[1m.jsonl")
    (photos / name).write_bytes((photos / "three.jsonl").read_bytes())
    args = ["--captions", photos / name, "--references", photos / "refs" / "refs.json"]
    code, out, _ = run_evaluate(*args, "--out", photos / "out", *NO_MODELS, data=False)
    assert code == 0 and "\x1b" not in out
    assert read(photos / "out")["systems"][0]["label"] == name


@pytest.mark.parametrize(
    ("args", "said"),
    [
        (["--captions", "one.txt"], "expected a .json, .jsonl, .csv or .tsv"),
        (["--captions", "none.jsonl", "--data", "run/config.toml"], "cannot be read"),
        (["--captions", "one.jsonl"], "add --data CONFIG.toml"),
        (["--compare", "one.jsonl", "one.jsonl", "--data", "run/config.toml"], "two different"),
        (["--model", "run", "--set", "train.epochs=3"], "expected data.KEY=VALUE"),
        (["--model", "nowhere"], "no such file or folder"),
        (["--references", "refs.json", "--data", "run/config.toml"], "cannot go with --data"),
        (["--model", "run", "--judge", "nowhere"], "no such file or folder"),
        (["--model", "run", "--device", "nonsense"], "device nonsense: not available"),
    ],
)
def test_mistakes_are_one_line(run_evaluate, args, said):
    model = (
        [] if "--model" in args or args[0] in ("--captions", "--compare") else ["--model", "run"]
    )
    code, _, err = run_evaluate(*args, *model)
    last = err.splitlines()[-1]
    assert code == 2 and last.startswith("evaluate.py: ") and said in last


def test_runs_on_different_data_need_a_word(run_evaluate, work):
    make_run(work / "elsewhere")
    config = (work / "elsewhere" / "config.toml").read_text()
    (work / "elsewhere" / "config.toml").write_text(
        re.sub(r"(\[data\][^[]*?seed = )0", r"\g<1>7", config)
    )
    code, _, err = run_evaluate("--compare", "run", "elsewhere")
    assert code == 2 and "have different test images" in err


@pytest.mark.slow
def test_two_processes_give_the_same_scores(run_evaluate, work):
    same = ["--model", "run", "--batch-size", "1", "--workers", "0", *SMALL, *NO_MODELS]
    assert run_evaluate(*same, "--out", "alone", data=False)[0] == 0
    with open("printed", "w+") as printed:
        words = [ROOT / "evaluate.py", *same, "--out", "shared"]
        ranks = run_ranks(words, 2, stdout=printed, stderr=printed)
    assert [rank.returncode for rank in ranks] == [0, 0], Path("printed").read_text()
    assert Path("printed").read_text().count("shapes test: 12 images") == 1
    alone, shared = read(work / "alone"), read(work / "shared")
    assert alone["per_image"] == shared["per_image"] and alone["metrics"] == shared["metrics"]
