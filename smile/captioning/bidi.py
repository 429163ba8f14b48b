"""In which order the letters of a line stand, where it mixes left to right with right to left.

The Unicode Bidirectional Algorithm (UAX 9) without its control characters and its rule for pairs of
brackets, which captions can do without. Each character gets a level: even ones run left to right,
odd ones right to left, and a higher one is embedded in what has a lower one.
"""

import unicodedata
from collections.abc import Sequence

_NEUTRAL = frozenset(("B", "S", "WS", "ON", "BN"))
_OF_NUMBERS = frozenset(("EN", "AN"))


def levels(text: str) -> list[int]:
    """The level of each character of a paragraph; its first letter gives its direction."""
    kinds = [unicodedata.bidirectional(char) or "L" for char in text]
    strong = next((kind for kind in kinds if kind in ("L", "R", "AL")), "L")
    base = 0 if strong == "L" else 1
    direction = "R" if base else "L"
    kinds = _resolve_neutral(_resolve_numbers(kinds, direction), direction)
    return [_level(kind, base) for kind in kinds]


def _level(kind: str, base: int) -> int:
    """Rules I1 and I2."""
    if kind == "R":
        return 1
    return base if kind == "L" and base == 0 else 2


def _resolve_numbers(kinds: Sequence[str], direction: str) -> list[str]:
    """Rules W1 to W7: marks, digits and what stands between digits become L, R, EN, AN or ON."""
    kinds = list(kinds)
    for i, kind in enumerate(kinds):  # W1: a mark is what it stands on
        if kind == "NSM":
            kinds[i] = kinds[i - 1] if i else direction
    strong = direction
    for i, kind in enumerate(kinds):  # W2 and W3: digits after Arabic letters
        if kind in ("L", "R", "AL"):
            strong = kind
        elif kind == "EN" and strong == "AL":
            kinds[i] = "AN"
    kinds = ["R" if kind == "AL" else kind for kind in kinds]
    for i in range(1, len(kinds) - 1):  # W4: one separator between two digits
        before, kind, after = kinds[i - 1 : i + 2]
        if before == after and (
            (kind == "CS" and before in _OF_NUMBERS) or (kind == "ES" and before == "EN")
        ):
            kinds[i] = before
    for side in (range(len(kinds)), reversed(range(len(kinds)))):  # W5: "%" beside digits
        near = ""
        for i in side:
            if kinds[i] == "ET" and near == "EN":
                kinds[i] = "EN"
            near = kinds[i]
    strong = direction
    for i, kind in enumerate(kinds):  # W6 and W7
        if kind in ("ES", "ET", "CS"):
            kinds[i] = "ON"
        elif kind in ("L", "R"):
            strong = kind
        elif kind == "EN" and strong == "L":
            kinds[i] = "L"
    return kinds


def _resolve_neutral(kinds: Sequence[str], direction: str) -> list[str]:
    """Rules N1 and N2: spaces and signs are as both their neighbours, or as the paragraph."""
    kinds = list(kinds)
    start = 0
    before = direction
    while start < len(kinds):
        if kinds[start] not in _NEUTRAL:
            before = "R" if kinds[start] in _OF_NUMBERS else kinds[start]
            start += 1
            continue
        end = start
        while end < len(kinds) and kinds[end] in _NEUTRAL:
            end += 1
        after = kinds[end] if end < len(kinds) else direction
        after = "R" if after in _OF_NUMBERS else after
        kinds[start:end] = [before if before == after else direction] * (end - start)
        start = end
    return kinds


def visual_order(levels: Sequence[int]) -> list[int]:
    """The places of a line's pieces from left to right, given their levels (rule L2)."""
    order = list(range(len(levels)))
    for level in range(max(levels, default=0), 0, -1):
        start = 0
        while start < len(order):
            end = start
            while end < len(order) and levels[order[end]] >= level:
                end += 1
            order[start:end] = order[start:end][::-1]
            start = end + 1
    return order
