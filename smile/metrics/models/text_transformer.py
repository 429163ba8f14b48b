"""The causal pre-norm Transformer over token ids that CLIP's text tower and GPT-2 share.

The sum of token and position embeddings goes through pre-norm blocks, in which each position
attends to itself and those before it, and a last LayerNorm (Radford et al. 2019).
"""

from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from smile.errors import UserError
from smile.model.layers import Activation, PreNormBlock, embedding
from smile.system.files import expect, show


def quick_gelu(x: Tensor) -> Tensor:
    """The sigmoid approximation of GELU in OpenAI's CLIP: x · sigmoid(1.702 x)."""
    return x * torch.sigmoid(1.702 * x)


def gelu_tanh(x: Tensor) -> Tensor:
    """GPT-2's approximation of GELU: x / 2 · (1 + tanh(√(2 / π) · (x + 0.044715 x³)))."""
    return F.gelu(x, approximate="tanh")


# By the names of `transformers` configs.
ACTIVATIONS: dict[str, Activation] = {
    "gelu": F.gelu,
    "quick_gelu": quick_gelu,
    "gelu_new": gelu_tanh,
    "gelu_pytorch_tanh": gelu_tanh,
}


def known_activation(name: object, *, source) -> str:
    """`name`, if `ACTIVATIONS` has it. Raises UserError, naming `source`, if not."""
    if name not in list(ACTIVATIONS):
        known = ", ".join(ACTIVATIONS)
        raise UserError(f"{source}: activation {show(name)}, expected one of {known}")
    return name


class Sizes:
    """The numbers of an object in a `config.json`; a missing one has transformers' default.

    Args:
        values: the object. source: the file, and the object's place in it.
    """

    def __init__(self, values: dict[str, Any], source: object):
        self.values, self.source = values, source

    def get(self, key: str, default: float, *, most: int = 1_000_000) -> Any:
        """A number above 0; a whole number if the default is one.

        Raises:
            UserError: it is something else, or above `most`.
        """
        value, where = self.values.get(key), f"{self.source}: {key}"
        value = default if value is None else expect(value, type(default), where=where)
        if not 0 < value <= most:
            raise UserError(f"{where}: found {show(value)}, expected a number from 1 to {most}")
        return value

    def multiple(self, key: str, default: int, of: str, of_default: int) -> tuple[int, int]:
        """Two whole numbers; the first must be a multiple of the second."""
        value, other = self.get(key, default, most=100_000), self.get(of, of_default)
        if value % other:
            raise UserError(
                f"{self.source}: {key}: found {value}, expected a multiple of {of}, {other}"
            )
        return value, other

    def part(self, key: str) -> "Sizes":
        """The object under a key."""
        where = f"{self.source}: {key}"
        return Sizes(expect(self.values.get(key) or {}, dict, where=where), where)


@dataclass(frozen=True, kw_only=True)
class TextConfig:
    """Sizes of a `TextTransformer`."""

    vocab_size: int
    max_positions: int
    dim: int
    depth: int
    num_heads: int
    mlp_dim: int
    norm_eps: float = 1e-5
    activation: str = "quick_gelu"  # a name of `ACTIVATIONS`


class TextTransformer(nn.Module):
    """Token ids → a state at each position, which depends on the tokens up to it."""

    def __init__(self, *, config: TextConfig):
        super().__init__()
        self.config = config
        self.token_embed = embedding(config.vocab_size, config.dim)
        self.position_embed = embedding(config.max_positions, config.dim)
        self.blocks = nn.ModuleList(
            PreNormBlock(
                dim=config.dim,
                num_heads=config.num_heads,
                mlp_dim=config.mlp_dim,
                norm_eps=config.norm_eps,
                activation=ACTIVATIONS[config.activation],
            )
            for _ in range(config.depth)
        )
        self.norm = nn.LayerNorm(config.dim, eps=config.norm_eps)

    def forward(self, ids: Tensor) -> Tensor:
        """(B, T) → (B, T, D). Padding goes to the right, where no token of the text sees it.

        Raises:
            ValueError: if T is more than `max_positions`.
        """
        length = ids.size(1)
        if length > self.config.max_positions:
            raise ValueError(f"{length} tokens, but the model has {self.config.max_positions}")
        x = self.token_embed(ids) + self.position_embed.weight[:length]
        for block in self.blocks:
            x = block(x, causal=True)
        return self.norm(x)
