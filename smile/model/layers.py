"""The layers everything here is built from: multi-head attention, the MLP, the pre-norm block.

One attention module serves the ViT's self-attention, the decoder's causal self-attention (with or
without a cache) and its cross-attention. What differs is where the keys and values come from, so
the module has a verb for each step:

    cross-attention     keys_values(source) once per image; forward(x, keys_values) as often as read
    self-attention      project(x) for queries, keys and values; attend(…), with a cache before it
                        or not; out(…)
"""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

KeysValues = tuple[Tensor, Tensor]
Activation = Callable[[Tensor], Tensor]


class Attention(nn.Module):
    """Multi-head scaled dot-product attention ("Attention Is All You Need", section 3.2).

    Args:
        dim: width of the queries and of the output; each head is `dim / num_heads` wide.
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

    def project(self, x: Tensor) -> tuple[Tensor, KeysValues]:
        """For self-attention: (B, T, D) → queries, keys and values, (B, heads, T, head_dim)."""
        return self._by_head(self.query(x)), self.keys_values(x)

    def keys_values(self, source: Tensor) -> KeysValues:
        """(B, S, source_dim) → keys and values, each (B, heads, S, head_dim)."""
        return self._by_head(self.key(source)), self._by_head(self.value(source))

    def forward(self, x: Tensor, keys_values: KeysValues) -> Tensor:
        """(B·K, T, D), keys and values of B sources → (B·K, T, D).

        K rows of `x` that share a source stand next to each other. Their queries are laid end to
        end (K·T of them), so the source is read in place and never copied K times. The other way
        round, a single row of `x` reads each of the B sources: (1, T, D) → (B, T, D).
        """
        sources = keys_values[0].size(0)
        queries = self._by_head(self.query(x), rows=max(1, x.size(0) // sources))
        attended = self.attend(queries.expand(sources, -1, -1, -1), keys_values)
        return self.out(attended.view(-1, *x.shape[1:]))

    def attend(
        self, queries: Tensor, keys_values: KeysValues, *, mask: Tensor | None = None, causal=False
    ) -> Tensor:
        """(B, heads, T, head_dim) queries → (B, T, D), the heads side by side.

        Args:
            mask: bool, broadcast to (B, heads, T, S); True where a query may look.
            causal: position t sees positions up to t only; for S = T, without `mask`.
        """
        attended = F.scaled_dot_product_attention(
            queries,
            *keys_values,
            attn_mask=mask,
            dropout_p=self.dropout if self.training else 0.0,
            is_causal=causal,
        )
        return attended.transpose(1, 2).flatten(2)

    def weights(self, x: Tensor, keys_values: KeysValues) -> Tensor:
        """Where `forward` looks, without a mask: (B·K, T, D) → (B·K, heads, T, S), sums of 1."""
        keys, _ = keys_values
        rows = x.size(0) // keys.size(0)
        weights = attention_weights(self._by_head(self.query(x), rows), keys)
        return rearrange(weights, "b h (k t) s -> (b k) h t s", k=rows)

    def _by_head(self, x: Tensor, rows: int = 1) -> Tensor:
        """(B·rows, T, heads·head_dim) → (B, heads, rows·T, head_dim), uncopied."""
        heads = x.view(x.size(0) // rows, -1, self.num_heads, x.size(2) // self.num_heads)
        return heads.transpose(1, 2)


def attention_weights(queries: Tensor, keys: Tensor) -> Tensor:
    """softmax(q kᵀ / √d): (..., T, d) queries, (..., S, d) keys → (..., T, S)."""
    return (queries * keys.size(-1) ** -0.5 @ keys.transpose(-2, -1)).softmax(dim=-1)


class MLP(nn.Module):
    """Two linear layers applied to each position, between them the exact (erf) GELU or another."""

    def __init__(self, *, dim: int, hidden_dim: int, activation: Activation = F.gelu):
        super().__init__()
        self.activation = activation
        self.fc1 = nn.Linear(dim, hidden_dim)
        self.fc2 = nn.Linear(hidden_dim, dim)

    def forward(self, x: Tensor) -> Tensor:
        """(..., D) → (..., D)."""
        return self.fc2(self.activation(self.fc1(x)))


class DropPath(nn.Module):
    """Stochastic depth (Huang et al. 2016): in training, a residual branch is skipped per sample.

    Branches that stay are scaled by 1 / (1 - probability), so evaluation needs no correction.
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
        drop_path: stochastic depth's chance of skipping either branch in training.
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
        """(B, T, D) → (B, T, D); causal: position t sees positions up to t only."""
        queries, keys_values = self.attention.project(self.norm1(x))
        attended = self.attention.attend(queries, keys_values, causal=causal)
        x = x + self.drop_path(self.attention.out(attended))
        return x + self.drop_path(self.mlp(self.norm2(x)))


def embedding(entries: int, dim: int) -> nn.Embedding:
    """An embedding whose numbers are still to come, from `init_weights` or a file.

    nn.Embedding would draw them, for which torch, on the meta device, first imports its compiler:
    more than a second, when a model could be at work already.
    """
    return nn.Embedding.from_pretrained(torch.empty(entries, dim), freeze=False)
