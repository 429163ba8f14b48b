"""The report of `--dry-run`: sizes, memory and the expected time of the run."""

import math
import os
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

from smile.errors import counted

try:
    import resource
except ImportError:  # Windows has none
    resource = None  # type: ignore[assignment]


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """Measurements of one batch through everything.

    parameters: number in the captioner. images, captions: number in the batch.
    tokens: length of the batch's longest caption.
    steps, val_batches, val_captions: number in an epoch. epochs: number in the run.
    data_seconds: to load a step's batches. step_seconds: to train on them.
    val_seconds: for a validation batch. caption_seconds: to generate one caption.
    workers: processes that load batches.
    """

    device: torch.device
    precision: str
    parameters: int
    images: int
    captions: int
    tokens: int
    steps: int
    val_batches: int
    val_captions: int
    epochs: int
    workers: int
    data_seconds: float
    step_seconds: float
    val_seconds: float
    caption_seconds: float
    loss: float
    caption: str

    @property
    def epoch_seconds(self) -> float:
        """The time of an epoch; workers load batches during the steps."""
        step = self.step_seconds + self.data_seconds
        if self.workers:
            step = max(self.step_seconds, self.data_seconds / self.workers)
        return (
            self.steps * step
            + self.val_batches * self.val_seconds
            + self.val_captions * self.caption_seconds
        )

    def lines(self) -> list[str]:
        weights = 4 * self.parameters
        return [
            f"captioner   {self.parameters / 1e6:.1f} M parameters on {self.device}"
            f"{' (no GPU found)' * (self.device.type == 'cpu')}, {self.precision}",
            f"step        {counted(self.images, 'image')} with {counted(self.captions, 'caption')} "
            f"of up to {self.tokens} tokens, prompt included; {counted(self.steps, 'step')} an "
            "epoch",
            f"            loss {self.loss:.3f} a token; {self.step_seconds:.3f} s, and "
            f"{self.data_seconds:.3f} s to load its data",
            f"validation  {counted(self.val_batches, 'batch', 'batches')} of "
            f"{self.val_seconds:.3f} s, {counted(self.val_captions, 'caption')} of "
            f"{self.caption_seconds:.3f} s",
            f"caption     {self.caption}",
            f"memory      at most {size(peak_memory(self.device))} so far, of "
            f"{size(total_memory(self.device))}",
            f"disk        {size(3 * weights)} a checkpoint, of which two are kept, and "
            f"{size(weights)} a captioner",
            f"time        about {duration(self.epoch_seconds)} an epoch, "
            f"{duration(self.epochs * self.epoch_seconds)} for {counted(self.epochs, 'epoch')}",
        ]


def timed(action: Callable[[], Any]) -> tuple[Any, float]:
    """What `action` returns, and the seconds it took."""
    start = time.perf_counter()
    return action(), time.perf_counter() - start


def peak_memory(device: torch.device) -> float:
    """Peak memory in bytes: on a GPU that of tensors, else that of this process.

    Infinity where the system does not tell.
    """
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    if resource is None:
        return math.inf
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def total_memory(device: torch.device) -> float:
    """Total memory in bytes: of the GPU, else of this machine; infinity if unknown."""
    if device.type == "cuda":
        return torch.cuda.get_device_properties(device).total_memory
    if hasattr(os, "sysconf") and "SC_PHYS_PAGES" in os.sysconf_names:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return math.inf


def size(num_bytes: float) -> str:
    """A size such as 1.50 GB; infinity stands for an unknown one."""
    if num_bytes == math.inf:
        return "an unknown amount"
    return f"{num_bytes / 1e9:.2f} GB" if num_bytes >= 1e9 else f"{num_bytes / 1e6:.0f} MB"


def duration(seconds: float) -> str:
    hours, minutes = divmod(round(seconds) // 60, 60)
    if hours:
        return f"{hours} h {minutes} min"
    return f"{minutes} min {round(seconds) % 60} s" if minutes else f"{seconds:.1f} s"
