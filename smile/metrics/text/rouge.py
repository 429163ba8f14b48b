"""ROUGE-L (Lin, 2004): the longest common subsequence of a caption and its references.

F-measure with beta 1.2 of the best precision and the best recall over the references; the two may
come from different references, as in `pycocoevalcap`.
"""

from collections.abc import Sequence

import numpy as np

from .ngrams import Candidates
from .score import Score

__all__ = ["common_subsequence_length", "rouge_l"]


def rouge_l(candidates: Candidates, *, beta: float = 1.2) -> Score:
    """ROUGE-L of one caption per image. An empty caption scores 0."""
    per_image = np.array(
        [
            _rouge_l(candidate, references, beta)
            for candidate, references in zip(
                candidates.captions, candidates.references.captions, strict=True
            )
        ]
    )
    return Score(float(per_image.mean()), per_image)


def common_subsequence_length(first: Sequence[str], second: Sequence[str]) -> int:
    """Length of the longest common subsequence of two token lists."""
    return _common(_places(first), len(first), second)


def _rouge_l(candidate: Sequence[str], references: Sequence[Sequence[str]], beta: float) -> float:
    # pycocoevalcap splits at single spaces, so there an empty caption is one empty word.
    candidate = candidate or [""]
    places = _places(candidate)
    precision = recall = 0.0
    for reference in references:
        reference = reference or [""]
        common = _common(places, len(candidate), reference)
        precision = max(precision, common / len(candidate))
        recall = max(recall, common / len(reference))
    if not precision:
        return 0.0
    return (1 + beta**2) * precision * recall / (recall + beta**2 * precision)


def _places(tokens: Sequence[str]) -> dict[str, int]:
    """For each word, an integer in which the bits of its positions are set."""
    places: dict[str, int] = {}
    for position, token in enumerate(tokens):
        places[token] = places.get(token, 0) | 1 << position
    return places


def _common(places: dict[str, int], length: int, other: Sequence[str]) -> int:
    """The usual dynamic programme, a row per integer (Hyyrö, 2004): a 0 bit is a step of +1."""
    all_bits = (1 << length) - 1
    row = all_bits
    for token in other:
        if matches := places.get(token, 0) & row:
            row = (row + matches | row - matches) & all_bits
    return length - row.bit_count()
