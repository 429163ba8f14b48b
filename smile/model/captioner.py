"""The captioner: image encoder and caption decoder joined (BLIP, Li et al. 2022, section 3.1).

    logits = captioner(images, ids)              # scores of every word as the next one

    features = captioner.encode(images)          # the same in three steps: once per image,
    states = captioner.decode(ids, features)     # for any number of captions of it,
    logits = captioner.logits(states)            # at the positions that are wanted

A captioner has its tokenizer and its settings with it: `captioner.caption(photo)` needs no more.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from numbers import Integral
from typing import Any, overload

import torch
from torch import Tensor, nn

from smile.config import Config
from smile.model.cache import DecoderCache, KeysValues
from smile.model.decoder import Decoder
from smile.model.generate import Hypothesis, asked_options, generate
from smile.model.images import EvalTransform, Picture, are_several, picture_of, pictures_of
from smile.model.tokenizer import Tokenizer
from smile.model.vit import ViT


@dataclass(frozen=True)
class Caption:
    """A caption and its probability.

    logprob: natural logarithm of its probability given image and prompt, `[SEP]` included.
    tokens: each word piece with its log-probability; they add up to `logprob`.
    """

    text: str
    logprob: float
    tokens: list[tuple[str, float]]


class Captioner(nn.Module):
    """ViT encoder and cross-attention decoder, with tokenizer and settings.

    Args:
        config: sizes (`vit`, `decoder`), prompt (`data`) and search settings (`generate`).
        tokenizer: its vocabulary is as large as the decoder's; None for ids in, ids out.

    Raises:
        ValueError: the decoder does not fit the encoder or the vocabulary.
    """

    def __init__(self, *, config: Config, tokenizer: Tokenizer | None = None):
        super().__init__()
        vit, decoder = config.vit, config.decoder
        if decoder.features_dim != vit.dim:
            raise ValueError(
                f"decoder.features_dim {decoder.features_dim} is not vit.dim {vit.dim}"
            )
        if tokenizer is not None and tokenizer.vocab_size != decoder.vocab_size:
            raise ValueError(
                f"decoder.vocab_size is {decoder.vocab_size}, "
                f"but the tokenizer has {tokenizer.vocab_size} entries"
            )
        self.config = config
        self._tokenizer = tokenizer
        self.transform = EvalTransform(vit.image_size)
        self.pad_id = tokenizer.pad_id if tokenizer else 0
        self.vit = ViT(config=vit)
        self.decoder = Decoder(config=decoder)

    def forward(self, images: Tensor, ids: Tensor) -> Tensor:
        """(B, 3, S, S) images, (B·K, T) ids → (B·K, T, V) scores of every word as the next one.

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

        With a cache (from `new_cache`), `ids` are only the new words and `features` are not read;
        without, they may also be what `decoder.keys_values` made of them.
        """
        states: Tensor = self.decoder(ids, features, cache)
        return states

    def logits(self, states: Tensor) -> Tensor:
        """(..., D) states → (..., V) scores of every word as the next one."""
        return self.decoder.logits(states)

    def new_cache(self, features: Tensor, *, max_length: int, copies: int = 1) -> DecoderCache:
        """A cache for decoding `copies` texts of up to `max_length` words per image."""
        return self.decoder.new_cache(features, max_length=max_length, copies=copies)

    def init_weights(self) -> "Captioner":
        """Initialises all weights for training from scratch: normal, biases 0, norms 1.

        BLIP's and BERT's standard deviation, 0.02, suits a width of 768. It grows as √(768 / width)
        for narrower models; otherwise their activations start too small to learn from. The ViT's
        positions start about as large as the patches they are added to: at 0.02, a small model
        spends most of its training on finding out where each patch is.
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
    def tokenizer(self) -> Tokenizer:
        """Raises ValueError for a captioner that was made without one."""
        if self._tokenizer is None:
            raise ValueError("this captioner was made without a tokenizer, so it reads ids only")
        return self._tokenizer

    @tokenizer.setter
    def tokenizer(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer

    @property
    def device(self) -> torch.device:
        return self.vit.class_token.device

    def caption(
        self,
        images: Picture | Sequence[Picture],
        *,
        prompt: str | None = None,
        seeds: Sequence[int] | None = None,
        **settings: Any,
    ) -> str | list[str] | list[list[str]]:
        """The best caption of one picture, a string, or of a list of pictures, a list of strings.

        With `num_return` above 1, each picture has a list of that many, best first.

        Args:
            images: paths, Pillow images of any mode, or (H, W, 3) or (H, W) arrays of uint8.
            prompt: the words that every caption continues, not repeated in what is returned;
                `config.data.prompt` unless given.
            seeds: one per picture, for sampling.
            settings: any of `[generate]`, such as `num_beams=1`, in place of `config.generate`'s.

        Raises:
            TypeError: a picture is none of these, or prompts or seeds are not one for each.
            UserError: a picture cannot be read, or a setting is unknown or impossible.
        """
        if not are_several(images):
            return self.caption([picture_of(images)], prompt=prompt, seeds=seeds, **settings)[0]
        found = self.describe(images, prompts=prompt, seeds=seeds, **settings)
        texts = [[caption.text for caption in captions] for captions in found]
        asked = asked_options(self.config, settings).num_return
        return texts if asked > 1 else [best for best, *_ in texts]

    @overload
    def describe(
        self,
        images: Picture,
        *,
        prompts: str | Sequence[str] | None = None,
        seeds: Sequence[int] | None = None,
        **settings: Any,
    ) -> list[Caption]: ...

    @overload
    def describe(
        self,
        images: Sequence[Picture] | Tensor,
        *,
        prompts: str | Sequence[str] | None = None,
        seeds: Sequence[int] | None = None,
        **settings: Any,
    ) -> list[list[Caption]]: ...

    @torch.inference_mode()
    def describe(
        self,
        images: Picture | Sequence[Picture] | Tensor,
        *,
        prompts: str | Sequence[str] | None = None,
        seeds: Sequence[int] | None = None,
        **settings: Any,
    ) -> list[Caption] | list[list[Caption]]:
        """The `num_return` best captions of one picture, or of each of several, best first.

        Args:
            images: what `caption` takes, or (B, 3, S, S) pixels of the captioner's `transform`.
            prompts: one for all images or one for each, as in `caption`.
            seeds: one per image, for sampling.
            settings: as in `caption`.

        Raises:
            TypeError: a picture is none of these, or prompts or seeds are not one for each.
            UserError: a picture cannot be read, or a setting is unknown or impossible.
        """
        if not (isinstance(images, Tensor) or are_several(images)):
            return self.describe([picture_of(images)], prompts=prompts, seeds=seeds, **settings)[0]
        options = asked_options(self.config, settings)
        pixels = self._pixels(images)
        if prompts is None or isinstance(prompts, str):
            prompts = [self.config.data.prompt if prompts is None else prompts] * len(pixels)
        prompts = _one_each("prompts", prompts, str, count=len(pixels))
        seeds = range(len(pixels)) if seeds is None else seeds
        seeds = _one_each("seeds", seeds, Integral, count=len(pixels))
        ids = [self.tokenizer.prompt_ids(prompt) for prompt in prompts]
        captions: list[list[Caption]] = [[] for _ in ids]
        # Prompts of the same length form one batch, so that no prompt needs padding.
        for length in sorted(set(map(len, ids))):
            group = [i for i, prompt in enumerate(ids) if len(prompt) == length]
            found = generate(
                self,
                self.encode(pixels[group].to(self.device)),
                torch.tensor([ids[i] for i in group], device=self.device),
                sep_id=self.tokenizer.sep_id,
                options=options,
                seeds=[seeds[i] for i in group],
            )
            for i, hypotheses in zip(group, found, strict=True):
                captions[i] = [self._caption(hypothesis) for hypothesis in hypotheses]
        return captions

    def _pixels(self, images: Sequence[Picture] | Tensor) -> Tensor:
        """(B, 3, S, S) pixels of what `describe` takes."""
        size = self.transform.size
        if isinstance(images, Tensor):
            if images.shape[1:] != (3, size, size):
                raise TypeError(
                    f"found pixels of shape {tuple(images.shape)}, expected (B, 3, {size}, {size})"
                )
            return images
        pixels = [self.transform(picture) for picture in pictures_of(images)]
        return torch.stack(pixels) if pixels else torch.empty(0, 3, size, size)

    def _caption(self, found: Hypothesis) -> Caption:
        pieces = [self.tokenizer.vocab[i] for i in found.ids]
        if len(found.logprobs) > len(pieces):
            pieces.append("[SEP]")
        tokens = list(zip(pieces, found.logprobs, strict=True))
        return Caption(self.tokenizer.decode(found.ids), sum(found.logprobs), tokens)


def _one_each(name: str, given: object, kind: type, *, count: int) -> list[Any]:
    """What was given for each of `count` pictures, as a list of `kind`."""
    values = list(given) if isinstance(given, Iterable) else [given]
    if len(values) != count or not all(isinstance(value, kind) for value in values):
        what = "text" if kind is str else "a whole number"
        raise TypeError(
            f"{name}: found {given!r:.80}, expected {what} for each of {count} pictures"
        )
    return values
