"""The caption decoder: BERT (Devlin et al. 2019) with causal self-attention and cross-attention.

It reads token ids and image features, and computes a hidden state at each position, from which
`logits` predicts the next token. Blocks are post-norm: the sum of a sub-layer's input and output is
normalised. As in BERT, a linear layer, GELU and LayerNorm (`head_…`) follow the last block.

During generation it reads one token at a time; a `DecoderCache` holds what was computed before.
"""

from collections.abc import Iterator, Sequence
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from smile.config import DecoderConfig
from smile.model.cache import DecoderCache, KeysValues, PastCache
from smile.model.layers import MLP, Attention, embedding


class DecoderBlock(nn.Module):
    """Causal self-attention, cross-attention to the image, MLP; each: norm(x + sub-layer(x))."""

    def __init__(self, *, config: DecoderConfig):
        super().__init__()
        dim, num_heads, dropout = config.dim, config.num_heads, config.dropout
        self.self_attention = Attention(dim=dim, num_heads=num_heads, dropout=dropout)
        self.self_norm = nn.LayerNorm(dim, eps=config.norm_eps)
        self.cross_attention = Attention(
            dim=dim, num_heads=num_heads, source_dim=config.features_dim, dropout=dropout
        )
        self.cross_norm = nn.LayerNorm(dim, eps=config.norm_eps)
        self.mlp = MLP(dim=dim, hidden_dim=config.mlp_dim)
        self.mlp_norm = nn.LayerNorm(dim, eps=config.norm_eps)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor, image: KeysValues, past: PastCache | None = None) -> Tensor:
        """(B·K, T, D), keys and values of B images → (B·K, T, D)."""
        attended = self.self_attention.self_attend(x, causal=True, past=past)
        x = self.self_norm(x + self.dropout(attended))
        x = self.cross_norm(x + self.dropout(self.cross_attention(x, image)))
        x = self.mlp_norm(x + self.dropout(self.mlp(x)))
        return x


class TiedHead(nn.Module):
    """A token's logit is the product of the state and that token's embedding, plus a bias.

    The output embeddings are "tied" to the input embeddings (Press and Wolf 2017). Embeddings and
    bias belong to the decoder, which passes them in each call: a reference stored here would go
    stale when `load_state_dict(assign=True)` replaces the decoder's weights.
    """

    def forward(self, states: Tensor, word_embed: Tensor, bias: Tensor) -> Tensor:
        """(..., D) states, (V, D) embeddings, (V,) bias → (..., V) logits."""
        return F.linear(states, word_embed, bias)


class Decoder(nn.Module):
    """Token ids and image features → hidden states, from which `logits` predicts tokens."""

    def __init__(self, *, config: DecoderConfig):
        super().__init__()
        self.config = config
        self.word_embed = embedding(config.vocab_size, config.dim)
        self.position_embed = embedding(config.max_positions, config.dim)
        self.embed_norm = nn.LayerNorm(config.dim, eps=config.norm_eps)
        self.dropout = nn.Dropout(config.dropout)
        self.blocks = nn.ModuleList(DecoderBlock(config=config) for _ in range(config.depth))
        self.head_dense = nn.Linear(config.dim, config.dim)
        self.head_norm = nn.LayerNorm(config.dim, eps=config.norm_eps)
        self.head_bias = nn.Parameter(torch.zeros(config.vocab_size))
        self.head = TiedHead()

    def forward(
        self,
        ids: Tensor,
        features: Tensor | list[KeysValues] | None,
        cache: DecoderCache | None = None,
    ) -> Tensor:
        """(B·K, T) ids, (B, P + 1, D_image) features → (B·K, T, D) states for `logits`.

        Captions are padded on the right. No token attends to the right, so padding needs no mask.
        The states at padding mean nothing.

        Args:
            ids: the K captions (or beams) of an image stand next to each other.
            features: the encoder's output, or the result of `keys_values`. Not read with a cache.
            cache: from `new_cache`. The first call passes the prompt as `ids`, each later call the
                next token of each row.

        Raises:
            ValueError: `ids` do not fit the images, the cache or `max_positions`, or there are
                neither features nor a cache.
        """
        image = cache.image if cache else features
        if image is None:
            raise ValueError("expected features of the images, or a cache")
        if isinstance(image, Tensor):
            image = self.keys_values(image)
        start = cache.length if cache else 0
        self._check(ids, num_images=image[0][0].size(0), start=start)
        positions = torch.arange(start, start + ids.size(1), device=ids.device)
        x = self.embed_norm(self.word_embed(ids) + self.position_embed(positions))
        x = self.dropout(x)
        pasts: Sequence[PastCache | None] = cache.past if cache else [None] * len(self.blocks)
        for block, keys_values, past in zip(self.blocks, image, pasts, strict=True):
            x = block(x, keys_values, past)
        states: Tensor = self.head_norm(F.gelu(self.head_dense(x)))
        return states

    def logits(self, states: Tensor) -> Tensor:
        """(..., D) states → (..., V) logits of the next token."""
        scores: Tensor = self.head(states, self.word_embed.weight, self.head_bias)
        return scores

    def keys_values(self, features: Tensor) -> list[KeysValues]:
        """(B, P + 1, D_image) → each block's keys and values of the images, for `forward`."""
        return [attention.keys_values(features) for attention in self._cross_attentions()]

    def new_cache(self, features: Tensor, *, max_length: int, copies: int = 1) -> DecoderCache:
        """Computes the images' keys and values and makes room for `max_length` tokens.

        Args:
            features: (B, P + 1, D_image), the encoder's output.
            copies: captions or beams of each image, after `DecoderCache.spread`.
        """
        rows = features.size(0) * copies
        image, past = [], []
        for attention in self._cross_attentions():
            # Contiguous, because every step reads them; copied block by block, so that only one
            # block's keys and values are in memory twice.
            keys, values = attention.keys_values(features)
            image.append((keys.contiguous(), values.contiguous()))
            past.append(PastCache(rows=rows, max_length=max_length, like=keys))
        return DecoderCache(image=image, past=past, copies=copies)

    def _cross_attentions(self) -> Iterator[Attention]:
        for block in self.blocks:
            yield cast(DecoderBlock, block).cross_attention

    def _check(self, ids: Tensor, *, num_images: int, start: int) -> None:
        if ids.dim() != 2:
            raise ValueError(f"ids are {tuple(ids.shape)}, expected (rows, words)")
        rows, words = ids.shape
        if rows == 0 or num_images == 0 or rows % num_images:
            raise ValueError(
                f"{rows} caption rows beside {num_images} images; "
                "expected a whole number of captions for each image"
            )
        if start > 0 and words > 1:
            raise ValueError(
                f"{words} words a row after the {start} in the cache; expected one at a time"
            )
        if start + words > self.config.max_positions:
            raise ValueError(
                f"{start + words} tokens, but the decoder has {self.config.max_positions}"
            )
