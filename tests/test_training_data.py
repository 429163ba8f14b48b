"""Training on folders as people have them: broken pictures, odd names, few images, no split."""

import json
import os
import shutil
from pathlib import Path

import pytest
from PIL import Image
from several_processes import SMALL

import train
from smile.training.checkpoints import Checkpoints

CONFIG = Path(__file__).parent.parent / "configs" / "shapes.toml"
TINY = (*SMALL, "data.format=folder", "data.augment=false", "generate.num_beams=1")


@pytest.fixture(scope="module")
def photos(tmp_path_factory) -> Path:
    """Folders train, val and test of four photos each, a .txt beside each."""
    root = tmp_path_factory.mktemp("photos")
    for split in ("train", "val", "test"):
        (root / split).mkdir()
        for i in range(4):
            Image.new("RGB", (24, 24), (60 * i, 90, 200)).save(root / split / f"{i}.png")
            (root / split / f"{i}.txt").write_text(f"a dog number {i} runs")
    return root


@pytest.fixture
def run(run_main, photos, tmp_path, monkeypatch):
    """Trains a tiny captioner on photos/ in a run folder run/: (status, output, errors)."""
    monkeypatch.chdir(tmp_path)
    shutil.copytree(photos, "photos")

    def run(*settings: str, resume: bool = False, more: tuple[str, ...] = ()):
        options = [w for s in (*TINY, "data.root=photos", *settings) for w in ("--set", s)]
        return run_main(CONFIG, "--out", "run", *options, *["--resume"] * resume, *more)

    return run


def break_picture(path: str) -> None:
    Path(path).write_bytes(b"\xff\xd8 not a picture")


def log() -> list[dict]:
    return [json.loads(line) for line in Path("run/log.jsonl").read_text("utf-8").splitlines()]


def progress() -> dict:
    checkpoints = Checkpoints(Path("run"))
    return checkpoints.load(checkpoints.choose()[0])["progress"]


# Broken pictures ----------------------------------------------------------------------------------


@pytest.mark.parametrize("how", ["plain", "cache", "frozen"])
def test_broken_pictures_are_left_out_everywhere_on_request(how, run):
    """In training, validation and test: each is said and counted once, and the run ends."""
    broken = [f"photos/{split}/0.png" for split in ("train", "val", "test")]
    for path in broken:
        break_picture(path)
    more = {"plain": (), "cache": ("data.cache=cache",), "frozen": ("train.freeze=['vit']",)}[how]
    settings = ("data.skip_broken=true", "train.caption_images=2", *more)
    status, printed, errors = run(*settings)
    assert status == 0, errors
    for path in broken:
        assert printed.count(f"skipped: {path}: cannot read this image") == 1
    assert [record["broken_images"] for record in log()] == [3, 3]
    # Others take their places.
    assert list(log()[0]["captions"]) == ["photos/val/1.png", "photos/val/2.png"]
    assert "on 2 test images:" in printed
    assert Path("run/comparison.png").exists()
    status, printed, _ = run(*settings, more=("--dry-run",))
    assert status == 0 and "validation  1 batch" in printed


@pytest.mark.parametrize("name", ["val/0", "val/3", "test/1"])
def test_what_will_be_read_later_is_opened_before_the_first_step(name, run, monkeypatch):
    """Of val everything, as validation reads it; of test what is shown."""
    break_picture(f"photos/{name}.png")
    monkeypatch.setattr(train.Trainer, "step", None)
    status, _, errors = run("train.caption_images=2")
    assert status == 2 and errors.count("\n") == 1
    assert f"photos/{name}.png: cannot read this image: " in errors
    assert "replace or remove it, or set data.skip_broken = true" in errors


@pytest.mark.parametrize("place", ["val", "test"])
def test_a_picture_that_breaks_later_loses_no_step(place, run, monkeypatch):
    step = train.Trainer.step

    def breaking(trainer, *args):
        break_picture(f"photos/{place}/1.png")
        return step(trainer, *args)

    with monkeypatch.context() as patch:
        patch.setattr(train.Trainer, "step", breaking)
        status, _, errors = run("train.epochs=1", "loss.mle_epochs=0")
    assert status == 2 and errors.count("\n") == 1
    assert f"photos/{place}/1.png" in errors and "data.skip_broken = true" in errors
    done = (progress()["epoch"], progress()["step"])
    assert done == ((0, 1) if place == "val" else (1, 0))  # 4 images, 5 a batch
    assert Path("run/last/model.safetensors").exists() == (place == "test")
    # What cannot be read is no other data: the option may change.
    status, printed, errors = run(
        "train.epochs=1", "loss.mle_epochs=0", "data.skip_broken=true", resume=True
    )
    assert status == 0, errors
    assert "on 4 test images:" in printed or place == "test"
    assert log()[0]["broken_images"] == (place == "val")


# Names --------------------------------------------------------------------------------------------


def test_a_name_that_is_not_utf8_trains_like_any_other(run):
    for suffix in (".png", ".txt"):
        os.rename(f"photos/val/0{suffix}".encode(), b"photos/val/\xff\xfe" + suffix.encode())
    status, printed, errors = run()
    assert status == 0, errors
    name = os.fsdecode(b"photos/val/\xff\xfe.png")
    assert name in log()[0]["captions"]
    status, printed, errors = run(resume=True)
    assert status == 0 and "is finished" in printed
