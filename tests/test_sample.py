"""`sample.py` as people run it: what it takes, what it prints, what it leaves behind."""

import csv
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from kill_bulk import ROOT, command, kill_and_resume, make_photos, make_run, same_captions
from PIL import Image

import sample


@pytest.fixture(scope="module")
def work(tmp_path_factory):
    """A folder with runs `run` and `other`."""
    folder = tmp_path_factory.mktemp("work")
    make_run(folder / "run")
    make_run(folder / "other", seed=1)
    return folder


@pytest.fixture
def photos(tmp_path, monkeypatch):
    """Nine pictures under photos/, in the working directory."""
    monkeypatch.chdir(tmp_path)
    make_photos(tmp_path / "photos", 9)
    return sorted(str(path) for path in Path("photos").rglob("*.png"))


@pytest.fixture
def run_sample(work, monkeypatch, capfd):
    """Runs main() in this process: (exit status, standard output, standard error)."""

    def run(*args: object, model: str | None = "run") -> tuple[int, str, str]:
        options = ["--model", work / model] if model else []
        monkeypatch.setattr(sys, "argv", [str(word) for word in ["sample.py", *args, *options]])
        with pytest.raises(SystemExit) as ended:
            sample.main()
        sys.stdout.flush()
        return ended.value.code, *capfd.readouterr()

    return run


def records(path: str | Path) -> list[dict]:
    return [json.loads(line) for line in Path(path).read_text("utf-8").splitlines()]


def test_captions_on_standard_output(photos, run_sample):
    code, out, err = run_sample(photos[-1], photos[0])
    assert code == 0 and err == ""
    assert [line.partition(": ")[0] for line in out.splitlines()] == [photos[-1], photos[0]]
    code, out, _ = run_sample("photos", "--json", "--num-return", 2)
    lines = [json.loads(line) for line in out.splitlines()]
    assert [line["image"] for line in lines] == photos
    for caption in lines[0]["captions"]:
        assert caption.keys() == {"text", "logprob", "tokens"}
        total = sum(logprob for _, logprob in caption["tokens"])
        assert caption["logprob"] == pytest.approx(total, abs=1e-4)
    assert len(lines[0]["captions"]) == 2
    _, out, _ = run_sample(photos[-1], "--num-return", 2)
    assert out.count(photos[-1] + ": ") == 2


def test_broken_images_are_reported_and_the_rest_described(photos, run_sample):
    Path("photos/0/zz.jpg").write_bytes(b"no")
    Path("photos/1/empty.jpg").touch()
    Path("photos/notes.txt").write_text("a folder's other files are nobody's mistake")
    code, _, err = run_sample("photos", "--out", "c.jsonl")
    assert code == 1
    errors = records("c.errors.jsonl")
    assert [(error["image"], error["reason"].rpartition(": ")[2]) for error in errors] == [
        ("photos/0/zz.jpg", "not an image file"),
        ("photos/1/empty.jpg", "the file is empty"),
    ]
    assert "sample.py: photos/0/zz.jpg: cannot read this image: not an image file\n" in err
    assert "9 images described" in err and "2 could not be read, see c.errors.jsonl" in err
    assert [record["image"] for record in records("c.jsonl")] == photos
    Path("photos/0/zz.jpg").unlink()
    code, _, err = run_sample("photos", "--out", "c.jsonl")
    assert code == 1 and "9 had their captions already" in err
    assert [error["image"] for error in records("c.errors.jsonl")] == ["photos/1/empty.jpg"]
    code, *_ = run_sample("photos/notes.txt")  # but one that is named is tried
    assert code == 1


def test_csv_has_a_row_per_caption(photos, run_sample):
    code, *_ = run_sample("photos", "--out", "c.csv", "--num-return", 2)
    with open("c.csv", newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert code == 0 and rows[0].keys() == {"image", "caption", "logprob"}
    assert [row["image"] for row in rows] == [name for name in photos for _ in range(2)]


def test_texts_beside_the_images(photos, run_sample):
    Path(photos[0]).with_suffix(".txt").write_text("my own")
    code, out, err = run_sample("photos", "--txt")
    assert code == 0 and out == "" and "1 had their captions already" in err
    assert Path(photos[0]).with_suffix(".txt").read_text() == "my own"
    texts = [Path(name).with_suffix(".txt").read_text() for name in photos[1:]]
    _, out, _ = run_sample(*photos[1:])
    assert [line for text in texts for line in text.splitlines()] == [
        line.rpartition(": ")[2] for line in out.splitlines() if ": " in line
    ]
    _, _, err = run_sample("photos", "--txt", "--out", "c.jsonl")
    assert "9 images described" in err and len(records("c.jsonl")) == 9
    Path(photos[3]).with_suffix(".txt").unlink()
    _, _, err = run_sample("photos", "--txt", "--out", "c.jsonl")
    assert "1 images described" in err and len(records("c.jsonl")) == 9
    assert Path(photos[3]).with_suffix(".txt").read_text() == texts[2]


def test_other_settings_are_refused(photos, run_sample):
    run_sample("photos", "--out", "c.jsonl")
    before = Path("c.jsonl").read_bytes()
    for more, said in (
        (["--num-beams", 1], "num_beams 2 there, 1 now"),
        (["--prompt", ""], 'prompt "a picture of " there, "" now'),
        (["--precision", "bfloat16"], 'precision "float32" there, "bfloat16" now'),
        (["--top-p", 0.5], "seed null there, 0 now"),
    ):
        code, _, err = run_sample("photos", "--out", "c.jsonl", *more)
        assert code == 2 and said in err and err.count("\n") == 1
    code, _, err = run_sample("photos", "--out", "c.jsonl", model="other")
    assert code == 2 and "weights" in err
    assert Path("c.jsonl").read_bytes() == before
    same = ["--batch-size", 2, "--workers", 0, "--num-beams", 2, "--seed", 4]
    code, _, err = run_sample("photos", "--out", "c.jsonl", *same)
    assert code == 0 and "9 had their captions already" in err
    code, *_ = run_sample("photos", "--out", "c.jsonl", "--overwrite", model="other")
    assert code == 0 and Path("c.jsonl").read_bytes() != before


def test_two_models_side_by_side_on_a_sheet(photos, run_sample, work):
    compare = ["--compare", work / "run", work / "other"]
    code, out, _ = run_sample("photos", *compare, "--sheet", "sheet.png", model=None)
    expected = {}
    for name in ("run", "other"):
        _, alone, _ = run_sample(*photos, "--json", model=name)
        for line in alone.splitlines():
            record = json.loads(line)
            lines = expected.setdefault(record["image"], [record["image"]])
            lines.append(f"  {name}: {record['captions'][0]['text']}")
    assert code == 0 and out == "".join("\n".join(e) + "\n" for e in expected.values())
    assert Image.open("sheet.png").width > 400
    run_sample("photos", *compare, "--out", "c.csv", model=None)
    assert Path("c.csv").read_text("utf-8").startswith("image,model,caption,logprob\n")
    code, _, err = run_sample("photos", "--compare", work / "run", work / "run", model=None)
    assert code == 2 and "two different models" in err


def test_a_sheet_shows_the_first_images(photos, run_sample, monkeypatch):
    monkeypatch.setattr(sample, "SHEET_IMAGES", 4)
    drawn = []
    monkeypatch.setattr(sample, "contact_sheet", lambda *args: drawn.append(args))
    _, _, err = run_sample("photos", "--sheet", "sheet.png")
    ((images, lines, _),) = drawn
    assert len(images) == len(lines) == 4 and "first 4 images, 5 more not shown" in err


def test_sampling_repeats_with_the_seed(photos, run_sample):
    first = run_sample("photos", "--top-p", 0.9, "--seed", 3)
    assert run_sample("photos", "--top-p", 0.9, "--seed", 3, "--batch-size", 2) == first
    assert run_sample("photos", "--top-p", 0.9, "--seed", 4) != first


def test_what_is_named_twice_is_described_once(photos, run_sample):
    code, out, err = run_sample("photos", "photos/*/*.png", "--json")
    assert code == 0 and out.count("\n") == 9 and "9 named again, and left out" in err


@pytest.mark.parametrize(
    ("args", "said"),
    [
        (["https://example.org/a.jpg"], "is a URL"),
        (["a.jpg", "--out", "c.txt"], r".jsonl or .csv"),
        (["a.jpg", "--num-beams", "0"], "num_beams = 0"),
        (["a.jpg", "--device", "nonsense"], "device nonsense: not available"),
    ],
)
def test_mistakes_are_one_line(photos, run_sample, args, said):
    code, _, err = run_sample(*args)
    assert code == 2 and err.count("\n") == 1 and said in err


def test_help_tells_the_defaults(run_sample):
    code, out, _ = run_sample("--help", model=None)
    assert code == 0
    for option, default in (("--num-beams", "(3)"), ("--max-length", "(30)"), ("--top-p", "(1.0)")):
        assert default in out.split(f"\n  {option} ")[1].split("\n  --")[0]


def test_a_reader_that_has_had_enough_ends_it_quietly(photos, work):
    words = [sys.executable, ROOT / "sample.py", "photos", "--model", work / "run"]
    read, write = os.pipe()
    os.close(read)
    with os.fdopen(write) as closed:
        done = subprocess.run(words, stdout=closed, stderr=subprocess.PIPE, check=False)
    assert done.stderr == b"" and done.returncode == 141


def test_two_processes_give_the_same_file(photos, work, run_sample):
    run_sample("photos", "--out", "alone.jsonl")
    Path("photos/0/zz.jpg").write_bytes(b"no")
    words = command(Path("photos"), work / "run", Path("c.jsonl"), processes=2)
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    done = subprocess.run(words, capture_output=True, text=True, env=environment, check=False)
    assert same_captions(Path("c.jsonl"), Path("alone.jsonl"))
    assert [error["image"] for error in records("c.errors.jsonl")] == ["photos/0/zz.jpg"]
    assert done.returncode == 1 and "9 images described" in done.stderr
    assert not list(Path().glob("*.part-*"))


def test_nothing_is_lost_when_killed(tmp_path):
    progress = kill_and_resume(tmp_path, kills=3, num_photos=150)
    assert max(progress) > 0


def test_explain_draws_one_image(photos, run_sample):
    code, out, err = run_sample(photos[0], "--explain", "words.png")
    assert code == 0, err
    assert out.startswith(f"{photos[0]}: ")
    assert Image.open("words.png").width > 300
    code, _, err = run_sample("photos", "--explain", "x.png")
    assert code == 2 and "expected one image" in err
    code, _, err = run_sample("missing.jpg", "--explain", "x.png")
    assert code == 2 and "missing.jpg" in err
    assert not Path("x.png").exists()
