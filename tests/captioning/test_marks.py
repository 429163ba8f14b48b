"""Which words of captions are marked."""

import pytest

from smile.captioning.marks import differing_words, false_words, pieces
from smile.data.shapes import make_scenes


@pytest.mark.parametrize(
    ("captions", "words"),
    [
        ([], []),
        (["a dog"], [set()]),
        (["a dog", "a dog"], [set(), set()]),
        (["a dog runs", "A brown DOG runs fast"], [set(), {1, 4}]),
        (["a cat on a mat", "a dog on a mat"], [{1}, {1}]),
        (["a b c", "c"], [{0, 1}, set()]),
        (["a dog", "a dog runs", "the dog runs"], [set(), set(), {0}]),
        (["", "a  dog"], [set(), {0, 1}]),
    ],
)
def test_words_differ_that_no_other_caption_has(captions, words):
    assert differing_words(captions) == words


def test_false_words_are_found_for_every_scene():
    for scene in make_scenes("test", 20):
        for caption in scene.captions:
            assert false_words(caption, scene) == set()
            words = caption.split()
            shape = next(place for place, word in enumerate(words) if word not in "a two three")
            words[shape] = "cat"
            assert shape in false_words(" ".join(words), scene)


def test_pieces_are_the_caption_again():
    caption = "  a large  dotted heart\non grass "
    found = list(pieces(caption, {1, 2, 4}, {2}))
    assert "".join(text for text, *_ in found) == caption
    assert all(caption[start : start + len(text)] == text for text, start, _ in found)
    marked = [(text, flags) for text, _, flags in found if any(flags)]
    assert marked == [("large  ", (True, False)), ("dotted", (True, True)), ("on", (True, False))]
    assert list(pieces("", {1})) == []
