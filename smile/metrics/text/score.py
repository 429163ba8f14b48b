"""The result of a metric."""

from dataclasses import dataclass

import numpy as np

__all__ = ["Score"]


@dataclass(frozen=True)
class Score:
    """A metric on a set of images: one number for all, and one for each image.

    Usually `corpus` is the mean of `per_image`; for BLEU it is not (see `smile.metrics.text.bleu`).
    """

    corpus: float
    per_image: np.ndarray  # (N,) float64
