"""The scripts as a user runs them: train a tiny captioner, resume it, sample from it."""

import json
import math
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from helpers import ONE_LAYER, ROOT, config_of, walks_by_chance
from PIL import Image
from safetensors.torch import load_file
from zygote import zygote

import train
from smile.config import load_config
from smile.data.shapes import check_caption
from smile.errors import UserError
from smile.system.files import write_atomically
from smile.training.report import summarise, summary_line
from smile.training.schedule import Phase, learning_rate
from smile.training.setup import make_captioner
from smile.training.splits import load_splits
from smile.weights.run_folder import kept_captioners, load_run


def run(script: str, *args, cwd: Path, **environment: str) -> subprocess.CompletedProcess:
    words = [str(word) for word in (ROOT / script, *args)]
    return zygote().run(words, cwd=cwd, env=os.environ | environment)


def run_anew(script: str, *args, cwd: Path) -> subprocess.CompletedProcess:
    """In a Python that imports everything itself, as a user's does."""
    command = [sys.executable, str(ROOT / script), *map(str, args)]
    return subprocess.run(
        command,
        cwd=cwd,
        capture_output=True,
        text=True,
        timeout=120,
    )


def settings(*more: str) -> list[str]:
    return [word for setting in [*ONE_LAYER, *more] for word in ("--set", setting)]


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A folder with a two-epoch run (MLE, then SMILE) at runs/shapes; and what it printed."""
    folder = tmp_path_factory.mktemp("work")
    config = ROOT / "configs" / "shapes.toml"
    done = run("train.py", config, *settings("train.epochs=2", "loss.mle_epochs=1"), cwd=folder)
    assert done.returncode == 0, done.stderr
    assert "%|" not in done.stderr  # a progress bar, which no log file should hold
    return folder, done.stdout


@pytest.mark.slow
def test_a_run_leaves_everything(trained):
    folder, printed = trained
    shapes = folder / "runs" / "shapes"
    for name in ("model.safetensors", "config.toml", "vocab.txt", "log.jsonl"):
        assert (shapes / name).stat().st_size > 0
    for name in ("samples.png", "comparison.png", "loss.png"):
        assert Image.open(shapes / name).width > 200
    records = [json.loads(line) for line in (shapes / "log.jsonl").read_text().splitlines()]
    assert [record["objective"] for record in records] == ["mle", "smile"]
    assert all(0 <= record["true_share"] <= 1 for record in records)
    assert 'trained_on = "shapes"' in (shapes / "config.toml").read_text()
    assert printed.rstrip().endswith("python sample.py runs/shapes/scenes --model runs/shapes")
    assert "MLE " in printed and "SMILE " in printed and "statements true" in printed
    assert not [path for path in shapes.rglob(".*")]  # no temporary files left


@pytest.mark.slow
def test_the_mle_captioner_is_kept_as_it_was(trained):
    shapes = trained[0] / "runs" / "shapes"
    kept, final = (load_file(shapes / part / "model.safetensors") for part in ("mle", "last"))
    assert kept.keys() == final.keys()
    assert any(not torch.equal(kept[name], final[name]) for name in kept)
    load_run(shapes / "mle")


@pytest.mark.slow
def test_the_comparison_is_of_both_captioners_on_the_test_images(trained):
    folder, printed = trained
    run, lines = folder / "runs" / "shapes", []
    for label, place in {"MLE": run / "mle", "SMILE": run}.items():
        captioner = load_run(place)
        examples = load_splits(captioner.config)["test"]
        texts = captioner.caption([example.read() for example in examples])
        captions = {example.name: text for example, text in zip(examples, texts, strict=True)}
        lines.append(f"  {label:<6} {summary_line(summarise(captions, examples))}")
        assert lines[-1] in printed.splitlines()
    assert lines[0][8:] != lines[1][8:]


@pytest.mark.slow
def test_sample_describes_files_and_folders(trained, tmp_path):
    folder, _ = trained
    Image.new("RGB", (50, 40), "red").save(tmp_path / "a.png")
    (tmp_path / "sub").mkdir()
    Image.new("L", (30, 30)).save(tmp_path / "sub" / "b.jpg")
    done = run("sample.py", tmp_path, "--model", "runs/shapes", "--json", cwd=folder)
    assert done.returncode == 0, done.stderr
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    assert [Path(line["image"]).name for line in lines] == ["a.png", "b.jpg"]
    assert done.stderr.count("\n") == 1 and "runs/shapes: trained on drawn scenes" in done.stderr


@pytest.mark.slow
def test_sample_goes_on_past_a_broken_file(trained, tmp_path):
    folder, _ = trained
    (tmp_path / "a.png").write_bytes(b"not a picture")
    Image.new("RGB", (50, 40), "red").save(tmp_path / "b.png")
    done = run("sample.py", tmp_path, "--model", "runs/shapes", cwd=folder)
    assert done.returncode == 1
    assert done.stdout.startswith(f"{tmp_path / 'b.png'}: ")
    drawn, broken = done.stderr.splitlines()
    assert "trained on drawn scenes" in drawn and "a.png: cannot read this image" in broken


@pytest.mark.slow
def test_sample_without_a_model_says_how_to_get_one(tmp_path):
    offline = {"HF_HUB_OFFLINE": "1", "HF_HOME": str(tmp_path / "empty")}
    Image.new("RGB", (8, 8)).save(tmp_path / "x.png")
    done = run("sample.py", "x.png", cwd=tmp_path, **offline)
    assert done.returncode == 0 and done.stdout.startswith("x.png: ")
    done = run("sample.py", "x.png", "--json", cwd=tmp_path, **offline)
    assert done.returncode == 2
    said, problem, comes_along, point_at_one, train_one = done.stderr.splitlines()
    assert "--model flickr8k-small" in comes_along
    assert "no --model given: blip-base, since there is no run under runs/" in said
    assert "Salesforce/blip-image-captioning-base" in problem and "downloads are off" in problem
    assert "train.py configs/shapes.toml" in train_one
    assert "--model" in point_at_one


@pytest.mark.slow
def test_a_second_run_does_not_overwrite_the_first(trained):
    folder, _ = trained
    before = (folder / "runs" / "shapes" / "model.safetensors").read_bytes()
    config = ROOT / "configs" / "shapes.toml"
    options = settings("train.epochs=1", "loss.mle_epochs=0", "train.seed=1")
    done = run("train.py", config, *options, cwd=folder)
    assert done.returncode == 0, done.stderr
    assert "runs/shapes-2" in done.stdout
    assert (folder / "runs" / "shapes" / "model.safetensors").read_bytes() == before
    done = run("train.py", config, "--out", "runs/shapes", *settings(), cwd=folder)
    assert done.returncode != 0 and "--resume" in done.stderr


@pytest.mark.parametrize(
    ("settings", "options"),
    [
        (["tokenizer.vocab=absent.txt"], []),
        (["model.init=runs/absent"], []),
        (["data.format=folder", "data.root=absent"], []),
        (["data.max_tokens=3"], []),  # found with the captioner, after all other checks
        ([], ["--resume"]),
    ],
)
@pytest.mark.parametrize("out", ["runs/new", "runs", "mine", "full"])
def test_a_run_that_cannot_begin_leaves_everything_as_it_was(
    tmp_path, monkeypatch, run_main, settings, options, out
):
    """No folder that was not there, none less, and no lock."""
    monkeypatch.chdir(tmp_path)
    Path("mine").mkdir()
    Path("full").mkdir()
    Path("full", "notes.txt").touch()
    before = sorted(tmp_path.rglob("*"))
    words = [word for setting in [*ONE_LAYER, *settings] for word in ("--set", setting)]
    shapes = ROOT / "configs" / "shapes.toml"
    status, _, errors = run_main(shapes, *words, *options, "--out", out)
    assert status == 2 and errors.count("\n") == 1
    assert sorted(tmp_path.rglob("*")) == before


def test_a_folder_that_cannot_be_written_is_said_before_the_data_are_read(
    tmp_path, monkeypatch, run_main
):
    monkeypatch.chdir(tmp_path)
    Path("file").touch()
    words = ["--set", "data.format=folder", "--set", "data.root=absent", "--out", "file/run"]
    status, _, errors = run_main(ROOT / "configs" / "shapes.toml", *words)
    assert status == 2 and errors.count("\n") == 1 and "file/run: cannot write" in errors


@pytest.mark.slow
def test_user_errors_are_one_line(tmp_path):
    done = run_anew(
        "train.py", ROOT / "configs" / "shapes.toml", "--set", "train.epoch=3", cwd=tmp_path
    )
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1 and "did you mean train.epochs" in done.stderr


@pytest.fixture
def make_trainer(tmp_path):
    """A trainer of the tiny captioner, with the same weights each time."""

    def make(*more: str, folder="run"):
        config = load_config(ROOT / "configs" / "shapes.toml", [*ONE_LAYER, *more])
        torch.manual_seed(0)
        examples = load_splits(config)
        (tmp_path / folder).mkdir(exist_ok=True)
        captioner = make_captioner(config, examples["train"])
        return train.Trainer(captioner, tmp_path / folder, examples)

    return make


@pytest.mark.slow
def test_accumulated_batches_are_one_large_batch(make_trainer):
    trainer = make_trainer("train.grad_clip=0.0")
    rows = next(iter(trainer.batches.batch_sampler))
    dataset, collate = trainer.batches.dataset, trainer.batches.collate_fn
    whole = collate([dataset[row] for row in rows])
    parts = [collate([dataset[row] for row in part]) for part in (rows[:3], rows[3:])]
    phase = Phase("smile", 0, 1, lr=1e-2, warmup_steps=0)
    results = []
    for batches in ([whole], parts):
        trainer = make_trainer("train.grad_clip=0.0", "decoder.dropout=0.0")
        loss, tokens, images = trainer.step(batches, phase, lr=0.0)
        assert (tokens, images) == (trainer.objective.num_targets(whole), len(rows))
        losses = [loss]
        losses.append(trainer.step(batches, phase, lr=1e-2)[0])
        weights = {
            name: weight.detach().clone()
            for name, weight in trainer.captioner.named_parameters()
            if not walks_by_chance(name)
        }
        results.append((losses, weights))
    (losses, one), (other_losses, two) = results
    assert losses == pytest.approx(other_losses, rel=1e-5)
    # AdamW's first steps follow the sign of the gradient: where it is zero, noise decides.
    for name, weight in one.items():
        assert torch.isclose(weight, two[name], atol=2e-3).float().mean() > 0.9, name


def test_a_summary_by_hand():
    first, second, _ = examples = load_splits(config_of())["val"][:3]
    caption = max(first.captions, key=len)
    found = summarise({first.name: caption, second.name: "what else"}, examples)  # no third
    words, statements = caption.split(), len(check_caption(caption, first))
    assert statements > 5  # all of them true, and none of the two words that state nothing
    assert found == {
        "caption_words": (len(words) + 2) / 2,
        "distinct_words": len({*words}) + 2,
        "statements": statements + 2,
        "true_share": statements / (statements + 2),
    }


def test_learning_rate_warms_up_and_falls_along_a_cosine():
    rates = [learning_rate(step, 11, lr=1.0, min_lr=0.1, warmup=2) for step in range(11)]
    assert rates[:3] == [0.5, 1.0, 1.0]
    assert rates[6] == pytest.approx(0.1 + 0.9 * (1 + math.cos(math.pi / 2)) / 2)
    assert rates[10] == pytest.approx(0.1)
    assert rates[2:] == sorted(rates[2:], reverse=True)


def test_phases_split_the_epochs(make_trainer):
    config = make_trainer("train.epochs=5", "loss.mle_epochs=2", "train.lr=1e-3").config
    phases = [Phase.of(config, epoch) for epoch in range(5)]
    usual = {"lr": 1e-3, "warmup_steps": 2}
    assert phases == [Phase("mle", 0, 2, **usual)] * 2 + [Phase("smile", 2, 3, **usual)] * 3


@pytest.mark.slow
def test_validation_may_come_less_often(make_trainer, tmp_path):
    """Each second epoch and at the end of a phase; a record covers the epochs since the last.

    The captioner of each may be kept, so that it can be chosen by something else than the loss.
    """
    few = ["loss.mle_epochs=1", "data.num_train=16", "train.caption_images=2"]
    few.append("train.keep_captioners=true")
    trainer = make_trainer("train.val_every=2", "train.epochs=5", *few)
    trainer.run()
    lines = (tmp_path / "run" / "log.jsonl").read_text().splitlines()
    assert [json.loads(line)["epoch"] for line in lines] == [1, 2, 4, 5]
    losses = [json.loads(line)["train_loss"] for line in lines]
    assert all(0 < loss < 10 for loss in losses)
    assert trainer.progress.tokens == 0
    kept = kept_captioners(tmp_path / "run")
    assert list(kept) == [1, 2, 4, 5]
    weights = [(path / "model.safetensors").read_bytes() for path in kept.values()]
    assert len(set(weights)) == 4
    assert weights[0] == (tmp_path / "run" / "mle" / "model.safetensors").read_bytes()
    assert weights[-1] == (tmp_path / "run" / "last" / "model.safetensors").read_bytes()


def test_a_shared_machine_is_said_once(make_trainer, shared_machine, capsys):
    trainer = make_trainer()
    for _ in range(2):
        trainer.train_epoch(Phase.of(trainer.config, 0))
        trainer.progress.next_epoch(None)
    [line] = capsys.readouterr().out.splitlines()
    assert line.startswith("this machine is shared: other processes interrupted this one 250 times")


def test_the_phase_after_mle_may_have_a_rate_and_a_warm_up_of_its_own(make_trainer):
    own = ["loss.lr=1e-4", "loss.warmup_steps=3", "train.lr=1e-3", "train.warmup_steps=2"]
    config = make_trainer("train.epochs=3", "loss.mle_epochs=1", *own).config

    def rates(epoch):
        phase = Phase.of(config, epoch)
        return [phase.learning_rate(config.train, epoch=epoch, step=i, steps=5) for i in range(5)]

    assert max(rates(0)) == rates(0)[1] == 1e-3
    assert rates(1)[:3] == pytest.approx([1e-4 / 3, 2e-4 / 3, 1e-4])
    assert max(rates(1) + rates(2)) == pytest.approx(1e-4)
    # Without epochs of MLE there is no phase after them.
    config = make_trainer("loss.mle_epochs=0", *own).config
    assert max(rates(0)) == 1e-3


def test_a_failed_write_leaves_the_old_file(tmp_path):
    path = tmp_path / "config.toml"
    path.write_text("old")

    def fail(temporary: Path) -> None:
        temporary.write_text("ne")
        raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        write_atomically(path, fail)
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.slow
def test_damaged_run_folders_are_named(trained, tmp_path):
    shapes = trained[0] / "runs" / "shapes"
    with pytest.raises(UserError, match=r"lacks model\.safetensors, config\.toml, vocab\.txt"):
        load_run(tmp_path)
    for name in ("config.toml", "vocab.txt", "model.safetensors"):
        (tmp_path / name).write_bytes((shapes / name).read_bytes())
    weights = (tmp_path / "model.safetensors").read_bytes()
    (tmp_path / "model.safetensors").write_bytes(weights[:1000])
    with pytest.raises(UserError, match=r"model\.safetensors: cannot be read"):
        load_run(tmp_path)
    (tmp_path / "model.safetensors").write_bytes(weights)
    text = (tmp_path / "config.toml").read_text()
    (tmp_path / "config.toml").write_text(text.replace("mlp_dim = 64", "mlp_dim = 128"))
    with pytest.raises(UserError, match=r"is \(64.*\), expected \(128.*and \d+ more"):
        load_run(tmp_path)


@pytest.mark.slow
def test_another_image_size_at_load_time(trained):
    shapes = trained[0] / "runs" / "shapes"
    captioner = load_run(shapes, image_size=96)
    assert captioner.vit.positions.size(1) == 1 + (96 // 12) ** 2
    assert isinstance(captioner.caption(Image.new("RGB", (200, 100), "blue")), str)
