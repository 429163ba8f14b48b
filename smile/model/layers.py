"""The layers that the model is built from: multi-head attention, the MLP, the pre-norm block.

One attention module serves the ViT's self-attention, the decoder's causal self-attention and its
cross-attention. They differ in where the keys and values come from:

    attention.self_attend(x)             from `x` itself and, during generation, the tokens before
    attention(x, keys_values)            from another source, projected once: keys_values(source)
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
        dim: width D of the queries and of the output; head_dim is `dim / num_heads`.
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
            past: keys and values of the positions before `x`; those of `x` are added to it. If it
                is not empty, `x` must be a single position.
        """
        queries, keys_values = self.project(x)
        if past is not None:
            keys_values = past.append(keys_values)
        causal = causal and x.size(1) > 1  # one position comes after all keys: no mask
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
        """(B, T, D) → queries, and keys and values, each (B, heads, T, head_dim)."""
        return self.split_heads(self.query(x)), self.keys_values(x)

    def keys_values(self, source: Tensor) -> KeysValues:
        """(B, S, source_dim) → keys and values, each (B, heads, S, head_dim)."""
        return self.split_heads(self.key(source)), self.split_heads(self.value(source))

    def attend(self, queries: Tensor, keys_values: KeysValues, *, causal: bool = False) -> Tensor:
        """softmax(q kᵀ / √d) v: (B, heads, T, d) queries, (B, heads, S, d) keys → (B, heads, T, d).

        With `causal`, query t attends to keys up to t only; S must equal T.
        """
        dropout = self.dropout if self.training else 0.0
        return F.scaled_dot_product_attention(
            queries, *keys_values, dropout_p=dropout, is_causal=causal
        )

    @staticmethod
    def weights(queries: Tensor, keys: Tensor) -> Tensor:
        """softmax(q kᵀ / √d): (B, heads, T, d), (B, heads, S, d) → (B, heads, T, S).

        The attention weights, to look at, in float32 at least. `attend` uses the same ones without
        storing them.
        """
        scale: float = keys.size(-1) ** -0.5
        wide = torch.promote_types(queries.dtype, torch.float32)
        scores = queries.to(wide) * scale @ keys.to(wide).transpose(-2, -1)
        return scores.softmax(dim=-1)

    def split_heads(self, x: Tensor, copies: int = 1) -> Tensor:
        """(B·K, T, D) → (B, heads, K·T, head_dim), for K `copies` of each source."""
        return rearrange(x, "(b k) t (h d) -> b h (k t) d", k=copies, h=self.num_heads)

    def merge_heads(self, x: Tensor, copies: int = 1) -> Tensor:
        """The inverse of `split_heads`: (B, heads, K·T, head_dim) → (B·K, T, D)."""
        return rearrange(x, "b h (k t) d -> (b k) t (h d)", k=copies)


class MLP(nn.Module):
    """Two linear layers at each position, with an activation between: by default the exact GELU."""

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
    """Stochastic depth (Huang et al. 2016): training drops a residual branch of random samples.

    Branches that are kept are scaled by 1 / (1 - probability), so evaluation needs no correction.
    """

    def __init__(self, *, probability: float):
        super().__init__()
        self.probability = probability

    def forward(self, branch: Tensor) -> Tensor:
        """(B, ..., D) → (B, ..., D)."""
        if not self.training or self.probability == 0.0:
            return branch
        keep = 1.0 - self.probability
        shape = (branch.size(0),) + (1,) * (branch.dim() - 1)
        return branch * (torch.rand(shape, device=branch.device) < keep) / keep


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
    """An uninitialised embedding table: `init_weights` or a file of weights fills it.

    `nn.Embedding` samples random numbers first. On the meta device, where a model is created before
    its weights are loaded, that imports torch's compiler, which takes more than a second.
    """
    empty = torch.empty(entries, dim)
    table: nn.Embedding = nn.Embedding.from_pretrained(empty, freeze=False)  # type: ignore[no-untyped-call]
    return table
