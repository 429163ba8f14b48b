"""What a visitor asks of a captioner, and the tasks that answer it."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from smile.captioning.describe import name_seed
from smile.captioning.explain import WordMap, word_maps
from smile.errors import UserError
from smile.model.captioner import Caption, Captioner
from smile.model.images import read_image
from smile.page.uploads import Picture
from smile.page.worker import Task


@dataclass(frozen=True)
class Request:
    """How captions are to be written.

    settings: of `[generate]`, in place of the captioner's own.
    prompt: what every caption continues; None: the captioner's own.
    prefix: what is put before every caption, such as a trigger word.
    seed: of sampling; the same one gives the same captions.
    """

    settings: Mapping[str, Any] = field(default_factory=dict)
    prompt: str | None = None
    prefix: str = ""
    seed: int = 0


def captions_of(picture: Picture, request: Request) -> Task:
    """The task that writes a picture's captions, best first: those that `sample.py` writes."""

    def task(captioner: Captioner) -> list[Caption]:
        image = read_image(picture.data, picture.title)
        seeds = [name_seed(request.seed, picture.name)]
        [found] = captioner.describe(
            [image],
            prompts=request.prompt,
            prefix=request.prefix,
            seeds=seeds,
            **request.settings,
        )
        return found

    return task


def maps_of(picture: Picture, request: Request, caption: Caption) -> Task:
    """The task that finds where the captioner looked for each word of a caption of its own."""

    def task(captioner: Captioner) -> list[WordMap]:
        pixels = captioner.transform(read_image(picture.data, picture.title))[None]
        return word_maps(captioner, pixels, caption, prompt=request.prompt)

    return task


def confidence(caption: Caption) -> float:
    """The geometric mean of the probabilities of a caption's tokens: 0 to 1.

    Unlike the caption's own probability, it does not fall with every further word.
    """
    return math.exp(caption.logprob / max(1, len(caption.tokens)))


def reason(error: BaseException) -> str:
    """Why a task failed, in one line."""
    if isinstance(error, UserError):
        return str(error)
    detail = " ".join(str(error).split())[:200]
    return f"{type(error).__name__}: {detail}; the terminal of the page says more"
