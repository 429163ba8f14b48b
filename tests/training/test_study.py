"""The study's plan: its configs are sound, and runs that are compared differ in one thing only."""

import sys
from dataclasses import asdict
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
sys.path.append(str(ROOT / "configs" / "study"))

from plan import CONTINUED, FIRST, plan  # noqa: E402

from smile.config import load_config  # noqa: E402


@pytest.fixture
def runs():
    """Each run of the plan by its name, with its config."""
    planned = plan(epochs=9, more=3, seeds=2, batch_size=64)
    assert len({run.name for run in planned}) == len(planned)
    return {run.name: (run, load_config(run.config, run.settings)) for run in planned}


def test_every_run_begins_after_what_it_needs_and_is_judged_by_another_seed(runs):
    seen = []
    for name, (run, config) in runs.items():
        assert not run.init or run.init in seen
        assert run.init in ("", f"start-{config.train.seed}")
        assert run.judge in ("", f"start-{3 - config.train.seed}")
        assert bool(run.judge) is not name.startswith("start-")
        seen.append(name)
    first = [f"{name}-{seed}" for seed in (1, 2) for name, *_ in CONTINUED[:FIRST]]
    assert seen[: 2 + len(first)] == ["start-1", "start-2", *first]


def test_all_have_the_same_epochs_data_and_search(runs):
    (_, start), (_, scratch) = runs["start-1"], runs["scratch-1"]
    for _, config in runs.values():
        assert config.generate == start.generate
        assert config.data == start.data
        assert config.train.batch_size == 64
    assert scratch.train.epochs == start.train.epochs + runs["smile-1"][1].train.epochs


def test_each_continuation_differs_from_smile_in_what_its_row_says(runs):
    smile = asdict(runs["smile-1"][1])
    for name, _, settings in CONTINUED:
        config = asdict(runs[f"{name}-1"][1])
        changed = {
            f"{section}.{key}"
            for section, keys in config.items()
            for key, value in keys.items()
            if value != smile[section][key]
        }
        assert changed == {setting.partition("=")[0] for setting in settings}
