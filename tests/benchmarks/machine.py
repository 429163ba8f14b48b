"""What the machine itself can do: the rates that a model's times are held against; and ratios."""

import statistics
import time
from collections.abc import Callable
from functools import partial

import project  # noqa: F401
import torch
import torch.nn.functional as F

from smile.captioning.packed import PackedLinear
from smile.system.onednn import multiplies

LONGEST = 10.0  # seconds for one measurement, or a single call


def wait_for(device: str) -> None:
    """Returns when the device has done all it was given: CUDA works on while Python goes on."""
    if device == "cuda":
        torch.cuda.synchronize()


def best(call: Callable[[], object], *, device: str = "cpu", rounds: int = 15) -> float:
    """Seconds of a call, the shortest of several: what the machine does when left alone.

    After `LONGEST` seconds no other round begins.
    """
    times: list[float] = []
    with torch.inference_mode():
        while len(times) < rounds and sum(times) < LONGEST:
            wait_for(device)
            started = time.perf_counter()
            call()
            wait_for(device)
            times.append(time.perf_counter() - started)
    return min(times)


def speedup(times: dict[str, list[float]], who: str, *, over: str) -> float:
    """How many times as fast as another one it is: the median of the rounds' own ratios."""
    return statistics.median(b / a for a, b in zip(times[who], times[over], strict=True))


def matmul_rate(device: str, shapes: list[tuple[int, int, int]], *, dtype: torch.dtype) -> float:
    """Operations per second of `torch.mm`, at the best of some shapes (M, K, N) and a large square.

    Random numbers: of zeros a GPU multiplies more in a second than of anything else.
    """
    size = 8192 if device == "cuda" else 2048
    rates = []
    for m, k, n in ((size, size, size), *shapes):
        a, b = (torch.randn(s, device=device, dtype=dtype) for s in ((m, k), (k, n)))
        rates.append(2 * m * k * n / best(lambda a=a, b=b: a @ b, device=device))
    return max(rates)


def packed_rate(
    dtype: torch.dtype, *, rows: int = 1576, dim: int = 768, hidden: int = 3072
) -> float:
    """Operations per second of a matrix product on the CPU, packed as our own are.

    Where the CPU does not multiply this type, it is the product of what is not packed.
    """
    x = torch.randn(rows, dim, dtype=dtype)
    weight, bias = torch.randn(hidden, dim, dtype=dtype), torch.zeros(hidden, dtype=dtype)
    plain = partial(F.linear, weight=weight, bias=bias)
    layer = PackedLinear(weight, bias) if multiplies(dtype) else plain
    return 2 * rows * dim * hidden / best(lambda: layer(x))


def copy_rate(device: str) -> float:
    """Bytes per second of a copy, read and written."""
    source = torch.randn(1_000_000_000 if device == "cuda" else 40_000_000, device=device)
    target = torch.empty_like(source)
    return 2 * source.numel() * 4 / best(lambda: target.copy_(source), device=device)
