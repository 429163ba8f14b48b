"""Settings that make `train.py` faster, on tiny runs: the same run but for the time it takes."""

import json
import sys
from pathlib import Path

import pytest
import torch
from helpers import ONE_LAYER, ROOT, walks_by_chance
from safetensors.torch import load_file

import train
from smile.config import load_config
from smile.data.batches import BatchRow
from smile.data.load import load_examples
from smile.errors import UserError
from smile.system.distributed import World
from smile.training import once
from smile.training.features import _make_room, on_one_machine
from smile.training.splits import load_splits

CONFIG = ROOT / "configs" / "shapes.toml"
ONE_LAYER_RUN = [
    *ONE_LAYER, "vit.depth=2", "train.epochs=2", "loss.mle_epochs=1", "train.workers=0",
    "train.caption_images=2", "vit.drop_path=0.5",
]  # fmt: skip


@pytest.fixture
def run(tmp_path, monkeypatch, capsys):
    """Runs `train.py --out NAME` with a few settings; returns its folder and what it printed."""
    monkeypatch.chdir(tmp_path)

    def run(name: str, *settings: str) -> tuple[Path, str]:
        options = [word for setting in [*ONE_LAYER_RUN, *settings] for word in ("--set", setting)]
        monkeypatch.setattr(sys, "argv", ["train.py", str(CONFIG), "--out", name, *options])
        train.main()
        return tmp_path / name, capsys.readouterr().out

    return run


def losses(folder: Path) -> list[float]:
    """Training and validation loss of each epoch."""
    records = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
    return [record[key] for record in records for key in ("train_loss", "val_loss")]


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(folder / "last" / "model.safetensors")


@pytest.mark.slow
def test_a_frozen_encoder_stays_as_it_was_and_is_computed_once(run, monkeypatch):
    """Whether its features are kept or computed in each step; stochastic depth is off in both."""
    frozen = ["train.freeze=['vit']", "data.augment=false"]
    kept, printed = run("kept", *frozen)
    assert "features of 48 images, computed once" in printed
    assert not list(kept.glob(".unfinished*"))
    monkeypatch.setattr(once, "is_frozen", lambda captioner: False)
    anew, printed = run("anew", *frozen)
    assert "features" not in printed
    assert losses(kept) == pytest.approx(losses(anew), rel=1e-5)

    config = load_config(CONFIG, [*ONE_LAYER_RUN, *frozen])
    torch.manual_seed(config.train.seed)
    examples = load_examples(config.data, "train", image_size=config.vit.image_size)
    start = train.make_captioner(config, examples).state_dict()
    for folder in (kept, anew):
        for name, tensor in weights(folder).items():
            if walks_by_chance(name):  # even not at all
                continue
            assert torch.equal(tensor, start[name]) == name.startswith("vit."), name


def test_features_stand_in_for_the_images(tmp_path):
    """The optimiser holds only what learns, no picture is read, and the batch says the same."""
    config = load_config(CONFIG, [*ONE_LAYER_RUN, "train.freeze=['vit']", "data.augment=false"])
    examples = load_splits(config)
    trainer = train.Trainer(train.make_captioner(config, examples["train"]), tmp_path, examples)
    learned = {id(p) for group in trainer.optimizer.param_groups for p in group["params"]}
    assert learned == {id(p) for p in trainer.captioner.decoder.parameters()}
    images = trainer.batches.dataset[BatchRow(3, (0,), 0)][1]
    trainer.prepare_data()
    name, features, captions = trainer.batches.dataset[BatchRow(3, (0, 1), 0)]
    assert (name, captions) == (examples["train"][3].name, list(examples["train"][3].captions[:2]))
    trainer.captioner.eval()
    with torch.inference_mode():
        torch.testing.assert_close(features, trainer.captioner.encode(images[None])[0])


@pytest.mark.slow
def test_a_cache_of_pictures_gives_the_same_run(run, tmp_path):
    """Augmented too: scenes are drawn at the size that the cache keeps."""
    plain, _ = run("plain")
    keep = f"data.cache={tmp_path / 'pictures'}"
    first, printed = run("first", keep)
    assert "decoding 54 pictures" in printed
    made = (tmp_path / "pictures").stat().st_mtime_ns
    second, printed = run("second", keep, "train.workers=2")
    assert "decoding" not in printed
    assert (tmp_path / "pictures").stat().st_mtime_ns == made
    assert losses(plain) == losses(first) == losses(second)
    _, printed = run("other", keep, "data.seed=1")
    assert "decoding 54 pictures" in printed


@pytest.mark.slow
def test_checkpointed_blocks_give_the_same_run(run):
    plain, _ = run("plain")
    again, printed = run("again", "train.checkpoint_blocks=2")
    assert losses(plain) == losses(again)
    expected = weights(plain)
    assert all(torch.equal(tensor, expected[name]) for name, tensor in weights(again).items())
    assert "waiting for data" in printed


def test_impossible_settings_are_one_line(run, capsys):
    for setting, words in (
        ("train.checkpoint_blocks=3", "train.checkpoint_blocks = 3: expected at most 2"),
        ("train.precision=float16", 'train.precision = "float16": needs train.device = "cuda"'),
    ):
        with pytest.raises(SystemExit) as caught:
            run("refused", setting, "train.device=cpu")
        assert caught.value.code == 2
        assert words in capsys.readouterr().err


def test_features_need_room(tmp_path, monkeypatch):
    class Full:
        free = 1000

    monkeypatch.setattr("shutil.disk_usage", lambda path: Full)
    with pytest.raises(UserError, match=r"features take 5\.0 GB, but .* 0\.0 GB left"):
        _make_room(tmp_path / "features", 5 * 10**9)


def test_machines_apart_do_not_share_a_file(monkeypatch):
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "2")
    assert on_one_machine(World(rank=0, size=2))
    assert not on_one_machine(World(rank=0, size=4))
    monkeypatch.delenv("LOCAL_WORLD_SIZE")
    assert on_one_machine(World())
