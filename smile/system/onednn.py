"""What oneDNN, the library with which torch multiplies packed weights, does on this CPU."""

from functools import cache

import torch


@cache
def multiplies(dtype: torch.dtype) -> bool:
    """Whether it multiplies matrices of a type, packed or not, by a product of 32 x 32 ones."""
    if not asks(torch.backends.mkldnn, "is_available"):
        return False
    ones = torch.ones(32, 32, dtype=dtype, device="cpu")
    try:
        weights = ones, torch.ops.mkldnn._reorder_linear_weight(ones)
        product = torch.ops.mkldnn._linear_pointwise
        found = [product(ones, weight, ones[0], "none", [], "none") for weight in weights]
    except (AttributeError, RuntimeError):  # this torch lacks it, or how it refuses
        return False
    return all(bool((one == 33).all()) for one in found)


@cache
def fuses() -> bool:
    """Whether it can apply a GELU within a product.

    Not with Arm's Compute Library, which multiplies fast only by itself.
    """
    return not asks(torch.ops.mkldnn, "_is_mkldnn_acl_supported")


def asks(place: object, name: str) -> bool:
    """What a function of torch without arguments says; False where this torch lacks it."""
    return hasattr(place, name) and bool(getattr(place, name)())
