"""Metrics that need a model: CLIP, GPT-2, and a captioner as the judge of retrieval.

Weights are downloaded only if the command line names them. Otherwise they are used if they are in
the cache, and their metrics are missing if not.
"""

import contextlib
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
import torch

from smile.data.captions import clean_caption
from smile.errors import UserError
from smile.evaluation.image_set import ImageSet
from smile.evaluation.measured import Averaged, Outcome, ratio
from smile.evaluation.scoring import Submission
from smile.metrics.clip_score import PREFIX, clip_scores, ref_clip_scores, self_retrieval
from smile.metrics.models.clip import Clip, load_clip
from smile.metrics.models.gpt2 import GPT2, load_gpt2
from smile.metrics.perplexity import perplexities
from smile.metrics.retrieval import BLOCK, log_likelihoods, ranks, recall
from smile.model.captioner import Captioner

__all__ = ["NONE", "ClipJudge", "Gpt2Judge", "RetrievalJudge", "Weights"]

NONE = "none"  # on the command line: leave these metrics out
RECALLS = (1, 5, 10)


@dataclass(frozen=True, kw_only=True)
class Weights:
    """Which weights of a kind of model to use.

    option: the command line option that names them. asked: its value, None if not given.
    usual: the weights that are then used, if cached.
    """

    option: str
    usual: str
    asked: str | None
    device: torch.device
    _loaded: list = field(default_factory=list)

    def load(self, load: Callable):
        """The model, loaded at the first call.

        Raises:
            UserError: it was turned off, or its weights cannot be loaded.
        """
        if not self._loaded:
            self._loaded.append(self._load(load))
        return self._loaded[0]

    def _load(self, load: Callable):
        if self.asked == NONE:
            raise UserError(f"left out ({self.option} {NONE})")
        if self.asked is not None:
            return load(self.asked, device=self.device)
        with _no_downloads():
            try:
                return load(self.usual, device=self.device)
            except UserError as error:
                if "downloads are off" not in str(error):
                    raise  # it is in the cache, but damaged
                raise UserError(
                    f"{self.option} {self.usual} downloads it, {self.option} FOLDER uses a copy"
                ) from error


@contextlib.contextmanager
def _no_downloads() -> Iterator[None]:
    before = os.environ.get("SMILE_OFFLINE")
    os.environ["SMILE_OFFLINE"] = "1"
    try:
        yield
    finally:
        if before is None:
            del os.environ["SMILE_OFFLINE"]
        else:
            os.environ["SMILE_OFFLINE"] = before


class ClipJudge:
    """CLIPScore, RefCLIPScore and self-retrieval; images and references are embedded once."""

    def __init__(self, images: ImageSet, weights: Weights) -> None:
        self.images = images
        self.weights = weights

    def __call__(self, submission: Submission) -> dict[str, Outcome]:
        _need_pictures(self.images)
        texts = self.clip.embed_texts(submission.captions, prefix=PREFIX)
        scores = clip_scores(self.pictures, texts)
        with_references = ref_clip_scores(scores, texts, self.references)
        found = self_retrieval(self.pictures, self.clip.embed_texts(submission.captions))
        return {
            "clip_score": Averaged(scores, per_image=scores),
            "ref_clip_score": Averaged(with_references, per_image=with_references),
            **_retrieval("clip", found, f"pool of {len(found)} images"),
        }

    @cached_property
    def clip(self) -> Clip:
        return self.weights.load(load_clip)

    @cached_property
    def pictures(self) -> torch.Tensor:
        pictures = (example.read() for example in self.images.examples)
        return self.clip.embed_images(pictures, total=len(self.images.examples))

    @cached_property
    def references(self) -> list[torch.Tensor]:
        """Per image (R, D)."""
        counts = [len(texts) for texts in self.images.references]
        every = [text for texts in self.images.references for text in texts]
        return list(self.clip.embed_texts(every, prefix=PREFIX).split(counts))


class Gpt2Judge:
    """Perplexity. An empty caption has none and does not count in the mean."""

    def __init__(self, weights: Weights) -> None:
        self.weights = weights

    def __call__(self, submission: Submission) -> dict[str, Outcome]:
        per_image = perplexities(self.model, submission.captions)
        scored = ~np.isnan(per_image)
        if not scored.any():
            raise UserError("every caption is empty")
        mean = ratio(np.nan_to_num(per_image), scored.astype(np.float64))
        note = "" if scored.all() else f"without {(~scored).sum()} empty captions"
        return {"ppl": Averaged(mean.statistics, mean.score, mean.per_image, note)}

    @cached_property
    def model(self) -> GPT2:
        return self.weights.load(load_gpt2)


class RetrievalJudge:
    """Retrieval by a captioner: images ranked by log p(caption | image)."""

    def __init__(self, images: ImageSet, judge: Captioner | None, *, name: str = "") -> None:
        self.images = images
        self.judge = judge
        self.name = name

    def __call__(self, submission: Submission) -> dict[str, Outcome]:
        if self.judge is None:
            raise UserError("--judge RUN, which needs no download")
        _need_pictures(self.images)
        examples = self.images.at_size(self.judge.config.vit.image_size)
        captions = [clean_caption(caption) for caption in submission.captions]
        pictures = (example.read() for example in examples)
        # A GPU is as fast for large blocks as for small ones; a CPU is fastest within its caches.
        on_cuda = self.judge.device.type == "cuda"
        scores = log_likelihoods(
            self.judge,
            pictures,
            captions,
            image_block=64 if on_cuda else BLOCK,
            caption_block=32 if on_cuda else BLOCK,
            total=len(examples),
        )
        found = ranks(scores, np.arange(len(scores)))
        return _retrieval("judge", found, f"pool of {len(found)} images, judge {self.name}")


def _retrieval(judge: str, found: np.ndarray, note: str) -> dict[str, Outcome]:
    """R@K and mean rank of (N,) ranks."""
    outcomes: dict[str, Outcome] = {
        f"{judge}_r{k}": Averaged(recall(found, k), note=note) for k in RECALLS
    }
    return outcomes | {f"{judge}_rank": Averaged(found, per_image=found, note=note)}


def _need_pictures(images: ImageSet) -> None:
    if why := images.why_no_pictures():
        raise UserError(why)
