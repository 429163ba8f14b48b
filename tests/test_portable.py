"""Systems that lack what Linux has: asked for, not assumed."""

import multiprocessing
import subprocess
import sys

import pytest
import torch
from helpers import ROOT, SMALL, config_of
from PIL import Image

from smile.system.distributed import World
from smile.training.features import Features
from smile.training.loader import make_loader
from smile.training.setup import make_captioner
from smile.training.splits import load_splits

pytestmark = pytest.mark.slow

SETTINGS = (
    *SMALL, "data.format=folder", "data.root=photos", "generate.num_beams=1",
    "generate.max_length=8", "train.epochs=1", "loss.mle_epochs=0", "train.batch_size=2",
)  # fmt: skip


def test_another_system_trains_and_captions(tmp_path):
    """With workers that are started anew, so what they are given must pickle."""
    for split, count in (("train", 4), ("val", 1), ("test", 1)):
        (tmp_path / "photos" / split).mkdir(parents=True)
        for i in range(count):
            path = tmp_path / "photos" / split / f"{i}.png"
            Image.new("RGB", (24, 24), (60 * i, 90, 200)).save(path)
            path.with_suffix(".txt").write_text(f"a dog number {i} runs", encoding="utf-8")
    command = [sys.executable, ROOT / "tests" / "other_platform.py", tmp_path, *SETTINGS]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert "at most an unknown amount so far, of an unknown amount" in done.stdout
    for run in ("run", "frozen"):
        assert {"model.safetensors", "log.jsonl"} <= {p.name for p in (tmp_path / run).iterdir()}
    rows = (tmp_path / "captions.csv").read_text("utf-8").splitlines()
    assert len(rows) == 1 + 6
    assert not list(tmp_path.rglob(".unfinished-*"))


@pytest.mark.parametrize(("method", "workers"), [("fork", 1), ("spawn", 0), ("forkserver", 0)])
def test_features_stay_in_processes_that_have_them_mapped(method, workers, monkeypatch):
    """torch cannot hand a mapped file to a process that begins anew."""
    monkeypatch.setattr(multiprocessing, "get_start_method", lambda: method)
    config = config_of("train.workers=1")
    examples = load_splits(config)["val"]
    captioner = make_captioner(config, examples)
    features = Features(torch.zeros(len(examples), 1, 1), {})
    options = {"training": True, "pin_memory": False, "world": World()}
    assert make_loader(captioner, examples, **options).num_workers == 1
    loader = make_loader(captioner, examples, features=features, **options)
    assert loader.num_workers == workers
