"""The image encoder: a Vision Transformer (Dosovitskiy et al. 2021) as BLIP uses it.

An image is cut into square patches; each becomes a token, a class token stands before them, learned
positions are added, and pre-norm Transformer blocks mix them. The captioner reads all the tokens,
the class token too.
"""

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from smile.config import ViTConfig
from smile.layers import Activation, PreNormBlock


class ViT(nn.Module):
    """Image → one feature vector for the whole and one for each patch.

    In training, the last `checkpoint_blocks` blocks keep only their input, and are computed a
    second time for the backward pass: less memory for more time, and the same gradients (stochastic
    depth included, whose random numbers are drawn again alike).

    Args:
        clip: CLIP's variant: patches have no bias, and a LayerNorm stands before the first block.
        activation: of the MLPs.
    """

    def __init__(self, *, config: ViTConfig, clip: bool = False, activation: Activation = F.gelu):
        super().__init__()
        self.config = config
        grid = config.image_size // config.patch_size
        patch = config.patch_size
        self.patch_embed = nn.Conv2d(3, config.dim, kernel_size=patch, stride=patch, bias=not clip)
        self.class_token = nn.Parameter(torch.zeros(1, 1, config.dim))
        self.positions = nn.Parameter(torch.zeros(1, 1 + grid * grid, config.dim))
        # Stochastic depth grows linearly from 0 at the first block to its full value at the last.
        drop_paths = torch.linspace(0, config.drop_path, config.depth, device="cpu").tolist()
        self.embed_norm = nn.LayerNorm(config.dim, eps=config.norm_eps) if clip else nn.Identity()
        self.blocks = nn.ModuleList(
            PreNormBlock(
                dim=config.dim,
                num_heads=config.num_heads,
                mlp_dim=config.mlp_dim,
                norm_eps=config.norm_eps,
                drop_path=p,
                activation=activation,
            )
            for p in drop_paths
        )
        self.norm = nn.LayerNorm(config.dim, eps=config.norm_eps)
        self.checkpoint_blocks = 0

    def forward(self, images: Tensor) -> Tensor:
        """(B, 3, S, S) → (B, 1 + (S / patch_size)², D).

        Raises:
            ValueError: if S is not the configured image size.
        """
        size = self.config.image_size
        if images.shape[1:] != (3, size, size):
            raise ValueError(
                f"images are {tuple(images.shape)}, expected (B, 3, {size}, {size}); "
                "load the model with image_size=… to use another size"
            )
        patches = rearrange(self.patch_embed(images), "b d h w -> b (h w) d")
        class_token = self.class_token.expand(images.size(0), -1, -1)
        x = self.embed_norm(torch.cat([class_token, patches], dim=1) + self.positions)
        kept = len(self.blocks) - self.checkpoint_blocks
        for number, block in enumerate(self.blocks):
            again = number >= kept and torch.is_grad_enabled()
            x = checkpoint(block, x, use_reentrant=False) if again else block(x)
        return self.norm(x)


def interpolate_positions(positions: Tensor, *, grid: int) -> Tensor:
    """Position embeddings for another image size: (1, 1 + g², D) → (1, 1 + grid², D).

    Patch positions are resized bicubically (`align_corners=False`), the class position is kept, as
    BLIP does when it loads a 224 px checkpoint at 384 px.
    """
    old_grid = round((positions.size(1) - 1) ** 0.5)
    if old_grid == grid:
        return positions
    class_position, patches = positions[:, :1], positions[:, 1:]
    patches = rearrange(patches, "1 (h w) d -> 1 d h w", h=old_grid)
    resized = F.interpolate(patches.float(), size=(grid, grid), mode="bicubic", align_corners=False)
    patches = rearrange(resized.to(positions.dtype), "1 d h w -> 1 (h w) d")
    return torch.cat([class_position, patches], dim=1)
