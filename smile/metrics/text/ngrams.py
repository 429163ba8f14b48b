"""Candidates and references as counted n-grams, computed once for BLEU and CIDEr.

Each word gets a number, and each n-gram a number for the pair (number of its first n-1 words, its
last word). Counting is then sorting integers: a few numpy calls for the whole corpus.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import chain

import numpy as np

__all__ = ["MAX_ORDER", "Candidates", "Counts", "References"]

MAX_ORDER = 4
_GRAM_BITS = 40  # a key is (owner, n-gram) in one integer: up to 8 million owners


@dataclass(frozen=True)
class Counts:
    """How often each owner (a caption or an image) has each n-gram; sorted by `keys`."""

    keys: np.ndarray  # (E,) int64, owner << 40 | gram
    count: np.ndarray  # (E,) int64

    @property
    def owner(self) -> np.ndarray:
        return self.keys >> _GRAM_BITS

    @property
    def gram(self) -> np.ndarray:
        return self.keys & ((1 << _GRAM_BITS) - 1)

    def of(self, owner: np.ndarray, gram: np.ndarray) -> np.ndarray:
        """The counts of these (owner, n-gram) pairs; 0 where the owner does not have it."""
        place, present = _find(self.keys, owner << _GRAM_BITS | gram)
        count = np.zeros(len(place), dtype=np.int64)
        count[present] = self.count[place[present]]
        return count


class References:
    """The reference captions of every image, tokenised, with their n-grams counted.

    references: per image, the token lists of its captions. Raises ValueError if one has none.
    """

    def __init__(self, references: Sequence[Sequence[Sequence[str]]]) -> None:
        missing = [image for image, captions in enumerate(references) if not captions]
        if missing or not references:
            raise ValueError(
                f"{len(missing)} of {len(references)} images have no reference caption "
                f"(numbers {missing[:5]}): every image needs at least one"
            )
        self.captions = references
        self.per_image = np.array([len(captions) for captions in references])  # (N,)
        self.image = np.repeat(np.arange(len(references)), self.per_image)  # (R,) image of each
        self.first = np.concatenate([[0], np.cumsum(self.per_image)[:-1]])  # (N,) first of each
        self._words: dict[str, int] = {}
        self._tables: list[np.ndarray] = []  # per order from 2 on: sorted (prefix, word) keys
        self.lengths, self.counts = self._count(chain.from_iterable(references), learn=True)
        self.most = [self._most_in_one_caption(counts) for counts in self.counts]

    def __len__(self) -> int:
        return len(self.captions)

    def num_images_with(self, order: int) -> np.ndarray:
        """(G,) int64: for each n-gram of `order`, the number of images whose references have it."""
        return np.bincount(self.most[order - 1].gram)

    def count(self, captions: Iterable[Sequence[str]]) -> tuple[np.ndarray, list[Counts]]:
        """Lengths (S,) of other captions, and per order their n-grams with the same numbers."""
        return self._count(captions, learn=False)

    def _count(self, captions: Iterable[Sequence[str]], learn: bool):
        captions = list(captions)
        lengths = np.array([len(caption) for caption in captions], dtype=np.int64)
        words = self._words
        unseen: dict[str, int] = {}
        if learn:
            numbers = [words.setdefault(w, len(words)) for c in captions for w in c]
        else:
            base = len(words)
            numbers = [
                words[w] if w in words else unseen.setdefault(w, base + len(unseen))
                for caption in captions
                for w in caption
            ]
        word = np.array(numbers, dtype=np.int64)
        owner = np.repeat(np.arange(len(captions)), lengths)
        left = np.repeat(np.cumsum(lengths), lengths) - np.arange(len(word))  # words to the end
        gram, start, counts = word, np.arange(len(word)), [_tally(owner, word)]
        for order in range(2, MAX_ORDER + 1):
            keep = left[start] >= order
            start, gram = start[keep], gram[keep]
            gram = self._number(order, gram << 24 | word[start + order - 1], learn)
            counts.append(_tally(owner[start], gram))
        return lengths, counts

    def _number(self, order: int, keys: np.ndarray, learn: bool) -> np.ndarray:
        """Numbers of (prefix, word) keys: those of the references, then new ones."""
        if learn:
            table, numbers = np.unique(keys, return_inverse=True)
            self._tables.append(table)
            return numbers
        table = self._tables[order - 2]
        numbers, known = _find(table, keys)
        _, new = np.unique(keys[~known], return_inverse=True)
        numbers[~known] = len(table) + new
        return numbers

    def _most_in_one_caption(self, counts: Counts) -> Counts:
        """Per image and n-gram, its largest count in one reference (BLEU clips to it)."""
        keys = self.image[counts.owner] << _GRAM_BITS | counts.gram
        order = np.argsort(keys, kind="stable")
        keys, count = keys[order], counts.count[order]
        first = np.flatnonzero(np.diff(keys, prepend=-1))
        return Counts(keys[first], np.maximum.reduceat(count, first) if len(first) else count)


class Candidates:
    """One caption for every image of `references`, counted with the references' n-gram numbers.

    Raises ValueError unless there are as many captions as images.
    """

    def __init__(self, candidates: Sequence[Sequence[str]], references: References) -> None:
        if len(candidates) != len(references):
            raise ValueError(
                f"{len(candidates)} captions for {len(references)} images: give one for each"
            )
        self.captions = candidates
        self.references = references
        self.lengths, self.counts = references.count(candidates)


def _tally(owner: np.ndarray, gram: np.ndarray) -> Counts:
    return Counts(*np.unique(owner << _GRAM_BITS | gram, return_counts=True))


def _find(table: np.ndarray, keys: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Each key's index in a sorted table, and whether the table holds it."""
    if not len(table):
        return np.zeros(len(keys), dtype=np.int64), np.zeros(len(keys), dtype=bool)
    place = np.minimum(np.searchsorted(table, keys), len(table) - 1)
    return place, table[place] == keys
