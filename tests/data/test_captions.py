import pytest

from smile.data.captions import clean_caption


@pytest.mark.parametrize(
    ("raw", "clean"),
    [
        ("A Dog RUNS", "a dog runs"),
        ('a."b"!(c)*d#e:f;g~h', "a b c d e f g h"),
        ("  two \t men\n stand .\n", "two men stand"),
        ("a man's black-and-white dog, 2 cats", "a man's black-and-white dog, 2 cats"),
        (' . ! " ', ""),
    ],
)
def test_cleans_as_blip_does(raw, clean):
    assert clean_caption(raw) == clean


def test_keeps_the_first_words():
    text = " ".join(f"w{i}" for i in range(60))
    assert clean_caption(text).split() == text.split()[:50]
    assert clean_caption("one. two three", max_words=2) == "one two"
