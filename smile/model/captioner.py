"""The captioner: pictures in, captions out.

    captioner.caption(photo)                     # "two brown dogs play in deep snow"
    captioner.describe(photo)                    # the best captions, with each word's probability

It is the model of `blip.py` with a tokenizer, a transform from picture to pixels, and settings such
as the prompt and the number of beams.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from numbers import Integral
from typing import Any, overload

import torch
from torch import Tensor

from smile.config import Config, GenerateConfig
from smile.errors import UserError
from smile.model.blip import BLIP
from smile.model.forbidden import Forbidden
from smile.model.generate import Hypothesis, asked_options, check_options, generate
from smile.model.images import EvalTransform, Picture, are_several, picture_of, pictures_of
from smile.model.tokenizer import Tokenizer, check_characters


@dataclass(frozen=True)
class Caption:
    """A caption and its probability.

    text: between the prefix and the suffix that were asked for.
    logprob: natural logarithm of its probability given image and prompt, `[SEP]` included.
    tokens: each word piece with its log-probability; their sum is `logprob`.
    """

    text: str
    logprob: float
    tokens: list[tuple[str, float]]


class Captioner(BLIP):
    """BLIP's model with tokenizer and settings.

    Like any module, it starts in training mode, with dropout: call `eval()` before captioning.
    `smile.load` does.

    Args:
        config: sizes (`vit`, `decoder`), prompt (`data`) and search settings (`generate`).
        tokenizer: as many pieces as `decoder.vocab_size`. Without one, the model takes ids only.

    Raises:
        ValueError: the decoder does not fit the encoder or the vocabulary.
    """

    def __init__(self, *, config: Config, tokenizer: Tokenizer | None = None):
        if tokenizer is not None and tokenizer.vocab_size != config.decoder.vocab_size:
            raise ValueError(
                f"decoder.vocab_size is {config.decoder.vocab_size}, "
                f"but the tokenizer has {tokenizer.vocab_size} entries"
            )
        super().__init__(vit=config.vit, decoder=config.decoder)
        self.config = config
        self._tokenizer = tokenizer
        self.transform = EvalTransform(config.vit.image_size)

    @property
    def tokenizer(self) -> Tokenizer:
        """Raises ValueError if the captioner was made without a tokenizer."""
        if self._tokenizer is None:
            raise ValueError("this captioner was made without a tokenizer, so it reads ids only")
        return self._tokenizer

    @tokenizer.setter
    def tokenizer(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer

    def caption(
        self,
        images: Picture | Sequence[Picture],
        *,
        prompt: str | None = None,
        prefix: str = "",
        suffix: str = "",
        seeds: Sequence[int] | None = None,
        **settings: Any,
    ) -> str | list[str] | list[list[str]]:
        """The best caption: a string for one picture, a list of strings for a list of pictures.

        With `num_return` above 1, each picture gets a list of that many strings, best first.

        Args:
            images: paths, Pillow images of any mode, or (H, W, 3) or (H, W) arrays of uint8.
            prompt: the words that every caption continues. The result does not repeat them.
                `config.data.prompt` unless given.
            prefix, suffix: put around each caption as they are.
            seeds: one per picture, for sampling.
            settings: any of `[generate]`, such as `num_beams=1`, in place of `config.generate`'s.

        Raises:
            TypeError: a picture is of another type, or there is not one seed for each picture.
            UserError: a picture cannot be read, or a setting is unknown or impossible.
        """
        if not are_several(images):
            one = [picture_of(images)]
            around = {"prefix": prefix, "suffix": suffix}
            return self.caption(one, prompt=prompt, seeds=seeds, **around, **settings)[0]
        found = self.describe(
            images, prompts=prompt, prefix=prefix, suffix=suffix, seeds=seeds, **settings
        )
        texts = [[caption.text for caption in captions] for captions in found]
        asked = asked_options(self.config, settings).num_return
        return texts if asked > 1 else [best for best, *_ in texts]

    @overload
    def describe(
        self,
        images: Picture,
        *,
        prompts: str | Sequence[str] | None = None,
        prefix: str = "",
        suffix: str = "",
        seeds: Sequence[int] | None = None,
        **settings: Any,
    ) -> list[Caption]: ...

    @overload
    def describe(
        self,
        images: Sequence[Picture] | Tensor,
        *,
        prompts: str | Sequence[str] | None = None,
        prefix: str = "",
        suffix: str = "",
        seeds: Sequence[int] | None = None,
        **settings: Any,
    ) -> list[list[Caption]]: ...

    @torch.inference_mode()
    def describe(
        self,
        images: Picture | Sequence[Picture] | Tensor,
        *,
        prompts: str | Sequence[str] | None = None,
        prefix: str = "",
        suffix: str = "",
        seeds: Sequence[int] | None = None,
        **settings: Any,
    ) -> list[Caption] | list[list[Caption]]:
        """The `num_return` best captions of one picture, or of each of several, best first.

        Args:
            images: what `caption` takes, or (B, 3, S, S) pixels of the captioner's `transform`.
            prompts: one for all images or one for each; see `prompt` of `caption`.
            seeds: one per image, for sampling.
            prefix, suffix, settings: as in `caption`.

        Raises:
            TypeError: a picture is of another type, or there is not one prompt or seed for each.
            UserError: a picture cannot be read, or a setting is unknown or impossible.
        """
        if not (isinstance(images, Tensor) or are_several(images)):
            one = [picture_of(images)]
            around = {"prefix": prefix, "suffix": suffix}
            return self.describe(one, prompts=prompts, seeds=seeds, **around, **settings)[0]
        for name, text in (("prefix", prefix), ("suffix", suffix)):
            if not isinstance(text, str):
                raise TypeError(f"{name}: found {text!r:.80}, expected text")
            check_characters(text, name)
        options = asked_options(self.config, settings)
        pixels = self._pixels(images)
        if prompts is None or isinstance(prompts, str):
            prompts = [self.config.data.prompt if prompts is None else prompts] * len(pixels)
        prompts = _one_each("prompts", prompts, str, count=len(pixels))
        seeds = range(len(pixels)) if seeds is None else seeds
        seeds = _one_each("seeds", seeds, Integral, count=len(pixels))
        ids = [self._prompt_ids(prompt) for prompt in prompts]
        captions: list[list[Caption]] = [[] for _ in ids]
        # Prompts of the same length form one batch, so that no prompt needs padding.
        for length in sorted(set(map(len, ids))):
            group = [i for i, prompt in enumerate(ids) if len(prompt) == length]
            forbidden = self._forbidden(options, prompt_length=length)
            found = generate(
                self,
                self.encode(pixels[group].to(next(self.parameters()))),  # its device and dtype
                torch.tensor([ids[i] for i in group], device=self.device),
                sep_id=self.tokenizer.sep_id,
                options=options,
                seeds=[seeds[i] for i in group],
                forbidden=forbidden,
            )
            for i, hypotheses in zip(group, found, strict=True):
                captions[i] = [self._caption(one, prefix, suffix) for one in hypotheses]
        return captions

    def check(self, options: GenerateConfig, *, prompt: str) -> None:
        """Raises UserError if `options` cannot be met after this prompt, whatever the picture."""
        length = len(self._prompt_ids(prompt))
        check_options(options, prompt_length=length)
        self._forbidden(options, prompt_length=length)

    def _prompt_ids(self, prompt: str) -> list[int]:
        """The ids of a prompt, in which only the captioner's own may have unknown words."""
        ids = self.tokenizer.prompt_ids(prompt)
        if self.tokenizer.unk_id in ids and prompt != self.config.data.prompt:
            unknown = self.tokenizer.unknown_words(prompt)
            raise UserError(
                f"prompt {prompt!r}: the vocabulary of this captioner cannot spell "
                f"{', '.join(unknown)}; write it in other words"
            )
        return ids

    def _forbidden(self, options: GenerateConfig, *, prompt_length: int) -> Forbidden | None:
        if not options.forbid:
            return None
        lengths = {"prompt_length": prompt_length, "max_length": options.max_length}
        return Forbidden(options.forbid, self.tokenizer, **lengths)

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

    def _caption(self, found: Hypothesis, prefix: str, suffix: str) -> Caption:
        pieces = [self.tokenizer.vocab[i] for i in found.ids]
        if len(found.logprobs) > len(pieces):
            pieces.append("[SEP]")
        tokens = list(zip(pieces, found.logprobs, strict=True))
        text = f"{prefix}{self.tokenizer.decode(found.ids)}{suffix}"
        return Caption(text, sum(found.logprobs), tokens)


def _one_each(name: str, given: object, kind: type, *, count: int) -> list[Any]:
    """`given` as a list of `count` values of type `kind`; TypeError if it is anything else."""
    values = list(given) if isinstance(given, Iterable) else [given]
    if len(values) != count or not all(isinstance(value, kind) for value in values):
        what = "text" if kind is str else "a whole number"
        raise TypeError(
            f"{name}: found {given!r:.80}, expected {what} for each of {count} pictures"
        )
    return values
