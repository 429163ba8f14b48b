"""Weights must be finite floating-point numbers; they become float32, or bfloat16 if asked for.

Files of weights are often in half precision. Which it is does not matter: `load` decides.
"""

import torch
from torch import Tensor

FLOATS = tuple(
    getattr(torch, name)
    for name in (
        *("float32", "float16", "bfloat16", "float64"),
        *("float8_e4m3fn", "float8_e5m2", "float8_e4m3fnuz", "float8_e5m2fnuz"),
    )
    if hasattr(torch, name)
)


def unusable(weight: object) -> str:
    """Why something cannot be a weight, as the end of a sentence; "" if it can."""
    expected = "expected a plain tensor of floating-point numbers"
    if not isinstance(weight, Tensor):
        return f"is {weight}, {expected}"
    if weight.layout != torch.strided:
        return f"is sparse ({weight.layout}), {expected}"
    if weight.dtype not in FLOATS:
        return f"is of {weight.dtype}, {expected}"
    return ""


def to_float32(weight: Tensor) -> Tensor:
    """A weight as float32; see `to_dtype`."""
    return to_dtype(weight, torch.float32)


def to_dtype(weight: Tensor, dtype: torch.dtype) -> Tensor:
    """A weight as `dtype`, without a copy if it is of that type already.

    Raises:
        ValueError: a number is not finite, or too large for `dtype`; says which.
    """
    result = weight.detach().to(dtype)
    # A finite sum proves finite terms in one pass; the other checks are for the error.
    if not result.is_meta and not result.sum().isfinite() and not result.isfinite().all():
        if weight.double().isfinite().all():
            largest, name = torch.finfo(dtype).max, str(dtype).removeprefix("torch.")
            raise ValueError(f"holds numbers beyond {largest:.1e}, {name}'s largest")
        raise ValueError("holds NaN or infinity: the training it comes from diverged, or it is "
                         "damaged")  # fmt: skip
    return result
