"""The device that the tests of this folder are about: one CUDA GPU.

pytest tests/gpu                              # with a GPU; without one they are skipped
GPU_TESTS_DEVICE=cpu pytest tests/gpu         # the same code on the CPU: tests of the tests
"""

import os
from pathlib import Path

import pytest
import torch
from helpers import config_of, trainer_of
from several_processes import NO_DROPOUT

from smile.system.distributed import World
from smile.training.schedule import Phase
from smile.training.speed import train_mode

DEVICE = torch.device(os.environ.get("GPU_TESTS_DEVICE", "cuda"))
HERE = f"train.device={DEVICE}"
ON_CUDA = DEVICE.type == "cuda" and torch.cuda.is_available()

needs_device = pytest.mark.skipif(
    DEVICE.type == "cuda" and not ON_CUDA, reason="needs one CUDA device"
)
needs_cuda = pytest.mark.skipif(not ON_CUDA, reason="needs one CUDA device")

if ON_CUDA:  # before cuBLAS starts: what its deterministic products need
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")


def step_losses(folder: Path, *settings: str, steps: int = 6) -> list[float]:
    """The loss per token at successive steps on one batch."""
    trainer = trainer_of(config_of(*NO_DROPOUT, HERE, *settings), folder, World())
    train_mode(trainer.captioner)
    phase, batch = Phase.of(trainer.config, 1), next(iter(trainer.batches))
    losses = []
    for _ in range(steps):
        loss, tokens, _ = trainer.step([batch], phase, lr=1e-3)
        losses.append(loss / tokens)
    return losses
