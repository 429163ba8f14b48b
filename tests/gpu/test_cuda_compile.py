"""torch.compile on CUDA: the same captions by `sample.py --compile`, the same losses in training.

The compiler takes most of the time, so these are few and tiny, and in a file of their own that can
run beside the others.
"""

import json
import sys

import pytest
from helpers import make_photos, make_run
from on_device import DEVICE, needs_device, step_losses

import sample

pytestmark = needs_device


def test_sample_py_s_compiled_encoder_gives_the_same_captions(tmp_path, monkeypatch, capfd):
    make_run(tmp_path / "run")
    make_photos(tmp_path / "photos", 5)

    def captions(*options: str) -> list[dict]:
        words = [tmp_path / "photos", "--model", tmp_path / "run", "--json", "--device", DEVICE]
        words += ["--precision", "float32", "--batch-size", 3, "--workers", 0, *options]
        monkeypatch.setattr(sys, "argv", ["sample.py", *map(str, words)])
        with pytest.raises(SystemExit) as ended:
            sample.main()
        printed, errors = capfd.readouterr()
        assert ended.value.code == 0, errors
        return [json.loads(line) for line in printed.splitlines()]

    plain, compiled = captions(), captions("--compile")
    assert len(plain) == 5
    for a, b in zip(plain, compiled, strict=True):
        assert a["image"] == b["image"]
        assert [c["text"] for c in a["captions"]] == [c["text"] for c in b["captions"]]
        assert [c["logprob"] for c in a["captions"]] == pytest.approx(
            [c["logprob"] for c in b["captions"]], abs=1e-3
        )


def test_compiled_blocks_train_alike(tmp_path, note):
    settings = ("train.precision=bfloat16", "vit.depth=1", "loss.objective=smile")
    plain = step_losses(tmp_path / "plain", *settings, steps=3)
    compiled = step_losses(tmp_path / "compiled", *settings, "train.compile=true", steps=3)
    note(f"train.compile: losses {compiled}, without {plain}")
    assert compiled == pytest.approx(plain, rel=0.01)
