"""Pads texts of different length to one tensor."""

import torch
from torch import Tensor


def pad(rows: list[list[int]], *, value: int, device: torch.device) -> Tensor:
    """Lists of ids → (B, longest) ids, padded with `value` on the right."""
    longest = max(map(len, rows))
    return torch.tensor([row + [value] * (longest - len(row)) for row in rows], device=device)
