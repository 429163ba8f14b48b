"""What report.html is given to show, and in which colours. A browser is needed to see the rest."""

import re
from importlib import resources

from smile.data.shapes import make_scenes
from smile.evaluation.catalogue import METRICS
from smile.evaluation.report import _pieces
from smile.model.images import Photo

PAGE = resources.files("smile.evaluation").joinpath("report.html").read_text("utf-8")


def test_captions_come_in_pieces_with_what_differs_and_what_is_false():
    [scene] = make_scenes("test", 1)
    same, other = _pieces(scene, ["a cat", "a big cat"])
    assert "".join(text for text, *_ in other) == "a big cat"
    assert same == [("a cat", False, True)]
    assert ("big", True, True) in other


def test_of_photos_nothing_is_called_false():
    found = _pieces(Photo("a.jpg", captions=("a dog",)), ["a cat", "", "a red cat"])
    assert found == [
        [("a cat", False, False)],
        [],
        [("a ", False, False), ("red", True, False), (" cat", False, False)],
    ]


def test_longer_and_more_distinct_is_better():
    better = {metric.key: metric.better for metric in METRICS}
    for key in ("length", "distinct_words", "novel", "statements"):
        assert better[key] == "higher"
    assert better["distinct_ratio"] == ""  # it falls with every longer text


def test_the_scores_at_a_glance_are_in_the_catalogue():
    keys = re.findall(r'"(\w+)"', re.search(r"const GLANCE = \[(.*?)\]", PAGE)[1])
    assert keys and set(keys) <= {metric.key for metric in METRICS}
