"""Kendall's τ-c by hand, against SciPy, and against its definition with each group left out."""

import math
from itertools import combinations

import numpy as np
import pytest

from smile.metrics.bootstrap import jackknife
from smile.metrics.kendall import tau_c, tau_c_without_each


def test_by_hand():
    # Pairs of (0.1, 1), (0.4, 1), (0.3, 2), (0.9, 4): the first two have the same rating and count
    # for neither; 0.4 > 0.3 but 1 < 2 is discordant; the other four are concordant. So C - D is 3,
    # n is 4, and m is 3, the number of distinct ratings: 2 * 3 / (4² * 2/3) = 6 / (32/3) = 9/16.
    scores, ratings = np.array([0.1, 0.4, 0.3, 0.9]), np.array([1, 1, 2, 4])
    assert tau_c(scores, ratings) == pytest.approx(9 / 16)
    assert tau_c(-scores, ratings) == pytest.approx(-9 / 16)


def test_same_order_and_nothing_to_order():
    assert tau_c(np.repeat([0.2, 0.5], 50), np.repeat([1, 4], 50)) == pytest.approx(1)
    for scores, ratings in ([1, 1, 1], [1, 2, 3]), ([1, 2, 3], [4, 4, 4]), ([1], [1]):
        assert math.isnan(tau_c(np.array(scores), np.array(ratings)))


@pytest.mark.slow  # SciPy takes a second to import
def test_equals_scipy():
    kendalltau = pytest.importorskip("scipy.stats").kendalltau
    rng = np.random.default_rng(0)
    for _ in range(60):
        count = rng.integers(2, 40)
        scores = rng.integers(0, rng.integers(1, 40), count) / 7  # with ties, or nearly none
        ratings = rng.integers(1, rng.integers(2, 6), count)
        expected = kendalltau(scores, ratings, variant="c").statistic
        assert tau_c(scores, ratings) == pytest.approx(expected, abs=1e-12, nan_ok=True)


def test_without_each_group_equals_its_definition():
    rng = np.random.default_rng(0)
    scores, ratings = rng.integers(0, 8, 30) / 3, rng.integers(1, 5, 30)
    groups = rng.permutation(np.arange(30) % 7)
    for group, found in enumerate(tau_c_without_each(scores, ratings, groups)):
        left = np.flatnonzero(groups != group)
        balance = sum(
            np.sign(scores[i] - scores[j]) * np.sign(ratings[i] - ratings[j])
            for i, j in combinations(left, 2)
        )
        assert found == pytest.approx(2 * balance / (len(left) ** 2 * 3 / 4))


def test_an_interval_stays_between_minus_one_and_one():
    interval = jackknife(-0.95, np.array([-0.9, -1.0, -0.95]), correlation=True)
    assert interval.low == -1 and -0.95 < interval.high < -0.8
