"""The device that the tests of this folder are about: one CUDA GPU.

pytest tests/gpu                              # with a GPU; without one they are skipped
GPU_TESTS_DEVICE=cpu pytest tests/gpu         # the same code on the CPU: tests of the tests
"""

import os

import pytest
import torch

DEVICE = torch.device(os.environ.get("GPU_TESTS_DEVICE", "cuda"))
ON_CUDA = DEVICE.type == "cuda" and torch.cuda.is_available()

needs_device = pytest.mark.skipif(
    DEVICE.type == "cuda" and not ON_CUDA, reason="needs one CUDA device"
)
needs_cuda = pytest.mark.skipif(not ON_CUDA, reason="needs one CUDA device")

if ON_CUDA:  # before cuBLAS starts: what its deterministic products need
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
