"""Computes every metric of the catalogue for one system's captions, or says why it is missing.

A family is a function that computes some of the metrics together. It takes a `Submission` and
returns one outcome for each of its keys; if it raises UserError, all of them are missing for that
reason.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property, partial

import numpy as np

from smile.data.shapes import STATEMENT_KINDS, check_caption
from smile.errors import UserError
from smile.evaluation import java
from smile.evaluation.image_set import ImageSet
from smile.evaluation.measured import (
    Averaged,
    Jackknifed,
    Missing,
    Outcome,
    average,
    ratio,
)
from smile.metrics.text.bleu import bleu, bleu_from_counts
from smile.metrics.text.cider import can_weigh, cider, cider_d
from smile.metrics.text.ngrams import Candidates, References
from smile.metrics.text.ptb import tokenize, tokenize_all
from smile.metrics.text.rouge import rouge_l
from smile.metrics.text.score import Score
from smile.metrics.text.statistics import caption_statistics

__all__ = ["FAMILIES", "Family", "Submission", "human_outcomes", "score", "true_share_by_kind"]


@dataclass(frozen=True, kw_only=True)
class Submission:
    """One system's captions of a set of images, and what they are compared with.

    captions: one per image. references: for each image, the captions to compare with.
    models: the families that need a model, by name, as `evaluate.py` made them.
    """

    images: ImageSet
    captions: Sequence[str]
    references: Sequence[Sequence[str]]
    models: dict[str, "Family"] = field(default_factory=dict)

    @cached_property
    def tokens(self) -> list[list[str]]:
        return tokenize_all(self.captions)

    @cached_property
    def candidates(self) -> Candidates:
        return Candidates(self.tokens, References([tokenize_all(r) for r in self.references]))


Family = Callable[[Submission], dict[str, Outcome]]


def score(submission: Submission) -> dict[str, Outcome]:
    """Every metric of the catalogue."""
    outcomes: dict[str, Outcome] = {}
    for keys, family in FAMILIES:
        try:
            found = family(submission)
        except UserError as error:
            found = {key: Missing(str(error)) for key in keys}
        outcomes |= {key: found[key] for key in keys}
    return outcomes


def human_outcomes(images: ImageSet) -> dict[str, Outcome]:
    """The score of people: each of an image's captions in turn against the others, averaged.

    Raises:
        UserError: an image has only one caption.
    """
    alone = [example.name for example in images.examples if len(example.captions) < 2]
    if alone:
        raise UserError(
            f"{images.title}: {len(alone)} of {len(images.examples)} images have one caption only, "
            f"and --human needs another to compare it with: {alone[0]}"
        )
    rounds = []
    for turn in range(min(len(captions) for captions in images.references)):
        others = [[*texts[:turn], *texts[turn + 1 :]] for texts in images.references]
        captions = [texts[turn] for texts in images.references]
        rounds.append(score(Submission(images=images, captions=captions, references=others)))
    return {key: average([outcomes[key] for outcomes in rounds]) for key in rounds[0]}


# The captions alone, and with their references ------------------------------------------------


def _statistics(submission: Submission) -> dict[str, Outcome]:
    stats = caption_statistics(submission.tokens)
    empty = stats.lengths == 0
    return {
        "length": Averaged(stats.lengths, per_image=stats.lengths),
        "distinct_words": Jackknifed(stats.distinct_words, stats.distinct_words_without_each()),
        "distinct_ratio": Jackknifed(
            stats.distinct_ratio, stats.distinct_ratio_without_each(), share=True
        ),
        "tail_repeats": Averaged(stats.tail_repeats, per_image=stats.tail_repeats),
        "empty": Averaged(empty, note=f"{empty.sum()} of {len(empty)}" if empty.any() else ""),
    }


def _novelty(submission: Submission) -> dict[str, Outcome]:
    training = map(tokenize, submission.images.training_captions())
    novel = caption_statistics(submission.tokens, training=training).novel
    assert novel is not None  # `training` was given
    return {"novel": Averaged(novel, per_image=novel)}


def _bleu_of(order: int, sums: np.ndarray) -> np.ndarray:
    return bleu_from_counts(sums)[..., order - 1]


def _text_scores(submission: Submission) -> dict[str, Outcome]:
    found = bleu(submission.candidates)
    outcomes: dict[str, Outcome] = {
        f"bleu_{order}": Averaged(found.counts, partial(_bleu_of, order), one.per_image)
        for order, one in enumerate(found.scores, start=1)
    }
    metrics: dict[str, Callable[[Candidates], Score]] = {"rouge_l": rouge_l}
    if can_weigh(submission.candidates.references):
        metrics |= {"cider_d": cider_d, "cider": cider}
    else:
        why = Missing("needs at least two images that are described in different words")
        outcomes |= {"cider_d": why, "cider": why}
    for key, metric in metrics.items():
        per_image = metric(submission.candidates).per_image
        outcomes[key] = Averaged(per_image, per_image=per_image)
    return outcomes


def _java(key: str, submission: Submission) -> dict[str, Outcome]:
    metric = {"meteor": java.meteor, "spice": java.spice}[key]
    return {key: metric(submission.tokens, submission.candidates.references.captions)}


# By a model -----------------------------------------------------------------------------------

CLIP_KEYS = ("clip_score", "ref_clip_score", "clip_r1", "clip_r5", "clip_r10", "clip_rank")
JUDGE_KEYS = ("judge_r1", "judge_r5", "judge_r10", "judge_rank")


def _model(name: str, submission: Submission) -> dict[str, Outcome]:
    """The outcomes of the model called `name`, if there is one."""
    if name not in submission.models:
        raise UserError("not computed with --human")
    return submission.models[name](submission)


# The drawn scene --------------------------------------------------------------------------------

TRUTH_KEYS = ("true_share", "statements", *(f"true_{k}" for k in STATEMENT_KINDS), "unparsed")


def _truth(submission: Submission) -> dict[str, Outcome]:
    if not submission.images.are_scenes:
        why = "only for drawn scenes (data.format shapes), whose content is known"
        return dict.fromkeys(TRUTH_KEYS, Missing(why, applies=False))
    return true_share_by_kind(submission.captions, submission.images.examples)


def true_share_by_kind(captions: Sequence[str], scenes: Sequence) -> dict[str, Outcome]:
    """Shares of true statements, overall and by kind, of captions of drawn scenes.

    As in training's log, an unparsed word counts as an untrue statement in `true_share`.
    """
    checked = [check_caption(c, scene) for c, scene in zip(captions, scenes, strict=True)]

    def count(kind: str = "", *, true: bool = False) -> np.ndarray:
        """(N,): how many statements of this kind, or of any, each caption makes."""
        return np.array(
            [
                sum(s.kind in (kind or s.kind,) and (s.true or not true) for s in one)
                for one in checked
            ],
            dtype=np.float64,
        )

    shares: dict[str, Averaged] = {"true_share": ratio(count(true=True), count())}
    shares |= {f"true_{k}": ratio(count(k, true=True), count(k)) for k in STATEMENT_KINDS}
    outcomes: dict[str, Outcome] = {}
    for key, share in shares.items():
        true, total = share.statistics.sum(axis=0)
        outcomes[key] = Missing("no caption has a statement of this kind")
        if total:
            outcomes[key] = Averaged(
                share.statistics, share.score, share.per_image, f"{true:.0f} of {total:.0f}"
            )
    unparsed = count("unparsed")
    outcomes["statements"] = Averaged(count(), per_image=count())
    outcomes["unparsed"] = Averaged(unparsed, per_image=unparsed)
    return outcomes


FAMILIES: tuple[tuple[tuple[str, ...], Family], ...] = (
    (("length", "distinct_words", "distinct_ratio", "tail_repeats", "empty"), _statistics),
    (("novel",), _novelty),
    ((*(f"bleu_{n}" for n in (1, 2, 3, 4)), "rouge_l", "cider_d", "cider"), _text_scores),
    (("meteor",), partial(_java, "meteor")),
    (("spice",), partial(_java, "spice")),
    (CLIP_KEYS, partial(_model, "clip")),
    (JUDGE_KEYS, partial(_model, "judge")),
    (("ppl",), partial(_model, "gpt2")),
    (TRUTH_KEYS, _truth),
)
