"""CIDEr (Vedantam et al., 2015): how alike two captions' rare n-grams are, by tf-idf cosine.

An n-gram's weight is its count times log(images / images whose references say it), so what every
picture's captions say counts for nothing. The mean over orders 1 to 4 and over the references,
times 10 as is the custom.

`cider_d` is what `pycocoevalcap` and the COCO leaderboard call "CIDEr": the caption's counts are
clipped to the reference's, and captions unlike the reference in length are held back by a Gaussian
of width 6. `cider` is the plain cosine of the paper's section 4 (without its stemming); it can be
gamed by repeating words, which CIDEr-D was made against.

Image frequencies come from the given references, so scores of different sets do not compare, and
where all images are described in the same words (one image is enough for that) there is no score:
no word says more than another (`can_weigh`).
"""

import numpy as np

from .ngrams import MAX_ORDER, Candidates, Counts, References
from .score import Score

__all__ = ["can_weigh", "cider", "cider_d"]


def can_weigh(references: References) -> bool:
    """Whether some n-gram is rarer than others; else every CIDEr of these references is 0."""
    counts = (references.num_images_with(order) for order in range(1, MAX_ORDER + 1))
    return any((count < len(references)).any() for count in counts)


def cider(candidates: Candidates) -> Score:
    """Plain CIDEr: no clipping, no length penalty."""
    return _cider(candidates, clip=False, sigma=None)


def cider_d(candidates: Candidates, *, sigma: float = 6.0) -> Score:
    """CIDEr-D: the number that `pycocoevalcap` prints as CIDEr."""
    return _cider(candidates, clip=True, sigma=sigma)


def _cider(candidates: Candidates, *, clip: bool, sigma: float | None) -> Score:
    references = candidates.references
    similarity = np.zeros(len(references.image))  # of each reference to its image's candidate
    rarest = np.log(len(references))  # of an n-gram that no reference says
    for order, (said, meant) in enumerate(
        zip(candidates.counts, references.counts, strict=True), start=1
    ):
        rarity = rarest - np.log(np.maximum(references.num_images_with(order), 1))
        unseen = max(0, said.gram.max(initial=-1) + 1 - len(rarity))
        weight_said = np.append(rarity, np.full(unseen, rarest))[said.gram]
        owner, weight = meant.owner, rarity[meant.gram]
        count = said.of(references.image[owner], meant.gram)
        if clip:
            count = np.minimum(count, meant.count)
        dot = np.bincount(owner, count * meant.count * weight**2, len(similarity))
        norm_said = _norms(said, weight_said, len(references))
        norm = _norms(meant, weight, len(similarity)) * norm_said[references.image]
        similarity += np.divide(dot, norm, out=np.zeros(len(similarity)), where=norm > 0)
    similarity /= len(references.counts)
    if sigma is not None:
        similarity *= _length_penalty(candidates, sigma)
    per_image = 10.0 * np.add.reduceat(similarity, references.first) / references.per_image
    return Score(float(per_image.mean()), per_image)


def _norms(counts: Counts, weight: np.ndarray, owners: int) -> np.ndarray:
    return np.sqrt(np.bincount(counts.owner, (counts.count * weight) ** 2, owners))


def _length_penalty(candidates: Candidates, sigma: float) -> np.ndarray:
    """(R,): the Gaussian of the difference in length, counted in bigrams as pycocoevalcap does."""
    references = candidates.references
    said = np.maximum(candidates.lengths - 1, 0)[references.image]
    difference = said - np.maximum(references.lengths - 1, 0)
    return np.exp(-(difference**2) / (2 * sigma**2))
