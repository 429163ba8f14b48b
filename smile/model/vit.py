"""The image encoder: a Vision Transformer (Dosovitskiy et al. 2021) as BLIP uses it.

An image is cut into square patches, each of which becomes a token. A class token comes first,
learned position embeddings are added, and pre-norm Transformer blocks mix the tokens. The decoder
attends to all of them, the class token included.
"""

from itertools import pairwise

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from smile.config import ViTConfig
from smile.model.layers import Activation, PreNormBlock


class ConvStem(nn.Module):
    """Patch tokens from a stack of small convolutions (after Xiao et al. 2021, arXiv 2106.14881).

    Small convolutions are local and translation-equivariant: a dog is a dog two pixels further on.
    The usual stem, one convolution as large as a patch, has to learn both from the data, and a few
    thousand images are too few for that. Each stage halves height and width; the last has D
    channels. GroupNorm, unlike BatchNorm, keeps the images of a batch independent.
    """

    def __init__(self, *, config: ViTConfig):
        super().__init__()
        stages = config.patch_size.bit_length() - 1  # log2: patch_size is a power of two
        channels = [3, *(max(8, config.dim >> n) for n in reversed(range(1, stages))), config.dim]
        self.halve, self.refine = nn.ModuleList(), nn.ModuleList()
        for c_in, c_out in pairwise(channels):
            norms = [nn.GroupNorm(1, c_out, eps=config.norm_eps) for _ in range(2)]
            self.halve.append(nn.Sequential(nn.Conv2d(c_in, c_out, 3, 2, 1), norms[0], nn.GELU()))
            self.refine.append(nn.Sequential(nn.Conv2d(c_out, c_out, 3, 1, 1), norms[1], nn.GELU()))

    def forward(self, images: Tensor) -> Tensor:
        """(B, 3, S, S) → (B, D, S / patch_size, S / patch_size)."""
        x = images
        for halve, refine in zip(self.halve, self.refine, strict=True):
            x = halve(x)
            x = x + refine(x)
        return x


class ViT(nn.Module):
    """Pixels → a feature vector of the class token and of each patch.

    Args:
        clip: CLIP's variant, for scoring captions: the patch embedding has no bias, and a LayerNorm
            comes before the first block.
        activation: of the MLPs.
    """

    def __init__(self, *, config: ViTConfig, clip: bool = False, activation: Activation = F.gelu):
        super().__init__()
        self.config = config
        patch = config.patch_size
        grid = config.image_size // patch
        if config.stem == "conv":
            self.patch_embed: nn.Module = ConvStem(config=config)
        else:
            self.patch_embed = nn.Conv2d(3, config.dim, patch, stride=patch, bias=not clip)
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

    def forward(self, images: Tensor) -> Tensor:
        """(B, 3, S, S) → (B, 1 + (S / patch_size)², D).

        Raises:
            ValueError: S is not the configured image size.
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
        for block in self.blocks:
            x = block(x)
        features: Tensor = self.norm(x)
        return features
