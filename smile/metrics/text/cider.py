"""CIDEr (Vedantam et al., 2015): the tf-idf cosine of a candidate's and a reference's n-grams.

An n-gram's weight is its count times log(images / images whose references have it), so an n-gram
that all images' references have counts for nothing. The score is the mean over orders 1 to 4 and
over the references, times 10 by convention.

`cider_d` is what `pycocoevalcap` and the COCO leaderboard call "CIDEr": the candidate's counts are
clipped to the reference's, and a Gaussian of width 6 penalises a difference in length. `cider` is
the plain cosine of the paper's section 4 (without its stemming); repeating words can inflate it,
which CIDEr-D prevents.

Image frequencies come from the given references, so scores on different sets cannot be compared. If
all images are described in the same words (always so for a single image), there is no score, since
no n-gram is rarer than others (`can_weigh`).
"""

import numpy as np

from .ngrams import MAX_ORDER, Candidates, Counts, References
from .score import Score

__all__ = ["can_weigh", "cider", "cider_d"]


def can_weigh(references: References) -> bool:
    """Whether some n-gram is rarer than others; otherwise every CIDEr is 0."""
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
    rarest = np.log(len(references))  # of an n-gram that no reference has
    for order, (candidate, reference) in enumerate(
        zip(candidates.counts, references.counts, strict=True), start=1
    ):
        rarity = rarest - np.log(np.maximum(references.num_images_with(order), 1))
        unseen = max(0, candidate.gram.max(initial=-1) + 1 - len(rarity))
        candidate_weight = np.append(rarity, np.full(unseen, rarest))[candidate.gram]
        owner, weight = reference.owner, rarity[reference.gram]
        count = candidate.of(references.image[owner], reference.gram)
        if clip:
            count = np.minimum(count, reference.count)
        dot = np.bincount(owner, count * reference.count * weight**2, len(similarity))
        candidate_norm = _norms(candidate, candidate_weight, len(references))
        norm = _norms(reference, weight, len(similarity)) * candidate_norm[references.image]
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
    length = np.maximum(candidates.lengths - 1, 0)[references.image]
    difference = length - np.maximum(references.lengths - 1, 0)
    return np.exp(-(difference**2) / (2 * sigma**2))
