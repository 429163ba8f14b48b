"""Linear layers whose weights are int8, for the decoder on the CPU.

A decoding step multiplies a few rows, the next words of a batch, with all weights of the decoder,
and so waits for memory. An int8 is a quarter of a float32. Each output channel's weights have a
scale of their own. The input is quantised as it comes, with one scale and zero point for all of it,
so a word's log-probability depends a little on the images that share its batch.

The arithmetic is torch's (`quantized::linear_dynamic`). torch says that its quantised tensors will
be removed one day; where they are missing, `int8_engine` says so.
"""

import contextlib
import warnings
from collections.abc import Iterator
from functools import cache

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from smile.system.bfloat16 import AMX, bfloat16_unit

LARGEST = 127  # of a weight: symmetric, so that 0 stays 0


class Int8Linear(nn.Module):
    """What `nn.Linear` computes, nearly, with weights in int8 and without gradients.

    Args:
        weight: (D_out, D_in) floating-point numbers. bias: (D_out).
        gelu: apply the exact GELU to the result.

    Raises:
        ValueError: torch has no int8 product here, see `int8_engine`.
    """

    def __init__(self, weight: Tensor, bias: Tensor, *, gelu: bool = False) -> None:
        super().__init__()
        engine = int8_engine()
        if not engine:
            raise ValueError("this torch has no int8 product for this processor")
        self.gelu = gelu
        self.narrow = not _keeps_whole_range(engine)
        # Not a buffer: the layout is opaque, so it can be neither saved nor moved to a device.
        self.packed = _packed(weight.detach(), bias.detach(), engine)

    def forward(self, x: Tensor) -> Tensor:
        """(..., D_in) → (..., D_out), of the type of `x`."""
        y = torch.ops.quantized.linear_dynamic.default(x.float(), self.packed, self.narrow)
        return (F.gelu(y) if self.gelu else y).to(x.dtype)


def quantized(*layers: nn.Linear, gelu: bool = False) -> Int8Linear:
    """An int8 layer whose output is that of all `layers`, concatenated."""
    weight = torch.cat([layer.weight for layer in layers])
    bias = torch.cat([layer.bias for layer in layers])
    return Int8Linear(weight, bias, gelu=gelu)


def _packed(weight: Tensor, bias: Tensor, engine: str) -> torch.ScriptObject:
    """Weights in int8 with a scale for each output channel, laid out for an engine."""
    weight = weight.float()
    # A channel of zeros may have any scale but 0.
    scales = weight.abs().amax(dim=1).div(LARGEST).clamp(min=torch.finfo(torch.float32).tiny)
    with warnings.catch_warnings(), _engine(engine):
        warnings.filterwarnings("ignore", message=".*quantized tensor creation.*deprecated")
        whole = torch.quantize_per_channel(
            weight, scales, torch.zeros_like(scales, dtype=torch.long), axis=0, dtype=torch.qint8
        )
        return torch.ops.quantized.linear_prepack(whole, bias.float())


@contextlib.contextmanager
def _engine(name: str) -> Iterator[None]:
    """Lets torch lay out weights for an engine; others' layers keep the engine they have."""
    before = torch.backends.quantized.engine
    torch.backends.quantized.engine = name
    try:
        yield
    finally:
        torch.backends.quantized.engine = before


# The processor ------------------------------------------------------------------------------------


@cache
def int8_engine() -> str:
    """The library that multiplies int8 fastest here; "" if none of torch's does.

    oneDNN where the processor has AMX. Else FBGEMM, which torch has on x86 alone: on an AMD EPYC
    with AVX2 it takes a third to a fifth of float32's time for a step's few rows, and oneDNN half.
    """
    names = ("onednn", "fbgemm") if bfloat16_unit() == AMX else ("fbgemm", "onednn")
    return next(filter(_multiplies, names), "")


def _multiplies(engine: str) -> bool:
    """Whether this torch has the engine, and its product of inputs of 7 bits is right."""
    if engine not in getattr(torch.backends.quantized, "supported_engines", ()):
        return False
    try:
        return _is_right(engine, narrow=True)
    except (RuntimeError, AttributeError):  # how it refuses, or is missing
        return False


@cache
def _keeps_whole_range(engine: str) -> bool:
    """Whether inputs of 8 bits are multiplied rightly; otherwise they have to do with 7.

    Without VNNI a processor adds two products in 16 bits, where the sum of two large ones is cut.
    """
    return _is_right(engine, narrow=False)


def _is_right(engine: str, *, narrow: bool) -> bool:
    """Whether the product of the largest inputs with the largest weights is."""
    largest = torch.ones(32, 64)
    weights = _packed(largest, torch.zeros(32), engine)
    product = torch.ops.quantized.linear_dynamic(largest, weights, narrow)
    return bool((product - 64).abs().max() < 0.5)
