"""Many items, a batch at a time; texts of different length made one tensor."""

from collections.abc import Iterable, Iterator
from itertools import islice

import torch
from torch import Tensor


def batches(items: Iterable, size: int) -> Iterator[list]:
    """Lists of up to `size` items; nothing is read before it is needed."""
    items = iter(items)
    while batch := list(islice(items, size)):
        yield batch


def pad(rows: list[list[int]], *, value: int, device: torch.device) -> Tensor:
    """Lists of ids → (B, longest) ids, filled up with `value` on the right."""
    longest = max(map(len, rows))
    return torch.tensor([row + [value] * (longest - len(row)) for row in rows], device=device)
