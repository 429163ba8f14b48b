"""Caption statistics, and the intervals and paired tests of every metric."""

import math
import random

import numpy as np
import pytest

from smile.metrics.bootstrap import Bootstrap, jackknife, jackknife_compare
from smile.metrics.text.bleu import bleu, bleu_from_counts
from smile.metrics.text.ngrams import Candidates, References
from smile.metrics.text.rouge import rouge_l
from smile.metrics.text.statistics import caption_statistics, repeats_at_tail


def bleu_4(counts: np.ndarray) -> np.ndarray:
    return bleu_from_counts(counts)[..., 3]


def some_candidates(seed: int, num: int = 40) -> Candidates:
    rng = random.Random(seed)
    captions = [[rng.choices("abcde", k=rng.randint(2, 9)) for _ in range(4)] for _ in range(num)]
    return Candidates([image[0] for image in captions], References([i[1:] for i in captions]))


def test_statistics_by_hand():
    captions = [s.split() for s in ("a dog runs", "a cat", "", "a dog runs fast fast")]
    stats = caption_statistics(captions, training=[["a", "cat"]])
    assert stats.num_empty == 1
    assert stats.mean_length == 10 / 4
    assert stats.distinct_words == 5
    assert stats.distinct_ratio == 5 / 10
    assert stats.novel_share == 2 / 4  # not the training caption, not the empty one
    assert stats.tail_repeats.tolist() == [False, False, False, True]


def test_left_out_statistics_are_those_of_the_rest():
    captions = [s.split() for s in ("a dog", "a cat", "", "the the dog")]
    stats = caption_statistics(captions)
    for i in range(len(captions)):
        rest = caption_statistics(captions[:i] + captions[i + 1 :])
        assert stats.distinct_words_without_each()[i] == rest.distinct_words
        assert stats.distinct_ratio_without_each()[i] == rest.distinct_ratio


def test_no_training_captions_no_novelty():
    assert caption_statistics([["a"]]).novel_share is None


def test_no_captions():
    with pytest.raises(ValueError, match="no captions"):
        caption_statistics([])


@pytest.mark.parametrize(
    ("caption", "stuck"),
    [
        ("a man rides a red bike in a park", False),  # "a" again is no fault
        ("a man in a hat walks in a park", False),  # nor is "in a"
        ("a brown dog runs on the beach beach", True),
        ("a dog runs and white and white", True),
        ("a dog in the snow with a dog in the snow", True),
        ("dog dog runs along the wide sandy beach", False),  # at the head, not the tail
        ("", False),
        ("dog", False),
        ("dog dog", True),
    ],
)
def test_repeats_at_tail(caption, stuck):
    assert repeats_at_tail(caption.split()) is stuck


def test_interval_of_a_mean_is_the_textbook_one():
    scores = np.random.default_rng(0).normal(3.0, 2.0, size=400)
    interval = Bootstrap(num_images=400, draws=2000).interval(scores)
    assert interval.value == pytest.approx(scores.mean())
    half = 1.96 * scores.std() / math.sqrt(400)
    assert interval.low == pytest.approx(interval.value - half, abs=0.03)
    assert interval.high == pytest.approx(interval.value + half, abs=0.03)


def test_bleu_interval_is_that_of_rescored_draws():
    candidates = some_candidates(0)
    interval = Bootstrap(num_images=40, draws=50, seed=3).interval(bleu(candidates).counts, bleu_4)
    generator, redone = np.random.default_rng(3), []
    for _ in range(50):
        drawn = generator.integers(40, size=40)
        references = References([candidates.references.captions[i] for i in drawn])
        again = Candidates([candidates.captions[i] for i in drawn], references)
        redone.append(bleu(again).scores[3].corpus)
    assert interval.value == pytest.approx(bleu(candidates).scores[3].corpus)
    low, high = np.percentile(redone, [2.5, 97.5])
    assert (interval.low, interval.high) == pytest.approx((low, high))


def test_same_seed_same_interval():
    scores = rouge_l(some_candidates(1)).per_image
    one, two, other = (Bootstrap(num_images=40, seed=s).interval(scores) for s in (0, 0, 1))
    assert one == two != other


def test_comparison_sees_a_paired_difference():
    rng = np.random.default_rng(0)
    first = rng.normal(0, 10, size=200)  # images differ far more than systems do
    bootstrap = Bootstrap(num_images=200)
    better = bootstrap.compare(first, first + 0.5 + rng.normal(0, 1, size=200))
    assert better.significant
    assert 0 < better.difference.low < better.difference.value < better.difference.high
    as_good = bootstrap.compare(first, first + rng.permutation(np.linspace(-1, 1, 200)))
    assert not as_good.significant


def test_system_does_not_differ_from_itself():
    counts = bleu(some_candidates(2)).counts
    same = Bootstrap(num_images=40).compare(counts, counts, bleu_4)
    assert same.difference.value == 0
    assert same.p_value == 1


def test_false_alarms_are_rare():
    rng = np.random.default_rng(0)
    bootstrap = Bootstrap(num_images=100, draws=400)
    alarms = sum(
        bootstrap.compare(rng.normal(size=100), rng.normal(size=100)).significant
        for _ in range(200)
    )
    assert alarms <= 22  # 5 % are 10


def test_statistics_of_other_images():
    with pytest.raises(ValueError, match="statistics of 3 images, drawn from 4"):
        Bootstrap(num_images=4).interval(np.zeros(3))


def test_jackknife_of_a_mean_is_the_textbook_one():
    scores = 5 + np.random.default_rng(0).normal(size=100)
    without_each = (scores.sum() - scores) / 99
    interval = jackknife(scores.mean(), without_each)
    half = 1.959964 * scores.std(ddof=1) / 10
    assert interval.high - interval.value == pytest.approx(half)
    assert interval.value - interval.low == pytest.approx(half)


@pytest.mark.parametrize("value", [0.0, 0.01, 0.5, 5 / 6, 0.999, 1.0])
@pytest.mark.parametrize("spread", [0.0, 0.1, 1.0])
def test_no_interval_leaves_the_range_of_its_score(value, spread):
    without_each = np.clip(value + spread * np.array([-1, 0.5, 1]), 0, 1)
    share = jackknife(value, without_each, share=True)
    assert 0 <= share.low <= value <= share.high <= 1
    assert spread != 0.1 or value not in (0.5, 5 / 6) or (share.low > 0 and share.high < 1)
    assert jackknife(value, without_each).low >= 0  # a count
    zeros = np.zeros(3)
    difference = jackknife_compare(0.0, zeros, value, without_each, share=True).difference
    assert -1 <= difference.low <= value <= difference.high <= 1


def test_a_large_samples_share_has_the_usual_interval():
    words = np.random.default_rng(0).random(5000) < 0.3
    without_each = (words.sum() - words) / 4999
    found = jackknife(words.mean(), without_each, share=True)
    half = 1.96 * math.sqrt(0.3 * 0.7 / 5000)
    assert found.low == pytest.approx(found.value - half, abs=4e-4)
    assert found.high == pytest.approx(found.value + half, abs=4e-4)


def test_one_image_has_no_interval():
    bootstrap = Bootstrap(num_images=1, draws=9)
    for found in (bootstrap.interval(np.ones(1)), jackknife(3, np.zeros(1))):
        assert math.isnan(found.low) and math.isnan(found.high)
    assert math.isnan(bootstrap.compare(np.ones(1), np.zeros(1)).difference.low)


def test_jackknife_comparison():
    few = caption_statistics([["a", "dog"], ["a", "cat"]] * 50)
    many = caption_statistics([["a", f"w{i}"] for i in range(100)])
    pairs = [(s.distinct_words, s.distinct_words_without_each()) for s in (few, many)]
    assert jackknife_compare(*pairs[0], *pairs[1]).p_value == 0.0  # 98 words more, error 0
    assert jackknife_compare(*pairs[0], *pairs[0]).p_value == 1.0
