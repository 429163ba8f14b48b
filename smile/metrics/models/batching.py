"""Texts of different length made one tensor."""

import torch
from torch import Tensor


def pad(rows: list[list[int]], *, value: int, device: torch.device) -> Tensor:
    """Lists of ids → (B, longest) ids, filled up with `value` on the right."""
    longest = max(map(len, rows))
    return torch.tensor([row + [value] * (longest - len(row)) for row in rows], device=device)
