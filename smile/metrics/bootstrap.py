"""Bootstrap intervals of scores, and a paired test of two systems (Koehn, 2004).

The test images are resampled with replacement and scored, many times. No caption is scored twice: a
corpus score is a function of sums over images (for a mean the scores themselves, for BLEU its
counts), and a resample only weights the images in those sums.

CIDEr's image frequencies stay those of the full set. The number of distinct words must not be
bootstrapped, because a resample with repeats always has fewer; it gets a jackknife interval.

Bootstrap intervals are percentiles of the resamples, so they never leave the range of the score.
Jackknife intervals are normal ones, which could leave it: a count's is cut at 0, a correlation's at
-1 and 1, and a share's is normal on the scale of its log-odds, which keeps it between 0 and 1.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

__all__ = ["Bootstrap", "Comparison", "Interval", "jackknife", "jackknife_compare", "mean"]

_Z = 1.959963984540054  # the 97.5 % quantile of the normal distribution
_BLOCK = 256  # resamples at a time: 256 x 5 000 images are 10 MB


@dataclass(frozen=True)
class Interval:
    """A score and its 95 % interval."""

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class Comparison:
    """Second system minus first: the difference, its 95 % interval, and its p-value.

    p_value is two-sided: the probability of a difference at least as large if there is none.
    """

    difference: Interval
    p_value: float

    @property
    def significant(self) -> bool:
        return self.p_value < 0.05


def mean(sums: np.ndarray) -> np.ndarray:
    """The score of a mean: (..., 2) sums of (value, 1) over images → (...)."""
    return sums[..., 0] / sums[..., 1]


class Bootstrap:
    """The same `draws` resamples of `num_images` images for every metric and system."""

    def __init__(self, *, num_images: int, draws: int = 1000, seed: int = 0) -> None:
        if num_images < 1 or draws < 1:
            raise ValueError(f"{num_images} images and {draws} draws: both must be at least 1")
        generator = np.random.default_rng(seed)
        # (draws, N): how often each resample holds each image.
        self._times = np.stack(
            [
                np.bincount(generator.integers(num_images, size=num_images), minlength=num_images)
                for _ in range(draws)
            ]
        ).astype(np.uint16)

    def interval(
        self, statistics: np.ndarray, score: Callable[[np.ndarray], np.ndarray] | None = None
    ) -> Interval:
        """The corpus score and its percentile interval, which is NaN for a single image.

        statistics: (N,) per-image scores whose mean is the score, or (N, K) statistics; `score`
        then maps (..., K) sums over images → (...).
        """
        value, drawn = self._scores(statistics, score)
        return Interval(value, *self._percentiles(drawn))

    def compare(
        self,
        first: np.ndarray,
        second: np.ndarray,
        score: Callable[[np.ndarray], np.ndarray] | None = None,
    ) -> Comparison:
        """Paired test of two systems on the same images, given their statistics."""
        first_value, first_drawn = self._scores(first, score)
        second_value, second_drawn = self._scores(second, score)
        drawn = second_drawn - first_drawn
        # The resamples scatter around the observed difference; without one, around 0.
        extreme = min((drawn <= 0).sum(), (drawn >= 0).sum())
        p_value = min(1.0, 2 * (int(extreme) + 1) / (len(drawn) + 1))
        difference = Interval(second_value - first_value, *self._percentiles(drawn))
        return Comparison(difference, p_value)

    def _percentiles(self, drawn: np.ndarray) -> tuple[float, float]:
        """NaN for one image: all its resamples are equal, which would look like certainty."""
        if self._times.shape[1] < 2:
            return math.nan, math.nan
        low, high = np.percentile(drawn, [2.5, 97.5])
        return float(low), float(high)

    def _scores(self, statistics, score) -> tuple[float, np.ndarray]:
        statistics = np.asarray(statistics, dtype=np.float64)
        if len(statistics) != self._times.shape[1]:
            raise ValueError(
                f"statistics of {len(statistics)} images, drawn from {self._times.shape[1]}: "
                "both systems must be scored on the images the Bootstrap was made for"
            )
        if score is None:
            statistics, score = np.stack([statistics, np.ones(len(statistics))], axis=1), mean
        blocks = [
            score(self._times[start : start + _BLOCK].astype(np.float64) @ statistics)
            for start in range(0, len(self._times), _BLOCK)
        ]
        return float(score(statistics.sum(axis=0))), np.concatenate(blocks)


def jackknife(
    value: float, without_each: np.ndarray, *, share: bool = False, correlation: bool = False
) -> Interval:
    """Interval of a score from its values with each image left out, (N,): a count unless said."""
    half = _Z * _jackknife_error(without_each)
    if math.isnan(half):
        return Interval(value, half, half)
    if share and 0 < value < 1:
        # The error of the log-odds, to first order; the interval then stays between 0 and 1.
        middle, half = math.log(value / (1 - value)), half / (value * (1 - value))
        low, high = ((1 + math.tanh(odds / 2)) / 2 for odds in (middle - half, middle + half))
        return Interval(value, min(low, value), max(value, high))  # rounding
    least, most = (-1.0 if correlation else 0.0), (1.0 if share or correlation else math.inf)
    return Interval(value, max(least, value - half), min(value + half, most))


def jackknife_compare(
    first: float,
    first_without: np.ndarray,
    second: float,
    second_without: np.ndarray,
    *,
    share: bool = False,
) -> Comparison:
    """Paired test of two such scores on the same images."""
    value, error = second - first, _jackknife_error(second_without - first_without)
    most = 1.0 if share else math.inf
    difference = Interval(value, max(-most, value - _Z * error), min(most, value + _Z * error))
    away = abs(value)
    if error > 0:
        return Comparison(difference, math.erfc(away / error / math.sqrt(2)))
    return Comparison(difference, 0.0 if away else 1.0)


def _jackknife_error(without_each: np.ndarray) -> float:
    """The jackknife's standard error; NaN for one image."""
    count = len(without_each)
    if count < 2:
        return math.nan
    spread = without_each - without_each.mean()
    return math.sqrt((count - 1) / count * float((spread**2).sum()))
