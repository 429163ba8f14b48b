"""Whether the metrics agree with people: their τ-c with experts' ratings of captions of Flickr8k.

Each rated caption is scored against the photo's own captions, and each of its three ratings makes a
pair with that score. CIDEr counts the photos of the file. So do the papers that publish such
numbers (Anderson et al., 2016; Hessel et al., 2021).
"""

from collections import Counter
from dataclasses import replace

import numpy as np
from tqdm import tqdm

from smile.evaluation.catalogue import METRICS, Metric
from smile.evaluation.measured import Missing
from smile.evaluation.rated_captions import Ratings
from smile.evaluation.rows import Cell, Row
from smile.evaluation.scoring import Family, Submission, score
from smile.metrics.bootstrap import Interval, jackknife
from smile.metrics.kendall import tau_c, tau_c_without_each

__all__ = ["JUDGES", "Scores", "agreement_rows", "score_rated"]

# The metrics that say of one caption how good it is.
JUDGES = (
    *("bleu_1", "bleu_2", "bleu_3", "bleu_4", "meteor", "rouge_l", "cider_d", "cider", "spice"),
    *("clip_score", "ref_clip_score", "clip_rank", "judge_rank", "ppl"),
)

Scores = dict[str, np.ndarray | Missing]
"""By a metric's key: (L,) the scores of the rated captions, NaN where there is none."""


def score_rated(ratings: Ratings, models: dict[str, Family]) -> Scores:
    """What each of `JUDGES` says of every rated caption, by itself and the photo's references.

    The metrics take one caption for each image. So the first rated caption of every photo is
    scored, then the second of every photo that has one, and so on.
    """
    found: Scores = {key: np.full(len(ratings.rated), np.nan) for key in JUDGES}
    turns = _turns(ratings.photos)
    for turn in tqdm(range(turns.max() + 1), desc="scores", leave=False, disable=None):
        lines = np.flatnonzero(turns == turn)
        captions = [""] * len(ratings.images.examples)
        for line in lines.tolist():
            captions[ratings.photos[line]] = ratings.captions[line]
        submission = Submission(
            images=ratings.images,
            captions=captions,
            references=ratings.images.references,
            models=models,
        )
        outcomes = score(submission)
        for key in JUDGES:
            outcome, scores = outcomes[key], found[key]
            if isinstance(outcome, Missing) or isinstance(scores, Missing):
                found[key] = outcome if isinstance(outcome, Missing) else scores
            elif outcome.per_image is not None:
                scores[lines] = outcome.per_image[ratings.photos[lines]]
    return found


def _turns(photos: np.ndarray) -> np.ndarray:
    """(L,): how many earlier lines have the same photo."""
    seen: Counter[int] = Counter()
    turns = []
    for photo in photos.tolist():
        turns.append(seen[photo])
        seen[photo] += 1
    return np.array(turns)


def agreement_rows(ratings: Ratings, scores: Scores) -> list[Row]:
    """For each of `JUDGES`, its τ-c with the ratings, times 100, and a 95 % interval.

    The interval is the jackknife's over photos. A metric whose low values are good is turned round
    first, so that a high τ-c always means agreement.
    """
    rows = []
    for metric in METRICS:
        if metric.key in JUDGES:
            cell = _cell(metric, ratings, scores[metric.key])
            rows.append(Row(metric=_shown(metric), cells=[cell], comparisons=[]))
    return rows


def _shown(metric: Metric) -> Metric:
    """A metric as the table of its τ-c shows it."""
    turned = "; low is good, so turned round" if metric.better == "lower" else ""
    return replace(
        metric,
        meaning=metric.meaning + turned,
        unit="",
        scale=100.0,
        decimals=1,
        better="higher",
        interval="jackknife",
        histogram=False,
    )


def _cell(metric: Metric, ratings: Ratings, scores: np.ndarray | Missing) -> Cell:
    if isinstance(scores, Missing):
        return Cell(missing=scores.reason)
    scored = np.flatnonzero(~np.isnan(scores))
    values = np.repeat(-scores[scored] if metric.better == "lower" else scores[scored], 3)
    given = ratings.ratings[scored].ravel()
    if len(np.unique(values)) < 2 or len(np.unique(given)) < 2:
        return Cell(missing="all scores or all ratings are the same")
    _, groups = np.unique(np.repeat(ratings.photos[scored], 3), return_inverse=True)
    interval = jackknife(
        tau_c(values, given), tau_c_without_each(values, given, groups), correlation=True
    )
    lacking = 3 * (len(scores) - len(scored))
    return Cell(
        interval=Interval(100 * interval.value, 100 * interval.low, 100 * interval.high),
        note=f"without {lacking} pairs that have no score" if lacking else "",
    )
