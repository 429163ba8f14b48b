"""BLEU-1 to BLEU-4 (Papineni et al., 2002), with the numbers of `pycocoevalcap`'s Bleu.

The share of the candidate's n-grams that occur in a reference (each counted at most as often as in
the reference that has it most often), as a geometric mean over the orders, times a penalty for
candidates shorter than the reference closest in length (the shorter one of two equally close). BLEU
of a corpus adds up the counts of all images before dividing; it is not the mean of the images'
BLEU.
"""

from dataclasses import dataclass

import numpy as np

from .ngrams import MAX_ORDER, Candidates
from .score import Score

__all__ = ["Bleu", "bleu", "bleu_from_counts"]

# pycocoevalcap's guards against division by zero; they change the scores of short captions.
_SMALL, _TINY = 1e-9, 1e-15


@dataclass(frozen=True)
class Bleu:
    """Corpus and per-image BLEU of every order, and the counts they come from."""

    scores: tuple[Score, ...]  # BLEU-1, ..., BLEU-4
    counts: np.ndarray  # (N, 10) float64, see `bleu_from_counts`


def bleu(candidates: Candidates) -> Bleu:
    """BLEU-1..4 of one caption per image."""
    references = candidates.references
    columns = []
    for candidate, most in zip(candidates.counts, references.most, strict=True):
        clipped = np.minimum(candidate.count, most.of(candidate.owner, candidate.gram))
        columns.append(np.bincount(candidate.owner, weights=clipped, minlength=len(references)))
    columns += [np.maximum(candidates.lengths - n, 0) for n in range(MAX_ORDER)]
    columns += [candidates.lengths, _closest_lengths(candidates)]
    counts = np.stack(columns, axis=1).astype(np.float64)
    per_image, corpus = bleu_from_counts(counts), bleu_from_counts(counts.sum(axis=0))
    scores = (Score(float(corpus[n]), per_image[:, n]) for n in range(MAX_ORDER))
    return Bleu(tuple(scores), counts)


def bleu_from_counts(counts: np.ndarray) -> np.ndarray:
    """(..., 10) → (..., 4): BLEU-1..4 of counts of one image, or of their sum over many.

    The counts are 4 of matched n-grams, 4 of the candidate's n-grams, the candidate's length and
    the closest reference's.
    """
    matched, total = counts[..., :MAX_ORDER], counts[..., MAX_ORDER : 2 * MAX_ORDER]
    length, reference_length = counts[..., -2:-1], counts[..., -1:]
    products = np.cumprod((matched + _TINY) / (total + _SMALL), axis=-1)
    ratio = (length + _TINY) / (reference_length + _SMALL)
    penalty = np.exp(np.minimum(0.0, 1.0 - 1.0 / ratio))
    return products ** (1.0 / np.arange(1, MAX_ORDER + 1)) * penalty


def _closest_lengths(candidates: Candidates) -> np.ndarray:
    references = candidates.references
    away = np.abs(references.lengths - candidates.lengths[references.image])
    # One integer orders by distance, then by length.
    nearest = np.minimum.reduceat(away << 32 | references.lengths, references.first)
    return nearest & ((1 << 32) - 1)
