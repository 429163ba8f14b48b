"""The moving average of a run's weights, which validates, captions and is saved (`train.ema`).

On small data, optimiser steps are noisy. The average over the last few hundred steps gives better
captions than the weights of any single step (Polyak and Juditsky 1992). Training does not use it.
"""

import contextlib
from collections.abc import Iterator
from typing import Any

import torch
from torch import nn
from torch.optim.swa_utils import get_ema_multi_avg_fn


class WeightAverage:
    """Exponential moving average of a model's trained weights.

    The model holds either the trained weights or, inside `shown`, the averaged ones. The two
    exchange their memory, so nothing is copied.

    Args:
        decay: share of the average that each step keeps; 0: no average, at no cost. Early steps
            keep less, or the first, random weights would dominate the average.
    """

    def __init__(self, model: nn.Module, *, decay: float) -> None:
        self.decay = decay
        self.weights = [weight for weight in model.parameters() if weight.requires_grad and decay]
        self.average = [weight.detach().clone() for weight in self.weights]
        self.steps = 0
        self.is_shown = False

    @torch.no_grad()
    def update(self) -> None:
        """Updates the average; call it after each optimiser step."""
        if not self.weights:
            return
        self.steps += 1
        decay = min(self.decay, (1 + self.steps) / (10 + self.steps))  # as TensorFlow's EMA
        get_ema_multi_avg_fn(decay)(self.average, self.weights, None)  # all tensors at once

    @torch.no_grad()
    def restart(self) -> None:
        """Copies the average to the trained weights and starts a new average from there."""
        for average, weight in zip(self.average, self.weights, strict=True):
            weight.copy_(average)
        self.steps = 0

    @contextlib.contextmanager
    def shown(self, is_shown: bool = True) -> Iterator[None]:
        """A context in which the model has the averaged weights, or with False the trained ones."""
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
        """The state for a checkpoint; must not be called while the average is shown."""
        return {"average": list(self.average), "steps": self.steps}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restores a `state_dict`."""
        for average, saved in zip(self.average, state["average"], strict=True):
            average.copy_(saved)
        self.steps = state["steps"]
