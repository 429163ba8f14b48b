"""The average of a run's latest weights: what is validated, shown and saved (`train.ema`).

Steps on small data are noisy, and the average of the last few hundred describes pictures better
than any one of them (Polyak and Juditsky 1992). Training itself never sees it.
"""

import contextlib
from collections.abc import Iterator
from typing import Any

import torch
from torch import nn
from torch.optim.swa_utils import get_ema_multi_avg_fn


class WeightAverage:
    """Exponential moving average of a model's weights that learn.

    The model holds either its own weights or, inside `shown`, the averaged ones: the two change
    places without a copy, so tensors taken meanwhile stay what they were.

    Args:
        decay: how much of the average each step keeps; early steps keep less, or the average would
            long be that of the first, random weights. 0: none, and nothing here costs anything.
    """

    def __init__(self, model: nn.Module, *, decay: float) -> None:
        self.decay = decay
        self.weights = [weight for weight in model.parameters() if weight.requires_grad and decay]
        self.average = [weight.detach().clone() for weight in self.weights]
        self.steps = 0
        self.is_shown = False

    @torch.no_grad()
    def update(self) -> None:
        """After each optimiser step."""
        if not self.weights:
            return
        self.steps += 1
        kept = min(self.decay, (1 + self.steps) / (10 + self.steps))
        get_ema_multi_avg_fn(kept)(self.average, self.weights, None)  # all of them at once

    @torch.no_grad()
    def restart(self) -> None:
        """Training goes on from the average, and a new one begins."""
        for average, weight in zip(self.average, self.weights, strict=True):
            weight.copy_(average)
        self.steps = 0

    @contextlib.contextmanager
    def shown(self, is_shown: bool = True) -> Iterator[None]:
        """Inside, the model has the averaged weights; with False its own, wherever it was."""
        before = self.is_shown
        self._show(is_shown)
        try:
            yield
        finally:
            self._show(before)

    def _show(self, is_shown: bool) -> None:
        if is_shown != self.is_shown:
            for number, weight in enumerate(self.weights):
                weight.data, self.average[number] = self.average[number], weight.data
            self.is_shown = is_shown

    def state_dict(self) -> dict[str, Any]:
        """For a checkpoint; not to be called while the average is shown."""
        return {"average": list(self.average), "steps": self.steps}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Goes back to a `state_dict`."""
        for average, saved in zip(self.average, state["average"], strict=True):
            average.copy_(saved)
        self.steps = state["steps"]
