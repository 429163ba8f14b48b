"""What oneDNN, the library with which torch multiplies packed weights, does on this CPU."""

import platform
from functools import cache

import torch

CPUINFO = "/proc/cpuinfo"  # Linux


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


@cache
def outruns_mkl() -> bool:
    """Whether oneDNN is faster than MKL at float32 weights in their usual layout.

    MKL is torch's own choice. On two cores of an Intel Xeon with AVX-512 MKL is faster: BLIP base
    captions one photo 1.2 times as fast, and takes a training step in 0.9 of the time.
    """
    return not (asks(torch.backends.mkl, "is_available") and is_intel())


@cache
def is_intel() -> bool:
    """Whether Intel makes the processor, as far as the system says."""
    try:
        with open(CPUINFO, errors="replace") as file:
            processor = file.read(1000)
    except OSError:
        processor = platform.processor()  # Windows: "Intel64 Family 6 Model 207, GenuineIntel"
    return "GenuineIntel" in processor


def asks(place: object, name: str) -> bool:
    """What a function of torch without arguments says; False where this torch lacks it."""
    return hasattr(place, name) and bool(getattr(place, name)())
