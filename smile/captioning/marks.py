"""Which words of a caption to mark: those that differ, and those that are false.

Words are what `str.split` finds, and are named by their places, counted from 0.
"""

import re
from collections.abc import Collection, Iterator, Sequence
from difflib import SequenceMatcher

from smile.data.shapes import Scene, check_caption

__all__ = ["differing_words", "false_words", "pieces"]


def differing_words(captions: Sequence[str]) -> list[set[int]]:
    """The words of each caption that no other caption has, in the same order of words.

    None of a caption that stands alone. Capitals make no difference.
    """
    split = [caption.lower().split() for caption in captions]
    if len(split) < 2:
        return [set() for _ in split]
    found = [set(range(len(words))) for words in split]
    for second in range(len(split)):
        for first in range(second):
            matcher = SequenceMatcher(None, split[first], split[second], autojunk=False)
            for a, b, size in matcher.get_matching_blocks():
                found[first].difference_update(range(a, a + size))
                found[second].difference_update(range(b, b + size))
    return found


def false_words(caption: str, scene: Scene) -> set[int]:
    """The words of a caption that make statements which are false of the scene."""
    statements = check_caption(caption, scene)
    return {word for statement in statements if not statement.true for word in statement.words}


def pieces(caption: str, *marks: Collection[int]) -> Iterator[tuple[str, int, tuple[bool, ...]]]:
    """A caption in pieces: the text, where it starts, and which of `marks` hold all its words.

    A space belongs to the marks that the words on both of its sides have. All pieces joined are
    the caption.
    """
    flags: list[tuple[bool, ...]] = []
    none = tuple(False for _ in marks)
    for number, match in enumerate(re.finditer(r"\S+", caption)):
        own = tuple(number in words for words in marks)
        before = flags[-1] if number else none
        gap = tuple(a and b for a, b in zip(before, own, strict=True))
        flags += [gap] * (match.start() - len(flags)) + [own] * (match.end() - match.start())
    flags += [none] * (len(caption) - len(flags))
    start = 0
    for end in range(1, len(flags) + 1):
        if end == len(flags) or flags[end] != flags[start]:
            yield caption[start:end], start, flags[start]
            start = end
