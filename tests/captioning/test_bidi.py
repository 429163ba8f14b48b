"""The order of letters where right to left meets left to right, as another library has it."""

import random

import pytest
from fpdf.bidi import BidiParagraph, auto_detect_base_direction

from smile.captioning.bidi import levels, visual_order

LETTERS = "ab אב عا 12 ٣٤ .,+%-!\u0301é\u064b"


def oracle(text: str) -> list[int]:
    direction = auto_detect_base_direction(text)
    paragraph = BidiParagraph(text=text, base_direction=direction, preserve_bn_chars=True)
    return [character.embedding_level for character in paragraph.characters]


def test_levels_are_those_of_the_unicode_algorithm():
    rng = random.Random(0)
    for _ in range(600):
        text = "".join(rng.choices(LETTERS, k=rng.randint(1, 14))).rstrip() or "a"
        assert levels(text) == oracle(text), ascii(text)


@pytest.mark.parametrize(
    ("levels", "order"),
    [
        ([], []),
        ([0, 0, 0], [0, 1, 2]),
        ([1, 1, 1], [2, 1, 0]),
        ([0, 1, 1, 0], [0, 2, 1, 3]),
        ([1, 2, 2, 1], [3, 1, 2, 0]),
        ([0, 1, 2, 1, 0], [0, 3, 2, 1, 4]),
    ],
)
def test_higher_levels_are_turned_first(levels, order):
    assert visual_order(levels) == order
