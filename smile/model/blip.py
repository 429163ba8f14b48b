"""BLIP's captioning model: image encoder and caption decoder (Li et al. 2022, arXiv 2201.12086).

BLIP pre-trains an image encoder with three text models, which share weights (section 3.1): one
embeds a text, one tells whether a text fits an image, one writes captions. Captioning needs only
the image encoder and the last of the three.

logits = model(images, ids)                  # of the next token at each position

The same in three steps:

features = model.encode(images)              # once per image
states = model.decode(ids, features)         # for any number of captions per image
logits = model.logits(states)                # only at the positions that are needed
"""

from typing import Self

import torch
from torch import Tensor, nn

from smile.config import DecoderConfig, ViTConfig
from smile.model.cache import DecoderCache, KeysValues
from smile.model.decoder import Decoder
from smile.model.vit import ViT


class BLIP(nn.Module):
    """ViT encoder and cross-attention decoder: pixels and token ids in, logits out.

    Raises:
        ValueError: the decoder does not fit the encoder.
    """

    def __init__(self, *, vit: ViTConfig, decoder: DecoderConfig):
        super().__init__()
        if decoder.features_dim != vit.dim:
            raise ValueError(
                f"decoder.features_dim {decoder.features_dim} is not vit.dim {vit.dim}"
            )
        self.vit = ViT(config=vit)
        self.decoder = Decoder(config=decoder)

    def forward(self, images: Tensor, ids: Tensor) -> Tensor:
        """(B, 3, S, S) images, (B·K, T) ids → (B·K, T, V) logits of the next token.

        Each image has K captions, which stand next to each other in `ids`; with K = 1 that is
        (B, T). `ids` begin with the prompt and are padded on the right.

        Raises:
            ValueError: images of another size, captions that are too long, or a number of captions
                that is no multiple of the number of images.
        """
        return self.logits(self.decode(ids, self.encode(images)))

    def encode(self, images: Tensor) -> Tensor:
        """(B, 3, S, S) → (B, P + 1, D) features: class token first, then the P patches."""
        features: Tensor = self.vit(images)
        return features

    def decode(
        self,
        ids: Tensor,
        features: Tensor | list[KeysValues] | None,
        *,
        cache: DecoderCache | None = None,
    ) -> Tensor:
        """(B·K, T) ids, (B, P + 1, D) features → (B·K, T, D) states for `logits`.

        With a cache (from `new_cache`), `ids` are only the new tokens, and `features` are not read.
        Without one, `features` may also be the result of `decoder.keys_values`.
        """
        states: Tensor = self.decoder(ids, features, cache)
        return states

    def logits(self, states: Tensor) -> Tensor:
        """(..., D) states → (..., V) logits of the next token."""
        return self.decoder.logits(states)

    def new_cache(self, features: Tensor, *, max_length: int, copies: int = 1) -> DecoderCache:
        """A cache for decoding `copies` texts of up to `max_length` tokens per image."""
        return self.decoder.new_cache(features, max_length=max_length, copies=copies)

    def init_weights(self) -> Self:
        """Initialises a new model for training from scratch: weights normal, biases 0.

        Norms and `head_bias` keep the values that the constructor gave them.

        BLIP's and BERT's standard deviation, 0.02, suits a width of 768. It grows as √(768 / width)
        for narrower models; otherwise their activations start too small to learn from. The ViT's
        positions start about as large as the patch tokens: at 0.02, a small model spends most of
        the training on learning where each patch is.
        """
        for tower in (self.vit, self.decoder):
            std = 0.02 * (768 / tower.config.dim) ** 0.5
            for module in tower.modules():
                if isinstance(module, nn.Linear | nn.Conv2d | nn.Embedding):
                    nn.init.trunc_normal_(module.weight, std=std)
                if isinstance(module, nn.Linear | nn.Conv2d) and module.bias is not None:
                    nn.init.zeros_(module.bias)
        nn.init.trunc_normal_(self.vit.class_token, std=0.02)
        nn.init.trunc_normal_(self.vit.positions, std=0.5)
        return self

    @property
    def device(self) -> torch.device:
        return next(self.parameters()).device  # of any weight: an encoder need not be a ViT
