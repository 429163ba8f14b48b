"""The result of a metric: the statistics behind its value, interval and paired test."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from smile.metrics.bootstrap import (
    Bootstrap,
    Comparison,
    Interval,
    jackknife,
    jackknife_compare,
    mean,
)

__all__ = ["Averaged", "Jackknifed", "Measured", "Missing", "Outcome", "average", "ratio"]


@dataclass(frozen=True)
class Missing:
    """A metric that could not be computed, and why.

    applies: False if the metric can never apply to such images.
    """

    reason: str
    applies: bool = True


@dataclass(frozen=True)
class Averaged:
    """A score computed from sums over images, so that the bootstrap can resample them.

    statistics: (N,) per-image scores whose mean is the score, or (N, K) statistics whose sums
        `score` turns into it.
    per_image: (N,) each image's score; None if it has no meaning.
    note: what is needed to interpret the number, such as the size of a pool.
    """

    statistics: np.ndarray
    score: Callable[[np.ndarray], np.ndarray] | None = None
    per_image: np.ndarray | None = None
    note: str = ""

    @property
    def sums(self) -> np.ndarray:
        """(N, K): the statistics; for a mean, (value, 1)."""
        if self.score is not None:
            return self.statistics
        return np.stack([self.statistics, np.ones(len(self.statistics))], axis=1)

    def interval(self, bootstrap: Bootstrap) -> Interval:
        return bootstrap.interval(self.statistics, self.score)

    def compare(self, second: "Averaged", bootstrap: Bootstrap) -> Comparison:
        return bootstrap.compare(self.statistics, second.statistics, self.score)


@dataclass(frozen=True)
class Jackknifed:
    """A score that resampling with repeats would bias; its interval comes from the jackknife.

    without_each: (N,) the score with each image left out. share: whether it is between 0 and 1.
    """

    value: float
    without_each: np.ndarray
    per_image: np.ndarray | None = None
    note: str = ""
    share: bool = False

    def interval(self, bootstrap: Bootstrap) -> Interval:
        return jackknife(self.value, self.without_each, share=self.share)

    def compare(self, second: "Jackknifed", bootstrap: Bootstrap) -> Comparison:
        scores = (self.value, self.without_each, second.value, second.without_each)
        return jackknife_compare(*scores, share=self.share)


Measured = Averaged | Jackknifed
Outcome = Measured | Missing


def ratio(parts: np.ndarray, wholes: np.ndarray) -> Averaged:
    """Sum of (N,) `parts` over sum of `wholes`; per image NaN where its whole is 0.

    If a resample has a sum of wholes of 0, its ratio and so the interval are NaN.
    """
    with np.errstate(invalid="ignore", divide="ignore"):
        per_image = np.where(wholes > 0, parts / wholes, np.nan)
    return Averaged(np.stack([parts, wholes], axis=1), score=_divide, per_image=per_image)


def _divide(sums: np.ndarray) -> np.ndarray:
    with np.errstate(invalid="ignore", divide="ignore"):
        return mean(sums)


def average(rounds: Sequence[Outcome]) -> Outcome:
    """The mean of one metric over several rounds on the same images; missing if one of them is."""
    for outcome in rounds:
        if isinstance(outcome, Missing):
            return outcome
    jackknifed = [one for one in rounds if isinstance(one, Jackknifed)]
    if jackknifed:
        return _average_jackknifed(jackknifed)
    return _average_averaged([one for one in rounds if isinstance(one, Averaged)])


def _average_jackknifed(rounds: Sequence[Jackknifed]) -> Jackknifed:
    first = rounds[0]
    value = float(np.mean([measured.value for measured in rounds]))
    without_each = np.mean([measured.without_each for measured in rounds], axis=0)
    return Jackknifed(value, without_each, _mean_per_image(rounds), first.note, first.share)


def _average_averaged(rounds: Sequence[Averaged]) -> Averaged:
    first = rounds[0]
    width, score = first.sums.shape[1], first.score or mean

    def score_all(sums: np.ndarray) -> np.ndarray:
        starts = range(0, sums.shape[-1], width)
        return np.mean([score(sums[..., start : start + width]) for start in starts], axis=0)

    statistics = np.concatenate([measured.sums for measured in rounds], axis=1)
    return Averaged(statistics, score_all, _mean_per_image(rounds), first.note)


def _mean_per_image(rounds: Sequence[Measured]) -> np.ndarray | None:
    scores = [one.per_image for one in rounds if one.per_image is not None]
    return np.mean(scores, axis=0) if scores else None
