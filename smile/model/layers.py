"""The layers everything here is built from: multi-head attention, the MLP, the pre-norm block.

One attention module serves the ViT's self-attention, the decoder's causal self-attention and its
cross-attention. They differ in where the keys and values come from:

    attention.self_attend(x)             from `x` itself and, during generation, the words before it
    attention(x, keys_values)            from something else, projected once: keys_values(source)
"""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from smile.model.cache import KeysValues, PastCache

Activation = Callable[[Tensor], Tensor]


class Attention(nn.Module):
    """Multi-head scaled dot-product attention ("Attention Is All You Need", section 3.2).

    Args:
        dim: width D of the queries and of the output; each head is `dim / num_heads` wide.
        num_heads: number of heads; divides `dim`.
        source_dim: width of what is attended to; `dim` unless given.
        dropout: probability that an attention weight is dropped in training.
    """

    def __init__(
        self, *, dim: int, num_heads: int, source_dim: int | None = None, dropout: float = 0.0
    ):
        super().__init__()
        self.num_heads = num_heads
        self.dropout = dropout
        self.query = nn.Linear(dim, dim)
        self.key = nn.Linear(source_dim or dim, dim)
        self.value = nn.Linear(source_dim or dim, dim)
        self.out = nn.Linear(dim, dim)

    def self_attend(
        self, x: Tensor, *, causal: bool = False, past: PastCache | None = None
    ) -> Tensor:
        """Self-attention: (B, T, D) → (B, T, D).

        Args:
            causal: position t attends to positions up to t only.
            past: keys and values of the positions before `x`; those of `x` are added to it.
        """
        queries, keys_values = self.project(x)
        if past is not None:
            keys_values = past.append(keys_values)
        causal = causal and x.size(1) > 1  # a single position is the last: it may see all others
        x = self.attend(queries, keys_values, causal=causal)
        x = self.out(self.merge_heads(x))
        return x

    def forward(self, x: Tensor, keys_values: KeysValues) -> Tensor:
        """Cross-attention: (B·K, T, D), keys and values of B sources → (B·K, T, D).

        The K rows that share a source stand next to each other in `x`. Their queries become one
        sequence of K·T, so the source's keys and values are read in place and not copied K times.
        """
        copies = x.size(0) // keys_values[0].size(0)
        queries = self.split_heads(self.query(x), copies)
        x = self.attend(queries, keys_values)
        x = self.out(self.merge_heads(x, copies))
        return x

    def project(self, x: Tensor) -> tuple[Tensor, KeysValues]:
        """(B, T, D) → queries, and keys and values, each (B, heads, T, D / heads)."""
        return self.split_heads(self.query(x)), self.keys_values(x)

    def keys_values(self, source: Tensor) -> KeysValues:
        """(B, S, source_dim) → keys and values, each (B, heads, S, D / heads)."""
        return self.split_heads(self.key(source)), self.split_heads(self.value(source))

    def attend(self, queries: Tensor, keys_values: KeysValues, *, causal: bool = False) -> Tensor:
        """softmax(q kᵀ / √d) v: (B, heads, T, d) queries, S keys and values → (B, heads, T, d).

        With `causal`, for which S = T, query t attends to keys up to t only.
        """
        dropout = self.dropout if self.training else 0.0
        return F.scaled_dot_product_attention(
            queries, *keys_values, dropout_p=dropout, is_causal=causal
        )

    @staticmethod
    def weights(queries: Tensor, keys: Tensor) -> Tensor:
        """softmax(q kᵀ / √d): (B, heads, T, d), (B, heads, S, d) → (B, heads, T, S).

        Where each query looks. `attend` uses the same weights, but never holds all of them.
        """
        scale: float = keys.size(-1) ** -0.5
        return (queries * scale @ keys.transpose(-2, -1)).softmax(dim=-1)

    def split_heads(self, x: Tensor, copies: int = 1) -> Tensor:
        """(B·K, T, D) → (B, heads, K·T, D / heads), for K `copies` of each source."""
        return rearrange(x, "(b k) t (h d) -> b h (k t) d", k=copies, h=self.num_heads)

    def merge_heads(self, x: Tensor, copies: int = 1) -> Tensor:
        """The inverse of `split_heads`: (B, heads, K·T, D / heads) → (B·K, T, D)."""
        return rearrange(x, "b h (k t) d -> (b k) t (h d)", k=copies)


class MLP(nn.Module):
    """Two linear layers applied to each position, with the exact (erf) GELU or another between."""

    def __init__(self, *, dim: int, hidden_dim: int, activation: Activation = F.gelu):
        super().__init__()
        self.activation = activation
        self.fc1 = nn.Linear(dim, hidden_dim)
        self.fc2 = nn.Linear(hidden_dim, dim)

    def forward(self, x: Tensor) -> Tensor:
        """(..., D) → (..., D)."""
        x = self.fc2(self.activation(self.fc1(x)))
        return x


class DropPath(nn.Module):
    """Stochastic depth (Huang et al. 2016): in training, a residual branch is skipped per sample.

    Branches that are kept are scaled by 1 / (1 - probability), so evaluation needs no correction.
    """

    def __init__(self, *, probability: float):
        super().__init__()
        self.probability = probability

    def forward(self, branch: Tensor) -> Tensor:
        """(B, ..., D) → (B, ..., D)."""
        if not self.training or self.probability == 0.0:
            return branch
        kept = 1.0 - self.probability
        shape = (branch.size(0),) + (1,) * (branch.dim() - 1)
        return branch * (torch.rand(shape, device=branch.device) < kept) / kept


class PreNormBlock(nn.Module):
    """Transformer block that normalises first: x + attention(norm(x)), then x + mlp(norm(x)).

    Args:
        drop_path: probability that stochastic depth skips a branch in training.
    """

    def __init__(
        self,
        *,
        dim: int,
        num_heads: int,
        mlp_dim: int,
        norm_eps: float,
        drop_path: float = 0.0,
        activation: Activation = F.gelu,
    ):
        super().__init__()
        self.norm1 = nn.LayerNorm(dim, eps=norm_eps)
        self.attention = Attention(dim=dim, num_heads=num_heads)
        self.norm2 = nn.LayerNorm(dim, eps=norm_eps)
        self.mlp = MLP(dim=dim, hidden_dim=mlp_dim, activation=activation)
        self.drop_path = DropPath(probability=drop_path)

    def forward(self, x: Tensor, *, causal: bool = False) -> Tensor:
        """(B, T, D) → (B, T, D); with `causal`, position t attends to positions up to t only."""
        x = x + self.drop_path(self.attention.self_attend(self.norm1(x), causal=causal))
        x = x + self.drop_path(self.mlp(self.norm2(x)))
        return x


def embedding(entries: int, dim: int) -> nn.Embedding:
    """An embedding table that is not initialised: `init_weights` or a file of weights fills it.

    `nn.Embedding` would fill it with random numbers first. On the meta device, where models are
    made before their weights are loaded, that imports torch's compiler: more than a second.
    """
    empty = torch.empty(entries, dim)
    # torch gives this method no types.
    table: nn.Embedding = nn.Embedding.from_pretrained(empty, freeze=False)  # type: ignore[no-untyped-call]
    return table
