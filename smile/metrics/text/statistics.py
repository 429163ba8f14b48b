"""Statistics of captions alone: length, distinct words, novelty, repetition at the end."""

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

__all__ = ["CaptionStatistics", "caption_statistics", "repeats_at_tail"]


@dataclass(frozen=True)
class CaptionStatistics:
    """Statistics of N captions; the means of `lengths`, `novel`, … are the corpus values."""

    lengths: np.ndarray  # (N,) words of each caption
    novel: np.ndarray | None  # (N,) bool; None if no training captions were given
    tail_repeats: np.ndarray  # (N,) bool, see `repeats_at_tail`
    distinct_words: int
    only_here: np.ndarray  # (N,) number of distinct words that no other caption has

    @property
    def num_empty(self) -> int:
        return int((self.lengths == 0).sum())

    @property
    def mean_length(self) -> float:
        """Words per caption; empty captions count as 0."""
        return float(self.lengths.mean())

    @property
    def distinct_ratio(self) -> float:
        """Distinct words over all words (0 if there are none)."""
        return self.distinct_words / max(1, int(self.lengths.sum()))

    @property
    def novel_share(self) -> float | None:
        """Share of captions that are not, word for word, a training caption."""
        return None if self.novel is None else float(self.novel.mean())

    @property
    def tail_repetition(self) -> float:
        """Share of captions that repeat themselves in their last third."""
        return float(self.tail_repeats.mean())

    def distinct_words_without_each(self) -> np.ndarray:
        """(N,): `distinct_words` without each caption (for the jackknife)."""
        return self.distinct_words - self.only_here

    def distinct_ratio_without_each(self) -> np.ndarray:
        """(N,): `distinct_ratio` without each caption (for the jackknife)."""
        words = self.lengths.sum() - self.lengths
        return self.distinct_words_without_each() / np.maximum(1, words)


def caption_statistics(
    captions: Sequence[Sequence[str]], *, training: Iterable[Sequence[str]] | None = None
) -> CaptionStatistics:
    """Statistics of token lists, with novelty measured against `training` token lists.

    An empty caption counts in every mean and is not novel. Raises ValueError without captions.
    """
    if not captions:
        raise ValueError("no captions to describe: give at least one")
    num_captions = Counter(word for caption in captions for word in set(caption))
    novel = None
    if training is not None:
        known = {tuple(caption) for caption in training} | {()}
        novel = np.array([tuple(caption) not in known for caption in captions])
    return CaptionStatistics(
        lengths=np.array([len(caption) for caption in captions]),
        novel=novel,
        tail_repeats=np.array([repeats_at_tail(caption) for caption in captions]),
        distinct_words=len(num_captions),
        only_here=np.array([sum(num_captions[w] == 1 for w in set(c)) for c in captions]),
    )


def repeats_at_tail(caption: Sequence[str]) -> bool:
    """Whether a caption gets stuck toward its end, SMILE's known weakness.

    True if within its last third (rounded up) there ends a run of one or two words twice in a row
    ("a dog dog", "and white and white"), or three words in a row that occurred before. A repeated
    pair does not count: "in a ... in a" is good English. Under 1 % of Flickr8k's human captions do
    so.
    """
    tail = len(caption) - -(-len(caption) // 3)
    seen = set()
    for end in range(1, len(caption) + 1):
        three = tuple(caption[max(0, end - 3) : end])
        stutters = any(
            end >= 2 * k and caption[end - k : end] == caption[end - 2 * k : end - k]
            for k in (1, 2)
        )
        if end > tail and (stutters or (len(three) == 3 and three in seen)):
            return True
        seen.add(three)
    return False
