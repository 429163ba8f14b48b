"""CLIP's metrics of captions: CLIPScore, RefCLIPScore and self-retrieval.

CLIPScore (Hessel et al. 2021) measures whether a caption fits its image; RefCLIPScore also whether
it is close to a reference. Self-retrieval measures whether it tells its image from all others.

    images = clip.embed_images(pictures)
    scores = clip_scores(images, clip.embed_texts(captions, prefix=PREFIX))
    found_at = self_retrieval(images, clip.embed_texts(captions))      # no prefix here
"""

from collections.abc import Sequence

import numpy as np
from torch import Tensor

from smile.metrics.retrieval import ranks

PREFIX = "A photo depicts "  # before captions and references, as in CLIPScore's paper
WEIGHT = 2.5  # stretches the cosines, which rarely exceed 0.4, to about 0 to 1


def clip_scores(images: Tensor | np.ndarray, texts: Tensor | np.ndarray) -> np.ndarray:
    """(N, D) images and their captions → (N,): 2.5 · max(cosine, 0). Reported times 100."""
    return WEIGHT * np.maximum((_unit(images) * _unit(texts)).sum(axis=1), 0)


def ref_clip_scores(
    scores: np.ndarray,
    texts: Tensor | np.ndarray,
    references: Sequence[Tensor | np.ndarray],
) -> np.ndarray:
    """(N,): harmonic mean of CLIPScore and the cosine of the most similar reference, if positive.

    Args:
        scores: (N,), from `clip_scores`.
        texts: (N, D), the captions.
        references: per image (R, D), with the same `PREFIX` as the captions.

    Raises:
        ValueError: if an image has no reference.
    """
    if not all(map(len, references)):
        missing = next(i for i, vectors in enumerate(references) if not len(vectors))
        raise ValueError(f"image {missing} has no reference to compare its caption with")
    pairs = zip(_unit(texts), references, strict=True)
    best = np.array([max(0.0, (_unit(vectors) @ text).max()) for text, vectors in pairs])
    total = scores + best
    return 2 * scores * best / np.where(total > 0, total, 1)  # both 0: 0


def self_retrieval(images: Tensor | np.ndarray, texts: Tensor | np.ndarray) -> np.ndarray:
    """(N, D) images and their captions → (N,): the rank of each caption's image; 1 is best."""
    return ranks(_unit(texts) @ _unit(images).T, np.arange(len(images)))


def _unit(features: Tensor | np.ndarray) -> np.ndarray:
    """float64 rows of length 1."""
    features = np.asarray(features, dtype=np.float64)
    return features / np.linalg.norm(features, axis=-1, keepdims=True)
