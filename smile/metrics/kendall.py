"""Kendall's τ-c (Stuart, 1953): whether a score orders things as ratings do.

Two things are concordant if the one with the higher score has the higher rating too, discordant if
it has the lower one; a tie in either counts for neither. With C and D such pairs among n things,

    τ-c = 2 (C - D) / (n² (m - 1) / m),    m: distinct scores or distinct ratings, the fewer

is 1 for the same order and -1 for the opposite one, also where ratings are few and tied.
`scipy.stats.kendalltau(variant="c")` gives the same number.

Pairs are counted in a table of distinct scores by distinct ratings, so that after sorting the work
grows with the things and not with their pairs.
"""

import numpy as np

__all__ = ["tau_c", "tau_c_without_each"]


def tau_c(scores: np.ndarray, ratings: np.ndarray) -> float:
    """τ-c of (N,) scores and their (N,) ratings, of which few are distinct.

    NaN if all scores or all ratings are the same: then nothing is ordered.
    """
    return float(_agreement(scores, ratings).sum() * _scale(scores, ratings, len(scores)))


def tau_c_without_each(scores: np.ndarray, ratings: np.ndarray, groups: np.ndarray) -> np.ndarray:
    """(G,): τ-c with the things of each group left out, for the jackknife.

    Args:
        groups: (N,) the group of each thing, from 0 to G - 1.

    `m` stays that of all things, since a jump of it would be no change of the order.
    """
    agreement = _agreement(scores, ratings)
    sizes = np.bincount(groups)
    # The pairs in a group are counted from both sides, so twice; they must go once from each.
    within = np.zeros(len(sizes))
    order = np.argsort(groups, kind="stable")
    for group, members in enumerate(np.split(order, np.cumsum(sizes)[:-1])):
        within[group] = _agreement(scores[members], ratings[members]).sum()
    left = agreement.sum() - 2 * np.bincount(groups, agreement) + within
    return left * _scale(scores, ratings, len(scores) - sizes)


def _agreement(scores: np.ndarray, ratings: np.ndarray) -> np.ndarray:
    """(N,): how many others each thing is concordant with, less those it is discordant with."""
    distinct_scores, row = np.unique(scores, return_inverse=True)
    distinct_ratings, column = np.unique(ratings, return_inverse=True)
    shape = len(distinct_scores), len(distinct_ratings)
    table = np.bincount(row * shape[1] + column, minlength=shape[0] * shape[1]).reshape(shape)
    by_score = _before_less_after(table, axis=0)
    return _before_less_after(by_score, axis=1)[row, column]


def _before_less_after(table: np.ndarray, axis: int) -> np.ndarray:
    """At each place of an axis, the sum of what comes before it less that of what comes after."""
    sums = table.cumsum(axis)
    return 2 * sums - table - sums.take([-1], axis)


def _scale(scores: np.ndarray, ratings: np.ndarray, count: int | np.ndarray) -> np.ndarray:
    """What turns 2 (C - D) into τ-c; NaN where there is nothing to order."""
    fewer = min(len(np.unique(scores)), len(np.unique(ratings)))
    m = float(fewer) if fewer > 1 else np.nan
    return m / ((m - 1) * np.square(np.where(np.asarray(count) > 0, count, np.nan)))
