"""Training on folders as people have them: broken pictures, odd names, few images, no split."""

import json
import os
import shutil
from pathlib import Path

import pytest
import torch
from helpers import SMALL
from PIL import Image

import train
from smile.config import load_config
from smile.data.load import load_examples
from smile.errors import UserError
from smile.training import estimate
from smile.training.checkpointing.checkpoints import Checkpoints
from smile.training.splits import load_splits
from smile.weights.load import load

CONFIG = Path(__file__).parents[2] / "configs" / "shapes.toml"
TINY = (
    *SMALL, "data.format=folder", "data.augment=false", "generate.num_beams=1",
    "generate.max_length=8", "train.epochs=1", "loss.mle_epochs=0",
)  # fmt: skip
TWO_PHASES = ("train.epochs=2", "loss.mle_epochs=1")


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


@pytest.mark.slow
@pytest.mark.parametrize("once", [False, True], ids=["read anew", "read once"])
def test_broken_pictures_are_left_out_everywhere_on_request(once, run):
    """In training, validation and test: each is said and counted once, and the run ends."""
    broken = [f"photos/{split}/0.png" for split in ("train", "val", "test")]
    for path in broken:
        break_picture(path)
    more = ("data.cache=cache", "train.freeze=['vit']") if once else TWO_PHASES
    settings = ("data.skip_broken=true", "train.caption_images=2", *more)
    status, printed, errors = run(*settings)
    assert status == 0, errors
    for path in broken:
        assert printed.count(f"skipped: {path}: cannot read this image") == 1
    assert {record["broken_images"] for record in log()} == {3}
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


@pytest.mark.slow
@pytest.mark.parametrize("place", ["val", "test"])
def test_a_picture_that_breaks_later_loses_no_step(place, run, monkeypatch):
    step = train.Trainer.step

    def breaking(trainer, *args):
        break_picture(f"photos/{place}/1.png")
        return step(trainer, *args)

    with monkeypatch.context() as patch:
        patch.setattr(train.Trainer, "step", breaking)
        status, _, errors = run()
    assert status == 2 and errors.count("\n") == 1
    assert f"photos/{place}/1.png" in errors and "data.skip_broken = true" in errors
    done = (progress()["epoch"], progress()["step"])
    assert done == ((0, 1) if place == "val" else (1, 0))  # 4 images, 5 a batch
    assert Path("run/last/model.safetensors").exists() == (place == "test")
    # What cannot be read is no other data: the option may change.
    status, printed, errors = run("data.skip_broken=true", resume=True)
    assert status == 0, errors
    assert "on 4 test images:" in printed or place == "test"
    assert log()[0]["broken_images"] == (place == "val")


def test_a_run_without_a_captioner_yet_is_called_just_that(run, monkeypatch):
    def stop(trainer, *args):
        raise UserError("stopped")

    monkeypatch.setattr(train.Trainer, "step", stop)
    run()
    with pytest.raises(UserError, match=r"^run: an interrupted run without a captioner yet: .*"):
        load("run")


@pytest.mark.slow
def test_an_epoch_is_saved_before_its_captions(run, monkeypatch):
    def fail(*args, **options):
        raise UserError("no caption today")

    monkeypatch.setattr(train.report, "describe", fail)
    status, _, errors = run()
    assert status == 2 and errors == "train.py: no caption today\n"
    assert (progress()["epoch"], progress()["step"]) == (0, 1)
    assert Path("run/last/model.safetensors").exists()


@pytest.mark.slow
def test_pictures_that_break_meanwhile_are_left_out_on_request(run, monkeypatch):
    step = train.Trainer.step

    def breaking(trainer, *args):
        for place in ("val", "test"):
            break_picture(f"photos/{place}/1.png")
        return step(trainer, *args)

    monkeypatch.setattr(train.Trainer, "step", breaking)
    status, printed, errors = run("data.skip_broken=true")
    assert status == 0, errors
    for place in ("val", "test"):
        assert printed.count(f"skipped: photos/{place}/1.png: cannot read this image") == 1
    assert len(log()[0]["captions"]) == 3 and log()[0]["broken_images"] == 1
    assert Path("run/comparison.png").exists()


@pytest.mark.slow
def test_a_broken_picture_met_in_training_loses_no_step(run, monkeypatch):
    step = train.Trainer.step

    def breaking(trainer, *args):
        for i in range(4):
            break_picture(f"photos/train/{i}.png")
        return step(trainer, *args)

    with monkeypatch.context() as patch:
        patch.setattr(train.Trainer, "step", breaking)
        status, printed, errors = run("train.batch_size=1", "train.accumulate=1")
    assert status == 2 and errors.count("\n") == 1 and "set data.skip_broken = true" in errors
    assert "stopped by an error after epoch 1, step 1, all saved; resume with:" in printed
    assert progress()["step"] == 1
    settings = ("train.batch_size=1", "train.accumulate=1", "data.skip_broken=true")
    status, printed, errors = run(*settings, resume=True)
    assert status == 0 and log()[0]["broken_images"] == 3, errors


# Names --------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_a_name_that_is_not_utf8_trains_like_any_other(run):
    for suffix in (".png", ".txt"):
        os.rename(f"photos/val/0{suffix}".encode(), b"photos/val/\xff\xfe" + suffix.encode())
    status, printed, errors = run()
    assert status == 0, errors
    name = os.fsdecode(b"photos/val/\xff\xfe.png")
    assert name in log()[0]["captions"]
    status, printed, errors = run(resume=True)
    assert status == 0 and "is finished" in printed


# Known before the first step ----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("setting", "said"),
    [
        ("generate.max_length=3", "generate.max_length is 3, but the prompt alone has "),
        ("generate.forbid=['dog', '']", 'generate.forbid = "": expected a word or a phrase'),
        ("generate.num_return=5", "generate.num_return is 5, but num_beams only 1"),
        ("generate.min_length=99", "generate.min_length = 99: expected at most generate.max_"),
        ("data.max_tokens=2", "data.max_tokens = 2: expected at least "),
        ("decoder.dim=12000", "GB to train, but this machine has "),
    ],
)
def test_what_cannot_end_well_does_not_begin(setting, said, run, monkeypatch):
    monkeypatch.setattr(train.Trainer, "step", None)
    monkeypatch.setattr(estimate.os, "sysconf", lambda name: 2**16)  # 4 GB
    more = ("decoder.mlp_dim=12000",) if "dim" in setting else ()
    status, _, errors = run(setting, *more)
    assert status == 2 and errors.count("\n") == 1 and said in errors
    assert not Path("run").exists()  # nothing is left of a failed start


@pytest.mark.slow
def test_lengths_are_compared_with_the_weights_a_run_begins_with(run):
    """Whose longest text need not be the config's."""
    status, _, errors = run("decoder.max_positions=40")
    assert status == 0, errors
    os.rename("run", "before")
    status, _, errors = run("model.init=before", "generate.max_length=60")
    assert status == 2
    assert "before: generate.max_length = 60: expected at most decoder.max_positions = 40" in errors


def test_a_caption_that_can_be_none_is_refused(run):
    Path("photos/train/0.txt").write_text("x" * 1_000_000)
    status, _, errors = run()
    assert status == 2 and errors.count("\n") == 1
    assert "photos/train/0.txt: a caption of 1000000 characters, expected at most 10000" in errors


def test_too_few_images_and_too_long_a_warm_up_are_said(run):
    status, printed, _ = run(
        *("train.warmup_steps=100", "loss.warmup_steps=2", "train.precision=float32"),
        *TWO_PHASES,
        more=("--dry-run",),
    )
    few, warm_up, later = printed.splitlines()[-3:]
    assert status == 0
    assert few == (
        "4 images: far too few to learn to describe photos from scratch; fine-tune instead: "
        "python train.py configs/flickr8k.toml --set data.format=folder --set data.root=photos"
    )
    assert warm_up.startswith(
        "train.warmup_steps = 100: longer than the phase of mle (1 step), whose learning rate ends "
        "at 1.0e-05 and never reaches 0.001"
    )
    assert later.startswith("loss.warmup_steps = 2: longer than the phase of smile (1 step)")


# No validation, no test ---------------------------------------------------------------------------


@pytest.mark.slow
def test_a_folder_without_validation_keeps_the_last_epoch(run):
    shutil.rmtree("photos/val")
    status, printed, errors = run(*TWO_PHASES)
    assert status == 0, errors
    assert printed.count("no validation images: the captioner of the last epoch is kept") == 1
    assert [record["val_loss"] for record in log()] == [None, None]
    weights = [Path("run", place, "model.safetensors").read_bytes() for place in ("", "last")]
    assert weights[0] == weights[1] and "on 4 test images" in printed
    drawn = {path.name for path in Path("run").glob("*.png")}
    assert drawn == {"comparison.png", "loss.png"}


def test_scenes_can_do_without_validation_too():
    config = load_config(CONFIG, ["data.num_val=0", "data.num_test=0", "data.num_train=2"])
    assert {split: len(part) for split, part in load_splits(config).items()} == {
        "train": 2, "val": 0, "test": 0
    }  # fmt: skip
    with pytest.raises(UserError, match=r"data\.num_test = 0: the test split is empty"):
        load_examples(config.data, "test")


@pytest.mark.slow
def test_fractions_of_zero_train_on_everything(run):
    for split in ("train", "val"):
        for path in Path("photos", split).iterdir():
            path.rename(f"photos/{split}{path.name}")
        Path("photos", split).rmdir()
    shutil.rmtree("photos/test")
    settings = ("data.val_fraction=0", "data.test_fraction=0")
    status, printed, errors = run(*settings)
    assert status == 0, errors
    assert "images: 8 train, 0 val, 0 test" in printed
    assert "epoch 1/1 smile: loss " in printed and "validation" not in printed.split("epoch 1")[1]
    assert [path.name for path in Path("run").glob("*.png")] == ["loss.png"]
    status, printed, _ = run(*settings, resume=True)
    assert status == 0 and "is finished: 1 of 1 epoch done" in printed
    status, printed, errors = run(*settings, more=("--dry-run",))
    assert status == 0 and "none: no validation images" in printed, errors


# Fine-tuning --------------------------------------------------------------------------------------


@pytest.mark.slow
def test_a_fine_tuning_is_compared_with_what_it_began_with(run):
    status, _, errors = run()
    assert status == 0, errors
    os.rename("run", "first")
    status, printed, errors = run("model.init=first")
    assert status == 0, errors
    before, after = (line for line in printed.splitlines() if "words a caption" in line[:40])
    assert before.startswith("  before ") and after.startswith("  SMILE ")
    os.rename("run", "run_of_one_phase")
    status, printed, errors = run("model.init=first", "loss.mle_epochs=1", "train.epochs=2")
    assert status == 0, errors
    said = [line.split()[0] for line in printed.splitlines() if "words a caption" in line[:40]]
    assert said == ["before", "MLE", "SMILE"]
    shutil.rmtree("run")
    os.rename("run_of_one_phase", "run")
    shutil.rmtree("first")
    Path("run/comparison.png").unlink()
    status, printed, _ = run("model.init=first", resume=True)
    assert status == 0 and "no captions from before training: first: no such file" in printed


# Memory -------------------------------------------------------------------------------------------


def test_a_gpu_that_is_too_small_is_said(run, monkeypatch):
    def too_much(trainer, *args):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB.")

    monkeypatch.setattr(train.Trainer, "step", too_much)
    status, _, errors = run()
    assert status == 2 and errors.count("\n") == 1
    assert "train.batch_size = 5: try 2 with train.accumulate = 4" in errors
    assert "the last good checkpoint is run/checkpoints/000001.pt" in errors
