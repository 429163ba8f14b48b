"""Text metrics: pycocoevalcap's numbers, numbers worked out by hand, and what must always hold."""

import json
import math
import random
from itertools import combinations
from pathlib import Path

import numpy as np
import pytest

from smile.metrics.text.bleu import bleu
from smile.metrics.text.cider import cider, cider_d
from smile.metrics.text.ngrams import Candidates, References
from smile.metrics.text.ptb import tokenize_all
from smile.metrics.text.rouge import common_subsequence_length, rouge_l

GOLDEN = Path(__file__).parents[1] / "golden" / "coco_metrics.json"


def cook(candidates: list[str], references: list[list[str]]) -> Candidates:
    split = [[caption.split() for caption in image] for image in references]
    return Candidates([caption.split() for caption in candidates], References(split))


def every_score(candidates: Candidates) -> dict[str, object]:
    scores = {f"BLEU-{n}": score for n, score in enumerate(bleu(candidates).scores, start=1)}
    more = {"ROUGE-L": rouge_l, "CIDEr": cider_d, "plain CIDEr": cider}
    return scores | {name: metric(candidates) for name, metric in more.items()}


def random_captions(rng: random.Random, num: int) -> list[str]:
    return [" ".join(rng.choices("abcdefgh", k=rng.randint(0, 9))) for _ in range(num)]


def test_equals_pycocoevalcap():
    golden = json.loads(GOLDEN.read_text(encoding="utf-8"))
    items = golden["items"]
    references = References([tokenize_all(item["references"]) for item in items])
    scores = every_score(Candidates(tokenize_all(i["caption"] for i in items), references))
    for name, score in scores.items():
        if name in golden["corpus"]:
            assert score.corpus == pytest.approx(golden["corpus"][name], abs=1e-9)
        if name in items[0]["scores"]:
            expected = [item["scores"][name] for item in items]
            np.testing.assert_allclose(score.per_image, expected, atol=1e-9)


def test_bleu_by_hand():
    # "the" is in no reference more than twice; cat matches; of the pairs only "the cat" does.
    scores = bleu(cook(["the the the cat"], [["the cat on the mat", "a cat"]])).scores
    penalty = math.exp(1 - 5 / 4)
    assert scores[0].corpus == pytest.approx(3 / 4 * penalty)
    assert scores[1].corpus == pytest.approx(math.sqrt(3 / 4 * 1 / 3) * penalty)
    assert scores[2].corpus < 1e-4  # no three words match


def test_bleu_takes_the_shorter_of_two_references_as_near():
    score = bleu(cook(["a b c d"], [["a b c d e", "a b c", "a b c d e f"]])).scores[0]
    assert score.corpus == pytest.approx(1.0)  # measured against 3 words: no penalty


def test_corpus_bleu_sums_counts():
    scores = bleu(cook(["a b c d e f", "x"], [["a b c d e f"], ["y"]])).scores
    assert scores[0].corpus == pytest.approx(6 / 7)  # not the mean, 1/2
    np.testing.assert_allclose(scores[0].per_image, [1, 0], atol=1e-5)


def test_rouge_by_hand():
    # In common: "a cat mat" (3 of 4 said, 3 of 6 meant), and "a cat" with the second (2 of 2).
    score = rouge_l(cook(["a cat mat here"], [["a big cat on a mat", "a cat"]]))
    precision, recall = 3 / 4, 1.0
    expected = (1 + 1.44) * precision * recall / (recall + 1.44 * precision)
    assert score.corpus == pytest.approx(expected)


def test_common_subsequence_against_brute_force():
    rng = random.Random(0)
    for first, second in zip(random_captions(rng, 60), random_captions(rng, 60), strict=True):
        first, second = first.split(), second.split()
        inside = {s for n in range(len(second) + 1) for s in combinations(second, n)}
        longest = max(n for n in range(len(first) + 1) if inside & set(combinations(first, n)))
        assert common_subsequence_length(first, second) == longest


def test_cider_by_hand():
    # Two images. "a" is in both, so weighs nothing; "cat" and "dog" weigh log 2.
    candidates = cook(["a cat cat", "a bird"], [["a cat"], ["a dog"]])
    plain, clipped = cider(candidates), cider_d(candidates)
    # One-word vectors are parallel (1); two-word ones are (a cat, cat cat) · (a cat) = 1/sqrt 2.
    assert plain.per_image[0] == pytest.approx(10 * (1 + 1 / math.sqrt(2)) / 4)
    # Clipped to one "cat": 1·1 / (2·1); a word longer, Gaussian of width 6.
    expected = 10 * (1 / 2 + 1 / math.sqrt(2)) / 4 * math.exp(-1 / 72)
    assert clipped.per_image[0] == pytest.approx(expected)
    assert plain.per_image[1] == clipped.per_image[1] == 0


def test_unseen_words_cost_cider():
    references = [["a red cat"], ["a dog"]]
    known = cider_d(cook(["a red cat", "x"], references)).per_image[0]
    assert cider_d(cook(["a red cat qux", "x"], references)).per_image[0] < 0.8 * known


def test_perfect_captions():
    references = [["a cat sits on a mat"], ["two dogs run on the beach"], ["one red bird sings"]]
    scores = every_score(cook([image[0] for image in references], references))
    for name, score in scores.items():
        best = 10 if "CIDEr" in name else 1
        assert score.corpus == pytest.approx(best), name
        np.testing.assert_allclose(score.per_image, best, err_msg=name)


def test_order_does_not_matter():
    rng = random.Random(1)
    candidates = random_captions(rng, 30)
    references = [random_captions(rng, rng.randint(1, 5)) for _ in candidates]
    shuffled = rng.sample(range(30), 30)
    before = every_score(cook(candidates, references))
    after = every_score(
        cook([candidates[i] for i in shuffled], [references[i][::-1] for i in shuffled])
    )
    for name, score in before.items():
        assert after[name].corpus == pytest.approx(score.corpus), name
        np.testing.assert_allclose(after[name].per_image, score.per_image[shuffled], atol=1e-12)


def test_references_serve_many_systems():
    rng = random.Random(2)
    references = [random_captions(rng, 3) for _ in range(20)]
    shared = References([[caption.split() for caption in image] for image in references])
    for _ in range(2):
        captions = random_captions(rng, 20)
        once = every_score(cook(captions, references))
        again = every_score(Candidates([caption.split() for caption in captions], shared))
        for name in once:
            np.testing.assert_array_equal(once[name].per_image, again[name].per_image)


def test_empty_captions_score_nothing():
    for name, score in every_score(cook(["", "a dog"], [["a cat"], ["a dog"]])).items():
        assert score.per_image[0] == 0, name
        assert score.per_image[1] > 0, name
        assert np.isfinite(score.per_image).all(), name


def test_only_empty_captions():
    for name, score in every_score(cook(["", ""], [["a cat"], ["a dog"]])).items():
        assert score.corpus == 0, name


def test_one_word_captions():
    scores = every_score(cook(["cat", "dog"], [["cat"], ["a dog"]]))
    assert scores["BLEU-1"].per_image[0] == pytest.approx(1)
    assert scores["CIDEr"].per_image[0] == pytest.approx(10 / 4)  # one order of four
    # No pair to be wrong about: pycocoevalcap's 1e-15 / 1e-9, square root.
    assert scores["BLEU-2"].per_image[0] == pytest.approx(1e-3)


def test_one_image_has_no_rare_words():
    assert cider_d(cook(["a cat"], [["a cat"]])).corpus == 0


def test_missing_references():
    with pytest.raises(ValueError, match=r"1 of 2 images have no reference.*\[1\]"):
        References([[["a", "cat"]], []])
    with pytest.raises(ValueError, match="0 of 0 images"):
        References([])


def test_captions_and_images_must_match():
    with pytest.raises(ValueError, match="1 captions for 2 images"):
        cook(["a"], [["a"], ["b"]])
