"""The study: runs that are compared differ in one thing only; its page has the numbers found."""

import argparse
import json
import os
import re
import signal
import sys
import zipfile
from dataclasses import asdict, replace
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
sys.path.append(str(ROOT / "configs" / "study"))

from draw import PLOTS, captions_table, draw, sheet, stops_table, table  # noqa: E402
from draw import main as draw_main  # noqa: E402
from plan import CONTINUED, FIRST, RECIPE, SIZES, plan, recipe  # noqa: E402
from preparation import check_same_study, check_set, unpacked  # noqa: E402
from results import as_text, results  # noqa: E402

from smile.config import load_config  # noqa: E402
from smile.errors import UserError  # noqa: E402
from smile.system.files import read_json  # noqa: E402


@pytest.fixture(params=SIZES)
def size(request):
    return replace(SIZES[request.param], epochs=9, more=3, seeds=2, batch_size=64)


@pytest.fixture
def runs(size):
    """Each run of the plan by its name, with its config."""
    planned = plan(size)
    assert len({run.name for run in planned}) == len(planned)
    return {run.name: (run, load_config(run.config, run.settings)) for run in planned}


def test_every_run_begins_after_what_it_needs_and_is_judged_by_another_seed(runs):
    seen = []
    for name, (run, config) in runs.items():
        assert not run.init or run.init in seen
        assert run.init in ("", f"start-{config.train.seed}")
        assert run.judge in ("", f"start-{3 - config.train.seed}")
        assert run.to_score is bool(run.judge) is not name.startswith("start-")
        seen.append(name)
    first = [f"{row.name}-{seed}" for seed in (1, 2) for row in CONTINUED[:FIRST]]
    assert seen[: 2 + len(first)] == ["start-1", "start-2", *first]


def test_all_have_the_same_epochs_data_and_search(runs):
    (_, start), (_, scratch) = runs["start-1"], runs["scratch-1"]
    for _, config in runs.values():
        assert config.generate == start.generate
        assert (config.data, config.vit.image_size) == (start.data, start.vit.image_size)
        assert config.train.batch_size == 64
    assert scratch.train.epochs == start.train.epochs + runs["smile-1"][1].train.epochs


def test_each_continuation_differs_from_smile_in_what_its_row_says(runs):
    smile = runs["smile-1"][1]
    for row in CONTINUED:
        rate = {"train.lr"} if row.rate != 1 else set()
        changed = differences(runs[f"{row.name}-1"][1], smile)
        assert changed == {setting.partition("=")[0] for setting in row.settings} | rate


def test_the_small_captioner_has_the_settings_of_the_study_on_two_cores():
    """It is one run with two phases, where the study has a run for each."""
    planned = {run.name: run for run in plan(SIZES["cpu"])}
    start, end = (
        load_config(planned[n].config, planned[n].settings) for n in ("start-1", "mix-0.1-1")
    )
    small = load_config(ROOT / "configs" / "flickr8k_scratch.toml")
    assert (small.vit, small.decoder) == (start.vit, start.decoder)
    assert (small.tokenizer, small.generate) == (start.tokenizer, start.generate)
    assert replace(small.data, download=start.data.download) == start.data
    epochs = start.train.epochs + end.train.epochs
    assert small.train == replace(start.train, epochs=epochs, seed=0, workers=small.train.workers)
    assert small.loss == replace(
        end.loss,
        mle_epochs=start.train.epochs,
        lr=end.train.lr,
        warmup_steps=end.train.warmup_steps,
    )


def test_each_part_of_the_recipe_is_left_out_alone(size, runs):
    start = runs["start-1"][1]
    planned = {run.name: load_config(run.config, run.settings) for run in recipe(size)}
    assert len(planned) == 2 * len(RECIPE)
    for name, (_, settings) in RECIPE.items():
        changed = differences(planned[f"{name}-1"], start)
        assert changed == {setting.partition("=")[0] for setting in settings}
        assert differences(planned[f"{name}-1"], planned[f"{name}-2"]) == {"train.seed"}


def differences(one, other) -> set[str]:
    """Names of the settings in which two configs differ."""
    others = asdict(other)
    return {
        f"{section}.{key}"
        for section, keys in asdict(one).items()
        for key, value in keys.items()
        if value != others[section][key]
    }


# Before it begins ---------------------------------------------------------------------------------


def test_an_interrupted_unpacking_begins_anew(tmp_path):
    archive, folder = tmp_path / "flickr8k.zip", tmp_path / "data"
    with zipfile.ZipFile(archive, "w") as file:
        file.writestr("images/1.jpg", b"a photo")
        file.writestr("captions.txt", "1.jpg#0\ta dog")
    (folder / "images").mkdir(parents=True)
    (folder / "images" / "1.jpg").write_bytes(b"a ph")
    assert unpacked(archive, folder) == folder
    assert (folder / "images" / "1.jpg").read_bytes() == b"a photo"
    assert (folder / "captions.txt").read_text() == "1.jpg#0\ta dog"
    (folder / "images" / "1.jpg").write_bytes(b"kept")
    unpacked(archive, folder)
    assert (folder / "images" / "1.jpg").read_bytes() == b"kept"


@pytest.mark.parametrize("given", ["train.seed=7", "loss.objective=mle", "train.lr = 1e-3"])
def test_what_runs_differ_in_cannot_be_set_for_all(size, given):
    check_set(plan(size), ["vit.dim=64", 'train.precision="bfloat16"'])
    with pytest.raises(UserError, match=f"--set {given}: the study's runs differ in "):
        check_set(plan(size), [given])


def test_a_folder_takes_one_study_only(size, tmp_path):
    """Fewer runs, and more of them later, are the same study."""
    check_same_study(tmp_path, plan(replace(size, seeds=1)), ["vit.dim=64"])
    check_same_study(tmp_path, plan(size), ["vit.dim=64"])
    for other, given in ((size, []), (replace(size, epochs=10), ["vit.dim=64"])):
        with pytest.raises(UserError, match="start-1 was begun with other settings"):
            check_same_study(tmp_path, plan(other), given)


# When it is told to stop --------------------------------------------------------------------------


def test_what_has_ended_is_collected_when_it_is_told_to_stop(tmp_path, monkeypatch):
    """A run that ended just before SIGTERM is in collected/."""
    for name in ("OMP_NUM_THREADS", "PYTORCH_NVML_BASED_CUDA_CHECK", "TQDM_MININTERVAL"):
        monkeypatch.setenv(name, os.environ.get(name, "1"))  # run.py sets them for its children
    import run

    first = plan(SIZES["cpu"])[0]
    record = {"epoch": 1, "objective": "mle", "train_loss": 2.0, "val_loss": 3.0, "seconds": 3.0}

    def told_to_stop(*_):
        (tmp_path / first.name).mkdir()
        (tmp_path / first.name / "log.jsonl").write_text(json.dumps(record) + "\n")
        os.kill(os.getpid(), signal.SIGTERM)

    monkeypatch.setattr(run, "next_job", told_to_stop)
    args = argparse.Namespace(out=tmp_path, collect=None, budget=0, jobs=1, device="cpu")
    before = signal.getsignal(signal.SIGTERM)
    try:
        with pytest.raises(SystemExit) as stopped:
            run.carry_out(run.Study(args, tmp_path, [first]))
    finally:
        signal.signal(signal.SIGTERM, before)
    assert stopped.value.code == 143
    found = read_json(tmp_path / "collected" / "results.json")
    assert found["systems"][first.name]["epochs"] == [[1, "mle", 2.0, 3.0]]


# Results ------------------------------------------------------------------------------------------


def test_results_hold_what_the_reports_say(tmp_path):
    """A run without scores has its losses; the captioner of each epoch has its row."""
    planned = {run.name: run for run in plan(SIZES["cpu"])}
    record = {"epoch": 1, "objective": "smile", "train_loss": 2.0, "val_loss": None, "seconds": 3.0}
    for name in ("start-1", "smile-1"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "log.jsonl").write_text(json.dumps(record) + "\n")
    said = [("a.jpg", "a dog", 2), ("b.jpg", "the cat sat", 3), ("c.jpg", "a cow", 2)]
    write_report(tmp_path, "smile-1", ["last"], said)
    write_report(tmp_path, "smile-1-epochs", ["last", "001"], said)
    runs = [planned["start-1"], planned["smile-1"]]
    found = results(tmp_path, runs, command="run.py", device="cpu")
    assert json.loads(as_text(found)) == found
    assert found["photos"] == ["a.jpg", "b.jpg", "c.jpg"]
    start, smile = found["systems"]["start-1"], found["systems"]["smile-1"]
    assert start["epochs"] == [[1, "smile", 2.0, None]] and "metrics" not in start
    assert smile["lengths"] == [0, 0, 2, 1] and smile["captions"] == [text for _, text, _ in said]
    assert smile["metrics"] == {"judge_r1": [5.0, 4.0, 6.0], "length": [2.3333, 2.0, None]}
    length = [2.3333, 2.0, None]
    assert smile["stops"] == [
        {"epoch": 0, "metrics": {"length": length, "judge_r1": [5.0, 4.0, 6.0]}},
        {"epoch": 1, "metrics": {"length": length, "judge_r1": [6.0, 5.0, 7.0]}},
    ]


def write_report(out: Path, name: str, labels: list[str], said: list[tuple[str, str, int]]) -> None:
    """What evaluate.py writes, as far as it is read."""
    values = {
        "length": {label: {"value": 7 / 3, "low": 2.0} for label in labels},
        "distinct_words": {label: {"value": None} for label in labels},
        "judge_r1": {
            label: {"value": 5.0 + n, "low": 4.0 + n, "high": 6.0 + n}
            for n, label in enumerate(labels)
        },
    }
    report = {
        "systems": [{"label": label} for label in labels],
        "metrics": [{"key": key, "values": cells} for key, cells in values.items()],
        "per_image": [
            {
                "image": f"photos/{image}",
                "systems": {
                    label: {"caption": text, "scores": {"length": words}} for label in labels
                },
            }
            for image, text, words in said
        ],
    }
    (out / "scores" / name).mkdir(parents=True)
    (out / "scores" / name / "report.json").write_text(json.dumps(report))


def test_the_study_quotes_its_numbers_as_they_are():
    """The tables of docs/flickr8k-study.md are those that draw.py prints."""
    gpu, cpu, recipe = (
        read_json(ROOT / "configs" / "study" / "results" / f"{name}.json")
        for name in ("h200", "cpu", "recipe")
    )
    text = (ROOT / "docs" / "flickr8k-study.md").read_text("utf-8")
    assert captions_table(gpu) in text
    assert all(table(found["systems"]) in text for found in (gpu, cpu, recipe))
    assert stops_table(cpu["systems"]) in text and not stops_table(gpu["systems"])
    for name in re.findall(r'(?:src|srcset)="([^"]+)"', text):
        assert (ROOT / "docs" / name).is_file(), name


def test_tables_have_what_was_measured():
    """--recipe has no judge, no epochs after MLE, and none of the runs whose captions are shown."""
    run = {"meaning": "MLE", "captions": ["a dog"], "metrics": {"length": [2.0, 1.5, 2.5]}}
    systems = {"recipe-1": run, "recipe-2": run}
    rows = "| MLE | 2.0 [1.5, 2.5] |\n| MLE, seed 2 | 2.0 [1.5, 2.5] |"
    assert table(systems) == f"|  | words |\n|---|---|\n{rows}"
    assert not stops_table(systems) and not captions_table({"systems": systems, "photos": ["1"]})


@pytest.mark.parametrize(
    "content", ["{}", '{"systems": {}}', '{"systems": 3}', '{"systems": {"mle-1": {}}}']
)
def test_another_file_than_the_results_is_one_line(content, tmp_path, run_script):
    path = tmp_path / "report.json"
    path.write_text(content)
    code, out, err = run_script(draw_main, path)
    assert (code, out) == (2, "") and len(err.splitlines()) == 1
    assert "expected a file of results/" in err


@pytest.mark.parametrize("place", ["docs/sheet.jpg", "sheet.jpg"])
def test_photos_of_the_data_set_are_not_drawn_where_git_might_commit_them(place):
    with pytest.raises(UserError, match="may not be committed"):
        sheet({"photos": [], "systems": {}}, ROOT, ROOT / place)


@pytest.mark.slow
def test_each_plot_is_drawn_for_light_and_dark_pages(tmp_path):
    scores = {"judge_r1": [5.0, 4.0, 6.0], "length": [2.3, 2.0, 2.5]}
    losses = [[1, "smile", 2.0, 2.1], [2, "smile", 1.9, 2.0]]
    run = {"meaning": "MLE → SMILE", "metrics": scores, "lengths": [0, 1, 3], "epochs": losses}
    epochs = [{"epoch": epoch, "metrics": {"judge_r10": [5.0, 4.0, 6.0]}} for epoch in (0, 1)]
    draw({"smile-1": run | {"stops": epochs}}, tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(
        f"{name}{kind}.png" for name in PLOTS for kind in ("", "-dark")
    )
