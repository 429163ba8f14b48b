"""Position embeddings of an encoder for another image size than it was trained with."""

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor


def interpolate_positions(positions: Tensor, *, grid: int) -> Tensor:
    """(1, 1 + g², D) → (1, 1 + grid², D).

    Patch positions are resized bicubically (`align_corners=False`) and the class position is kept,
    as in BLIP when it loads a 224 px checkpoint at 384 px.
    """
    old_grid = round((positions.size(1) - 1) ** 0.5)
    if old_grid == grid:
        return positions
    class_position, patches = positions[:, :1], positions[:, 1:]
    patches = rearrange(patches, "1 (h w) d -> 1 d h w", h=old_grid)
    resized = F.interpolate(patches.float(), size=(grid, grid), mode="bicubic", align_corners=False)
    patches = rearrange(resized.to(positions.dtype), "1 d h w -> 1 (h w) d")
    return torch.cat([class_position, patches], dim=1)
