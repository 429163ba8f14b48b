"""In which arithmetic a step is computed, and the optimiser's step itself."""

import contextlib
import math
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn


class Precision:
    """`train.precision` on a device.

    Weights stay in float32; with "bfloat16" ("auto" on CUDA) the forward pass runs under autocast.
    """

    def __init__(self, name: str, device: torch.device) -> None:
        if name == "auto":
            name = "bfloat16" if device.type == "cuda" else "float32"
        self.name = name
        self.device = device

    def autocast(self) -> contextlib.AbstractContextManager:
        """For the forward pass."""
        enabled = self.name == "bfloat16"
        return torch.autocast(self.device.type, dtype=torch.bfloat16, enabled=enabled)

    def backward(self, loss: Tensor) -> None:
        loss.backward()

    def failed(self, norm: float) -> bool:
        """Whether a gradient of this norm means that training has gone wrong for good."""
        return not math.isfinite(norm)

    def state_dict(self) -> dict[str, Any]:
        """What changes from step to step, for a checkpoint: nothing in these two."""
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Goes back to a `state_dict`."""

    def step(
        self, optimizer: torch.optim.Optimizer, parameters: Iterable[Tensor], grad_clip: float
    ) -> Tensor:
        """Clips the gradient to a norm of `grad_clip` (0: not at all), steps; returns the norm."""
        norm = nn.utils.clip_grad_norm_(parameters, grad_clip or float("inf"))
        optimizer.step()
        return norm
