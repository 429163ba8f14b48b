"""Runs that an older version wrote still load and resume.

`golden/run_of_a741ac5.zip` was written by commit a741ac5: `run/`, stopped after the first of two
steps in its second epoch (SMILE), and `end.safetensors`, the weights of the same run left alone.
"""

import zipfile
from pathlib import Path

import pytest
import torch
from golden_fixtures import GOLDEN
from helpers import config_of, trainer_of
from safetensors.torch import load_file

from smile.system.distributed import World
from smile.training.checkpointing.checkpoints import Checkpoints
from smile.weights.run_folder import load_run

SETTINGS = (
    *("data.num_train=8", "train.batch_size=4", "train.accumulate=1", "vit.image_size=24"),
    *(f"{tower}.{size}" for tower in ("vit", "decoder") for size in ("dim=8", "mlp_dim=8")),
    *("vit.depth=1", "decoder.depth=1", "vit.num_heads=2", "decoder.num_heads=2"),
    *("decoder.features_dim=8", "decoder.max_positions=40"),
)


@pytest.fixture
def older(tmp_path) -> Path:
    """The folder of what the archive holds."""
    with zipfile.ZipFile(GOLDEN / "run_of_a741ac5.zip") as archive:
        archive.extractall(tmp_path)
    return tmp_path


def test_its_captioners_have_the_same_weights(older):
    for folder in (older / "run", older / "run" / "mle", older / "run" / "last"):
        stored = load_file(folder / "model.safetensors")
        loaded = load_run(folder).state_dict()
        assert loaded.keys() == stored.keys()
        assert all(torch.equal(loaded[name], stored[name]) for name in stored)


def test_its_state_is_taken_up_bit_for_bit(older):
    """Weights by their names; the optimiser's two averages by their parameters' positions."""
    checkpoints = Checkpoints(older / "run")
    stored = checkpoints.load(checkpoints.choose()[0])
    trainer = trainer_of(config_of(*SETTINGS), older / "run", World(), resume=True)
    weights = trainer.captioner.state_dict()
    assert list(weights) == list(stored["model"])
    assert all(torch.equal(weights[name], stored["model"][name]) for name in weights)
    for parameter, theirs in zip(
        trainer.captioner.parameters(), stored["optimizer"]["state"].values(), strict=True
    ):
        ours = trainer.optimizer.state[parameter]
        for name in ("exp_avg", "exp_avg_sq"):
            assert theirs[name].shape == parameter.shape
            assert torch.equal(ours[name], theirs[name])


def test_it_ends_as_it_would_have_ended(older):
    """Not to the last bit: another processor rounds otherwise. A key's bias changes nothing."""
    trainer_of(config_of(*SETTINGS), older / "run", World(), resume=True).run()
    ended = load_file(older / "run" / "last" / "model.safetensors")
    whole = load_file(older / "end.safetensors")
    assert ended.keys() == whole.keys()
    for name in whole:
        if not name.endswith("key.bias"):
            torch.testing.assert_close(ended[name], whole[name], atol=1e-5, rtol=1e-4)
