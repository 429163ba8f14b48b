"""The moving average of the weights: its arithmetic, its change of places, and a resumed run."""

import pytest
import torch
from helpers import config_of, differences, train_in_bits, trainer_of
from torch import nn

from smile.system.distributed import World
from smile.training.checkpointing.checkpoints import Checkpoints
from smile.training.ema import WeightAverage
from smile.training.schedule import Phase
from smile.weights.run_folder import load_run

SETTINGS = ("train.ema=0.9", "data.augment=true", "data.augment_on=device", "train.workers=0")


def test_the_average_is_that_of_the_latest_weights():
    model, expected = nn.Linear(3, 1), []
    average = WeightAverage(model, decay=0.5)
    for step in range(1, 9):
        nn.init.constant_(model.weight, step)
        average.update()
        kept = min(0.5, (1 + step) / (10 + step))
        expected.append(step if not expected else kept * expected[-1] + (1 - kept) * step)
    first = WeightAverage(nn.Linear(3, 1), decay=0.5)
    assert first.average[0].shape == (1, 3)
    # The first average begins at the random weights, of which eight steps leave next to nothing.
    with average.shown():
        assert model.weight.mean().item() == pytest.approx(expected[-1], abs=0.05)
        with average.shown(False):
            assert (model.weight == 8).all()
        taken = model.weight.detach()
    assert (model.weight == 8).all() and not (taken == 8).any()
    average.restart()
    assert torch.equal(model.weight, taken)


def test_without_a_decay_nothing_is_kept():
    model = nn.Linear(3, 1)
    average = WeightAverage(model, decay=0.0)
    before = model.weight.data_ptr()
    average.update()
    with average.shown():
        assert model.weight.data_ptr() == before
    assert average.state_dict() == {"average": [], "steps": 0}


@pytest.mark.slow
def test_what_is_saved_is_the_average_and_what_is_resumed_are_both(tmp_path):
    """Stopped in training, validation and captions, a run ends as if left alone."""
    config = config_of(*SETTINGS)
    whole = trainer_of(config, tmp_path / "whole", World())
    whole.run()
    saved = load_run(tmp_path / "whole" / "last").state_dict()
    own = dict(whole.captioner.named_parameters())
    averages = dict(zip(own, whole.average.average, strict=True))
    assert all(torch.equal(saved[name], average) for name, average in averages.items())
    assert not all(torch.equal(saved[name], weight) for name, weight in own.items())

    train_in_bits(config, tmp_path / "bits", World(), pauses=[1, 3, 4])
    assert differences(tmp_path / "bits", tmp_path / "whole") == []
    ours, theirs = (
        (checkpoints := Checkpoints(tmp_path / name)).load(checkpoints.choose()[0])
        for name in ("bits", "whole")
    )
    assert all(map(torch.equal, ours["average"]["average"], theirs["average"]["average"]))
    assert all(torch.equal(ours["model"][name], theirs["model"][name]) for name in theirs["model"])


@pytest.mark.slow
def test_the_phase_after_mle_goes_on_from_what_was_kept_as_mle(tmp_path):
    trainer = trainer_of(config_of(*SETTINGS, "train.epochs=2"), tmp_path, World())
    trainer.train_epoch(Phase.of(trainer.config, 0))
    trainer.progress.next_epoch(None)
    trainer.begin_phase(Phase.of(trainer.config, 1))
    kept = load_run(tmp_path / "mle").state_dict()
    weights = dict(trainer.captioner.named_parameters())
    assert all(torch.equal(kept[name], weight) for name, weight in weights.items())
