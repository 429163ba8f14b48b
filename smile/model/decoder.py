"""The caption decoder: BERT (Devlin et al. 2019) with causal self-attention and cross-attention.

Token ids and image features go in; at each position comes out the state that scores the next word.
Blocks are post-norm, as in BERT: each sub-layer's output is added to its input, then normalised.

During generation a `DecoderCache` holds what need not be computed again: each layer's keys and
values of the image (computed once per image) and of the words so far (one row per caption or beam).
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from smile.config import DecoderConfig
from smile.model.cache import DecoderCache, PastCache
from smile.model.layers import MLP, Attention, KeysValues, embedding


class DecoderBlock(nn.Module):
    """Causal self-attention, cross-attention to the image, MLP; each: norm(x + sub-layer(x))."""

    def __init__(self, *, config: DecoderConfig):
        super().__init__()
        shared = {"dim": config.dim, "num_heads": config.num_heads, "dropout": config.dropout}
        self.self_attention = Attention(**shared)
        self.self_norm = nn.LayerNorm(config.dim, eps=config.norm_eps)
        self.cross_attention = Attention(**shared, source_dim=config.features_dim)
        self.cross_norm = nn.LayerNorm(config.dim, eps=config.norm_eps)
        self.mlp = MLP(dim=config.dim, hidden_dim=config.mlp_dim)
        self.mlp_norm = nn.LayerNorm(config.dim, eps=config.norm_eps)
        self.dropout = nn.Dropout(config.dropout)

    def forward(
        self, x: Tensor, image: KeysValues, *, mask: Tensor | None, past: PastCache | None
    ) -> Tensor:
        """(B·K, T, D) words, keys and values of B images → (B·K, T, D)."""
        queries, words = self.self_attention.project(x)
        if past is not None:
            words = past.append(words)
        # Without a mask to say otherwise, T new words see each other causally; one sees all before.
        causal = mask is None and x.size(1) > 1
        attended = self.self_attention.attend(queries, words, mask=mask, causal=causal)
        x = self.self_norm(x + self.dropout(self.self_attention.out(attended)))
        x = self.cross_norm(x + self.dropout(self.cross_attention(x, image)))
        return self.mlp_norm(x + self.dropout(self.mlp(x)))


class Decoder(nn.Module):
    """Token ids and image features → states that score the next word."""

    def __init__(self, *, config: DecoderConfig):
        super().__init__()
        self.config = config
        self.word_embed = embedding(config.vocab_size, config.dim)
        self.position_embed = embedding(config.max_positions, config.dim)
        self.embed_norm = nn.LayerNorm(config.dim, eps=config.norm_eps)
        self.dropout = nn.Dropout(config.dropout)
        self.blocks = nn.ModuleList(DecoderBlock(config=config) for _ in range(config.depth))
        # The head: a dense layer with GELU and norm, then the word embeddings again ("tied").
        self.head_dense = nn.Linear(config.dim, config.dim)
        self.head_norm = nn.LayerNorm(config.dim, eps=config.norm_eps)
        self.head_bias = nn.Parameter(torch.zeros(config.vocab_size))
        self.packed_head: nn.Module | None = None  # the same scores sooner, if `packed.pack` set it

    def forward(
        self,
        ids: Tensor,
        features: Tensor | list[KeysValues] | None,
        *,
        cache: DecoderCache | None = None,
        positions: Tensor | None = None,
        mask: Tensor | None = None,
    ) -> Tensor:
        """(B·K, T) ids, (B, P, D_image) features → (B·K, T, D) states; `logits` scores them.

        Padding stands after a text, where no word of it looks: it needs no mask, and the states at
        padding mean nothing.

        Args:
            ids: the K captions (or beams) of an image stand next to each other; (1, T) is read
                beside each image, with the states (B, T, D).
            features: the encoder's output, or what `keys_values` made of it; not read when `cache`
                holds the images already.
            cache: what `new_cache` made; `ids` are then the positions after those it holds.
            positions, mask: for texts that share a row, (T,) where in its text each token stands,
                and bool (T, T), True where a token (row) may look; both, without a cache.

        Raises:
            ValueError: if the text is longer than `max_positions`.
        """
        start = cache.length if cache else 0
        end = start + ids.size(1)
        if positions is None:
            if end > self.config.max_positions:
                raise ValueError(f"{end} tokens, but the decoder has {self.config.max_positions}")
            positions = torch.arange(start, end, device=ids.device)
        x = self.embed_norm(self.word_embed(ids) + self.position_embed(positions))
        x = self.dropout(x)
        if start > 0 and ids.size(1) > 1:  # several new words after a past: causal among themselves
            mask = torch.ones(ids.size(1), end, dtype=torch.bool, device=ids.device).tril(start)
        images = cache.image if cache else features
        if isinstance(images, Tensor):
            images = self.keys_values(images)
        pasts = cache.past if cache else [None] * len(self.blocks)
        for block, image, past in zip(self.blocks, images, pasts, strict=True):
            x = block(x, image, mask=mask, past=past)
        return self.head_norm(F.gelu(self.head_dense(x)))

    def logits(self, states: Tensor) -> Tensor:
        """(..., D) states → (..., V) scores of every word."""
        if self.packed_head is not None:
            return self.packed_head(states)
        return F.linear(states, self.word_embed.weight, self.head_bias)

    def keys_values(self, features: Tensor) -> list[KeysValues]:
        """(B, P, D_image) → each block's keys and values, for any number of `forward` calls."""
        return [block.cross_attention.keys_values(features) for block in self.blocks]

    def keys_values_by_head(self, features: Tensor) -> list[KeysValues]:
        """What `keys_values` gives, laid out head by head for those who read it again and again.

        Block after block: all blocks' before and after at once would take twice the memory.
        """
        laid_out = []
        for block in self.blocks:
            keys, values = block.cross_attention.keys_values(features)
            laid_out.append((keys.contiguous(), values.contiguous()))
        return laid_out

    def new_cache(self, features: Tensor, *, max_length: int, copies: int = 1) -> DecoderCache:
        """Projects the images' keys and values and makes room for `max_length` words.

        Args:
            features: (B, P, D_image), the encoder's output.
            copies: captions or beams of each image, once the cache is `spread`.
        """
        config = self.config
        return DecoderCache(
            image=self.keys_values_by_head(features),
            past=[
                PastCache(
                    rows=features.size(0) * copies,
                    num_heads=config.num_heads,
                    max_length=max_length,
                    head_dim=config.dim // config.num_heads,
                    like=features,
                )
                for _ in self.blocks
            ],
            copies=copies,
        )
