"""What a newcomer types first: a run of drawn scenes is tried on drawn scenes, photos are not."""

import json
import os
import re
import shlex
import shutil
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from helpers import ROOT, make_run
from PIL import Image

import evaluate
import sample
from smile.config import DataConfig, load_config
from smile.data import __main__ as drawing
from smile.data.load import load_examples
from smile.data.shapes import check_caption, make_scenes, true_statements
from smile.evaluation.image_set import ImageSet
from smile.training.report import command_to_try
from smile.training.setup import make_captioner, recorded
from smile.weights import load as loading
from smile.weights.run_folder import load_run, run_config, save_run


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    return load_run(make_run(tmp_path_factory.mktemp("work") / "run"))


@pytest.fixture
def make(tiny, tmp_path, monkeypatch):
    """Writes runs/NAME: what it says it was trained on, its data, its log, its age."""
    monkeypatch.chdir(tmp_path)

    def run(name, *, trained_on="unknown", data="shapes", log=False, age=0, old=False) -> Path:
        folder = Path("runs", name)
        model = replace(tiny.config.model, trained_on=trained_on)
        data = DataConfig(format=data, root="photos" if data != "shapes" else "")
        kept, tiny.config = tiny.config, replace(tiny.config, model=model, data=data)
        try:
            save_run(folder, tiny)
        finally:
            tiny.config = kept
        if old:  # written before the record was
            text = (folder / "config.toml").read_text()
            (folder / "config.toml").write_text(re.sub(r"trained_on = .*\n", "", text))
        if log:
            (folder / "log.jsonl").write_text("{}\n")
        os.utime(folder / "model.safetensors", (1e9 - age, 1e9 - age))
        return folder

    return run


def run_main(script, monkeypatch, capfd, *args: object) -> tuple[int, str, str]:
    monkeypatch.setattr(sys, "argv", [f"{script.__name__}.py", *map(str, args)])
    try:
        script.main()
        code = 0
    except SystemExit as ended:
        code = ended.code
    sys.stdout.flush()
    return code, *capfd.readouterr()


# --- what a captioner was trained on -----------------------------------------------------------


@pytest.mark.parametrize(
    ("folder", "expected"),
    [
        ({"trained_on": "photos", "log": True}, "photos"),
        ({"trained_on": "shapes"}, "shapes"),
        ({"old": True}, "unknown"),  # a BLIP converted: its format is "shapes" by default
        ({"old": True, "log": True}, "shapes"),
        ({"old": True, "data": "folder", "log": True}, "photos"),
    ],
)
def test_what_a_run_was_trained_on_is_recorded_or_worked_out(make, folder, expected):
    path = make("a", **folder)
    assert run_config(path).model.trained_on == expected
    loaded = loading.load(path)
    assert loaded.config.model.trained_on == expected
    save_run("moved/elsewhere", loaded)  # as `convert` does, without the log
    assert run_config("moved/elsewhere").model.trained_on == expected


def test_the_parts_of_an_older_run_share_its_log(make, monkeypatch):
    run = make("a", old=True, log=True)
    for part in ("mle", "last", "copy"):
        shutil.copytree(make("b", old=True), run / part)
    found = {part: run_config(run / part).model.trained_on for part in ("mle", "last", "copy")}
    assert found == {"mle": "shapes", "last": "shapes", "copy": "unknown"}
    monkeypatch.chdir(run / "mle")
    assert run_config(".").model.trained_on == "shapes"


@pytest.mark.parametrize("before", ["unknown", "shapes", "photos"])
def test_training_records_what_it_trains_on(make, before):
    start = make("start", trained_on=before)
    for data, expected in (("shapes", "shapes"), ("folder", "photos")):
        settings = [f"data.format={data}", "data.root=photos", f"model.init={start}"]
        config = load_config(start / "config.toml", settings)
        captioner = make_captioner(recorded(config), [])
        assert captioner.config.model.trained_on == expected


# --- what is chosen for photos -----------------------------------------------------------------


def test_captioners_of_drawn_scenes_are_not_chosen_for_photos(make):
    make("drawn", trained_on="shapes")
    make("drawn-older", old=True, log=True, age=5)
    source, why = loading.default_source(for_photos=True)
    assert source == "blip-base" and "runs/drawn knows only drawn scenes" in why
    assert loading.default_source() == ("runs/drawn", "the newest run under runs/")
    make("converted", old=True, age=20)
    make("photos", trained_on="photos", age=10)
    assert loading.default_source(for_photos=True)[0] == "runs/photos"
    shutil.rmtree("runs/photos")
    assert loading.default_source(for_photos=True)[0] == "runs/converted"


def _fifo(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


@pytest.mark.parametrize(
    "damage",
    [
        lambda run: (run / "config.toml").write_bytes(b"\xff\xfe[model"),
        lambda run: (run / "config.toml").write_text("[model]\ntrained_on = 3"),
        lambda run: (run / "model.safetensors").write_bytes(b"cut"),
        lambda run: (run / "model.safetensors").write_bytes(b""),
        lambda run: (run / "vocab.txt").write_bytes(b"\xff"),
        lambda run: _fifo(run / "config.toml"),
        lambda run: _fifo(run / "model.safetensors"),
        lambda run: (run / "vocab.txt").unlink(),
        lambda run: run.chmod(0),
        lambda run: (shutil.rmtree(run), run.symlink_to(run.name)),
    ],
)
@pytest.mark.parametrize("for_photos", [False, True])
def test_a_damaged_run_does_not_spoil_the_choice(make, damage, for_photos):
    make("sound", trained_on="photos", age=9)
    damage(make("broken", trained_on="photos"))
    os.utime("runs/sound", (1, 1))
    source, why = loading.default_source(for_photos=for_photos)
    if os.geteuid() or damage.__code__.co_names != ("chmod",):  # root may look into everything
        assert source == "runs/sound"
    if "left out" in why:
        assert "runs/broken" in why


@pytest.mark.slow
def test_sample_takes_no_captioner_of_drawn_scenes_unless_it_is_named(make, monkeypatch, capfd):
    make("drawn", trained_on="shapes")
    make("drawn-too", trained_on="shapes", age=5)
    Image.new("RGB", (20, 20), "red").save("photo.jpg")
    with monkeypatch.context() as patched:
        patched.setattr(sample, "load", lambda source, **_: pytest.fail(f"loads {source}"))
        with pytest.raises(pytest.fail.Exception, match="loads blip-base"):
            run_main(sample, patched, capfd, "photo.jpg")
    make("photos", trained_on="photos", age=10)
    capfd.readouterr()
    code, out, err = run_main(sample, monkeypatch, capfd, "photo.jpg")
    assert code == 0 and out.startswith("photo.jpg: ") and "--model given: runs/photos" in err
    code, out, err = run_main(sample, monkeypatch, capfd, "photo.jpg", "--model", "runs/drawn")
    assert code == 0 and out.startswith("photo.jpg: ")
    assert err.count("\n") == 1 and "runs/drawn: trained on drawn scenes" in err
    both = ("--compare", "runs/drawn", "runs/drawn-too")
    code, _, err = run_main(sample, monkeypatch, capfd, "photo.jpg", *both)
    assert code == 0 and err.count("\n") == 1 and "runs/drawn and runs/drawn-too: trained" in err


def test_evaluate_keeps_the_newest_run(make, monkeypatch):
    make("drawn", trained_on="shapes")
    make("photos", trained_on="photos", age=10)
    monkeypatch.setattr(sys, "argv", ["evaluate.py"])
    assert evaluate.find_sources(evaluate.parse_options()) == ["runs/drawn"]


# --- drawing scenes ----------------------------------------------------------------------------


def test_drawn_scenes_are_a_training_folder_and_references(tmp_path, monkeypatch, capfd):
    monkeypatch.chdir(tmp_path)
    code, out, _ = run_main(drawing, monkeypatch, capfd, "draw", "scenes", "--count", 12)
    assert code == 0 and "python sample.py scenes" in out
    expected = make_scenes("test", 12, image_size=240)
    names = [f"{number:02}.png" for number in range(12)]
    assert sorted(os.listdir("scenes")) == [*names, "captions.jsonl"]
    rows = [json.loads(line) for line in Path("scenes/captions.jsonl").read_text().splitlines()]
    for name, row, scene in zip(names, rows, expected, strict=True):
        assert Image.open(f"scenes/{name}").tobytes() == scene.read().tobytes()
        assert row["image"] == name and row["captions"] == list(scene.captions)
        assert row["statements"] == true_statements(scene)
    data = DataConfig(format="folder", root="scenes")
    parts = [load_examples(data, split) for split in ("train", "val", "test")]
    assert sum(map(len, parts)) == 12 and all(parts)
    images = ImageSet.from_references("scenes/captions.jsonl")
    assert images.names == [f"scenes/{name}" for name in names]
    assert images.references == [scene.captions for scene in expected]


def test_the_true_statements_are_all_that_can_be_said():
    for scene in make_scenes("test", 100):
        statements = true_statements(scene)
        several = len(scene.objects) > 1
        assert len(statements) == len(set(statements)) == 5 * len(scene.objects) + 2 + several
        said = [s for text in scene.captions for s in check_caption(text, scene)]
        assert {s.text for s in said} <= {*statements}


@pytest.mark.parametrize(
    ("args", "words"),
    [
        (["full"], "full is not an empty folder"),
        (["file"], "file is not an empty folder"),
        (["file/new"], "file"),
        (["new", "--count", 0], "--count 0: expected a number from 1"),
        (["new", "--size", 5], "--size 5: expected a number from 16"),
        (["new", "--seed", -1], "--seed -1"),
    ],
)
def test_what_cannot_be_drawn_is_said_in_a_line(tmp_path, monkeypatch, capfd, args, words):
    monkeypatch.chdir(tmp_path)
    Path("full").mkdir()
    Path("full", "mine.png").touch()
    Path("file").touch()
    code, _, err = run_main(drawing, monkeypatch, capfd, "draw", *args)
    assert code == 2 and err.count("\n") == 1 and words in err
    assert os.listdir("full") == ["mine.png"] and not Path("new").exists()


def test_a_seed_gives_other_scenes(tmp_path, monkeypatch, capfd):
    monkeypatch.chdir(tmp_path)
    for seed in (0, 1):
        run_main(drawing, monkeypatch, capfd, "draw", seed, "--count", 2, "--seed", seed)
    assert Path("0/captions.jsonl").read_bytes() != Path("1/captions.jsonl").read_bytes()


@pytest.mark.slow
def test_the_last_line_of_a_run_is_a_command_that_works(make, monkeypatch, capfd):
    run = make("drawn scenes", trained_on="shapes")
    first, second = command_to_try(run, make_scenes("test", 1)[0]).split(" && ")
    for command, script in ((first, drawing), (second, sample)):
        words = shlex.split(command)
        named = ["python", "-m", "smile.data"] if script is drawing else ["python", "sample.py"]
        assert words[: len(named)] == named
        code, out, _ = run_main(script, monkeypatch, capfd, *words[len(named) :])
        assert code == 0
    assert out.count("\n") == 12
    assert (ROOT / "sample.py").is_file()
    [photo] = load_examples(DataConfig(format="folder", root=str(run / "scenes")), "test")
    command = command_to_try(run, photo)
    assert shlex.split(command)[2] == photo.name and Path(photo.name).is_file()
