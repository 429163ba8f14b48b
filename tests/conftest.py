"""What several tests use; and torchvision made importable.

Beside a CPU-only torch it has to be imported before transformers, an oracle, needs it.
"""

import inspect
import itertools
import os
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers import make_run
from PIL import Image

# Threads make tiny models no faster, and far slower while anything else is running.
os.environ.setdefault("OMP_NUM_THREADS", "1")

import smile.data.augment  # noqa: F401
import train
from smile.system import files, picture_files
from smile.system.processors import ContentionWatch, Reading
from smile.training import comparison, report
from smile.training.checkpointing.checkpoints import Checkpoints
from smile.weights.known import SMALL

# Tests of arithmetic, to be run under other instruction sets too: see CONTRIBUTING.md.
NUMERIC = (
    *("clip", "ema", "explain", "faster_training", "generate", "golden", "gpt2", "loss", "model"),
    *("packed", "retrieval", "several_processes", "training_truth"),
)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if item.path.stem.removeprefix("test_") in NUMERIC:
            item.add_marker("numeric")


@pytest.fixture(autouse=True)
def tiny_numbers_count():
    """Each test has them, also after one that called train.py's main()."""
    yield
    torch.set_flush_denormal(False)


@pytest.fixture
def picture():
    """A smooth colour picture with detail, wider than high."""
    rng = np.random.default_rng(0)
    small = rng.integers(0, 256, (6, 9, 3), dtype=np.uint8)
    return Image.fromarray(small).resize((90, 60), Image.Resampling.BICUBIC)


@pytest.fixture
def tree(tmp_path: Path, monkeypatch) -> Callable[..., None]:
    """The working directory, empty; `tree("a/b.jpg", …)` makes files in it, empty too."""
    monkeypatch.chdir(tmp_path)

    def make(*names: str) -> None:
        for name in names:
            Path(name).parent.mkdir(parents=True, exist_ok=True)
            Path(name).touch()

    return make


@pytest.fixture
def empty_caches(tmp_path: Path, monkeypatch) -> None:
    """The caches of a machine that has never downloaded anything, and may."""
    from huggingface_hub import constants

    for name in ("SMILE_OFFLINE", "HF_HUB_OFFLINE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("no_proxy", "*")
    monkeypatch.setenv("SMILE_CACHE", str(tmp_path / "smile"))
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)


@pytest.fixture
def small(tmp_path: Path, monkeypatch) -> Path:
    """A tiny random captioner in place of the one that comes along."""
    monkeypatch.setattr("smile.weights.needed.MODELS", tmp_path / "models")
    return make_run(tmp_path / "models" / SMALL, seed=1)


@pytest.fixture
def run_script(monkeypatch, capfd):
    """Runs a script's main() in this process: (exit status, standard output, standard error)."""

    def run(main: Callable[[], None], *words: object) -> tuple[int, str, str]:
        script = Path(inspect.getfile(main)).name
        monkeypatch.setattr(sys, "argv", [script, *map(str, words)])
        status = 0
        try:
            main()
        except SystemExit as ended:
            status = ended.code or 0
        sys.stdout.flush()
        return status, *capfd.readouterr()

    return run


@pytest.fixture
def run_main(run_script):
    """Runs train.py's main() in this process: (exit status, standard output, standard error)."""
    return lambda *words: run_script(train.main, *words)


@pytest.fixture
def quick_runs(monkeypatch) -> list:
    """Runs draw no pictures, write no checkpoints and do not wait for the disk.

    That is most of what a run of a few steps takes. The list has an entry per checkpoint.
    """
    saved: list = []
    for module in (report, comparison):
        monkeypatch.setattr(module, "draw_captions", lambda path, *args, **options: path.touch())
    monkeypatch.setattr(report, "loss_curve", lambda *args: None)
    monkeypatch.setattr(Checkpoints, "save", lambda *args: saved.append(args))
    monkeypatch.setattr(files, "flush", lambda path: None)
    return saved


@pytest.fixture
def no_heif(monkeypatch):
    """As if no plugin for HEIC were installed, as after `requirements.txt` alone."""
    monkeypatch.setattr(picture_files, "HEIF_PLUGINS", ())
    picture_files.heif_plugin.cache_clear()
    yield
    picture_files.heif_plugin.cache_clear()


@pytest.fixture
def shared_machine(monkeypatch) -> None:
    """To train.py and sample.py others take half of two processors, in 20 s between two looks."""

    def watch(device: torch.device) -> ContentionWatch:
        counted = (
            Reading(time=20.0 * n, interruptions=5000 * n, used=20.0 * n, waited=15.0 * n)
            for n in itertools.count()
        )
        return ContentionWatch(device, read=lambda: next(counted))

    for script in ("train", "sample"):
        monkeypatch.setattr(f"{script}.ContentionWatch", watch)
    monkeypatch.setattr("smile.system.processors.usable_processors", lambda: 2)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 2)
