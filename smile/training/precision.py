"""The precision of the forward and backward pass, and the optimiser's step."""

import contextlib
import math
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn

from smile.errors import UserError

LOW = {"bfloat16": torch.bfloat16, "float16": torch.float16}


class Precision:
    """`train.precision` on a device.

    Weights stay in float32. Unless `name` is "float32", the forward pass runs under autocast
    ("auto" is bfloat16 on CUDA, else float32). Small gradients vanish in float16, so the loss is
    multiplied by a scale, as large as possible, and the gradients are divided by it (Micikevicius
    et al. 2018). If they overflow, the step is skipped and the scale is halved.

    Raises:
        UserError: float16 on a device other than CUDA.
    """

    def __init__(self, name: str, device: torch.device) -> None:
        if name == "auto":
            name = "bfloat16" if device.type == "cuda" else "float32"
        if name == "float16" and device.type != "cuda":
            raise UserError(
                f'train.precision = "float16": needs train.device = "cuda", not {device.type}; '
                'use "bfloat16" or "float32" here'
            )
        self.name = name
        self.device = device
        self.scaler = torch.amp.GradScaler(device.type, enabled=name == "float16")

    def autocast(self) -> contextlib.AbstractContextManager:
        """The context of the forward pass."""
        return torch.autocast(
            self.device.type, dtype=LOW.get(self.name, torch.bfloat16), enabled=self.name in LOW
        )

    def sharing_casts(self) -> contextlib.AbstractContextManager:
        """The context of a step's passes, in which a CPU casts each weight that learns only once.

        Autocast keeps its casts of such weights until the outermost context ends: without this one,
        to the end of a batch's forward pass. This one turns nothing on, so the backward pass stays
        as it is. It must end before the optimiser changes the weights. Blocks that are compiled
        cast their own. A GPU, which casts quickly, gets no context: it would keep the casts in
        memory during the backward pass.
        """
        if self.name not in LOW or self.device.type != "cpu":
            return contextlib.nullcontext()
        return torch.autocast("cpu", enabled=False)

    def backward(self, loss: Tensor) -> None:
        self.scaler.scale(loss).backward()

    def failed(self, norm: float) -> bool:
        """Whether a gradient of this norm means that training has diverged.

        With float16, an overflow is normal: the next step has half the scale. There, training has
        diverged only if gradients overflow even with a scale below 1.
        """
        return not math.isfinite(norm) and not (
            self.scaler.is_enabled() and self.scaler.get_scale() >= 1
        )

    def state_dict(self) -> dict[str, Any]:
        """The state for a checkpoint: the loss scale, if there is one."""
        return self.scaler.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restores a `state_dict`."""
        if self.scaler.is_enabled():
            self.scaler.load_state_dict(state)

    def step(
        self, optimizer: torch.optim.Optimizer, parameters: Iterable[Tensor], grad_clip: float
    ) -> Tensor:
        """Clips the gradient to a norm of `grad_clip` (0: no clipping) and steps the optimiser.

        Returns the norm before clipping.
        """
        self.scaler.unscale_(optimizer)
        norm = nn.utils.clip_grad_norm_(parameters, grad_clip or float("inf"))
        self.scaler.step(optimizer)
        self.scaler.update()
        return norm
