"""Which objective at which epoch, and which learning rate at which step."""

import math
from dataclasses import dataclass

from smile.config import Config, TrainConfig


@dataclass(frozen=True)
class Phase:
    """Consecutive epochs with one objective and a separate warm-up and cosine.

    first_epoch, epochs: the first one (counted from 0), and their number.
    lr, warmup_steps: the peak learning rate, and the number of optimiser steps until it is reached.
    """

    objective: str
    first_epoch: int
    epochs: int
    lr: float
    warmup_steps: int

    @classmethod
    def of(cls, config: Config, epoch: int) -> "Phase":
        """The phase of `epoch` (counted from 0)."""
        loss, total = config.loss, config.train.epochs
        lr, warmup = config.train.lr, config.train.warmup_steps
        if loss.objective == "mle" or loss.mle_epochs == 0:
            return cls(loss.objective, 0, total, lr, warmup)
        if epoch < loss.mle_epochs:
            return cls("mle", 0, loss.mle_epochs, lr, warmup)
        lr, warmup = loss.lr or lr, loss.warmup_steps or warmup  # 0: as in [train]
        return cls(loss.objective, loss.mle_epochs, total - loss.mle_epochs, lr, warmup)

    def is_validated(self, config: TrainConfig, epoch: int) -> bool:
        """Whether the captioner is validated after `epoch`: each `val_every`th, and the last."""
        last = epoch + 1 == self.first_epoch + self.epochs
        return last or (epoch + 1) % config.val_every == 0

    def learning_rate(self, config: TrainConfig, *, epoch: int, step: int, steps: int) -> float:
        """The rate at optimiser step `step` (from 0) of `steps` in `epoch`."""
        return learning_rate(
            (epoch - self.first_epoch) * steps + step,
            self.epochs * steps,
            lr=self.lr,
            min_lr=config.min_lr,
            warmup=self.warmup_steps,
        )


def learning_rate(step: int, total: int, *, lr: float, min_lr: float, warmup: int) -> float:
    """Linear warm-up to `lr`, then half a cosine (Loshchilov and Hutter 2017) down to `min_lr`.

    `step` counts from 0; `min_lr` is reached at step `total - 1`.
    """
    if step < warmup:
        return lr * (step + 1) / warmup
    progress = (step - warmup) / max(1, total - 1 - warmup)
    return min_lr + (lr - min_lr) * 0.5 * (1 + math.cos(math.pi * min(progress, 1)))
