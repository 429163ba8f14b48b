"""What the tests of this folder share."""

import pytest
import torch
from on_device import ON_CUDA


@pytest.fixture(autouse=True)
def no_tf32(monkeypatch):
    """float32 means float32 here: without TF32, a CPU and a GPU differ by rounding alone."""
    if ON_CUDA:
        monkeypatch.setattr(torch.backends.cuda.matmul, "allow_tf32", False)
        monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)


@pytest.fixture
def note(capsys):
    """Prints a figure that is worth knowing even where the test passes."""

    def say(line: str) -> None:
        with capsys.disabled():
            print(f"\n{line}")

    return say
