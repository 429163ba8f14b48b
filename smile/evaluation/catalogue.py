"""All metrics in one list, for the terminal's table, report.json and report.html.

`scoring.FAMILIES` says which function computes which metrics.
"""

from dataclasses import dataclass
from typing import TypedDict

from smile.data.shapes import STATEMENT_KINDS

__all__ = ["METRICS", "Metric"]


@dataclass(frozen=True, kw_only=True)
class Metric:
    """The description of a metric.

    unit: of the shown number; scale: shown number = computed number x scale.
    better: "higher", "lower", or "" if neither is.
    interval: the method of its 95 % interval, "bootstrap" or "jackknife".
    histogram: whether the report draws a histogram of the per-image scores.
    family: a common name for metrics that are missing together; "" for its title.
    """

    key: str
    group: str
    title: str
    meaning: str
    unit: str = ""
    scale: float = 1.0
    decimals: int = 1
    better: str = "higher"
    interval: str = "bootstrap"
    histogram: bool = False
    family: str = ""

    def show(self, value: float) -> str:
        """The number as tables show it, never "-0.0"."""
        return f"{value:z.{self.decimals}f}"

    def show_difference(self, value: float) -> str:
        """The same with its sign, unless it is shown as 0."""
        text = self.show(value)
        return text if text.startswith("-") or not text.strip("0.") else f"+{text}"


class _Unit(TypedDict):
    unit: str
    scale: float


_PERCENT: _Unit = {"unit": "%", "scale": 100.0}

CAPTIONS, REFERENCES, IMAGE, LANGUAGE, TRUTH = (
    "The captions alone",
    "Against the references",
    "Against the image",
    "As English",
    "Against the drawn scene (shapes)",
)


_RANKERS = {"clip": "CLIP", "judge": "retrieval by a captioner"}
_SPELLED = {"others": "nothing else", "color": "colour"}


def _bleu(order: int) -> Metric:
    return Metric(
        key=f"bleu_{order}",
        group=REFERENCES,
        title=f"BLEU-{order}",
        meaning=f"runs of {order} words found in a reference, short captions penalised"
        if order > 1
        else "words found in a reference, short captions penalised",
        histogram=order == 4,
        **_PERCENT,
    )


def _recall(judge: str, name: str, rank: int) -> Metric:
    return Metric(
        key=f"{judge}_r{rank}",
        group=IMAGE,
        title=f"R@{rank} ({name})",
        meaning=f"captions whose own image is among the {rank} that {name} ranks first"
        if rank > 1
        else f"captions whose own image is the one that {name} ranks first",
        family=_RANKERS[judge],
        **_PERCENT,
    )


def _mean_rank(judge: str, name: str) -> Metric:
    return Metric(
        key=f"{judge}_rank",
        group=IMAGE,
        title=f"rank ({name})",
        meaning=f"where {name} ranks a caption's own image among all, on average; 1 is best",
        better="lower",
        histogram=True,
        family=_RANKERS[judge],
    )


def _truth(kind: str) -> Metric:
    return Metric(
        key=f"true_{kind}",
        group=TRUTH,
        title=f"true: {_SPELLED.get(kind, kind)}",
        meaning="statements about "
        f"{'what else there is' if kind == 'others' else _SPELLED.get(kind, kind)} that are true",
        **_PERCENT,
    )


METRICS = (
    Metric(
        key="length",
        group=CAPTIONS,
        title="caption length",
        meaning="words in a caption, punctuation left out",
        unit="words",
        decimals=2,
        histogram=True,
    ),
    Metric(
        key="distinct_words",
        group=CAPTIONS,
        title="distinct words",
        meaning="different words in all captions together",
        unit="words",
        decimals=0,
        interval="jackknife",
    ),
    Metric(
        key="distinct_ratio",
        group=CAPTIONS,
        title="distinct to all words",
        meaning="different words as a share of all words; falls with more captions",
        decimals=2,
        better="",
        interval="jackknife",
        **_PERCENT,
    ),
    Metric(
        key="novel",
        group=CAPTIONS,
        title="novel captions",
        meaning="captions that are not, word for word, a training caption",
        **_PERCENT,
    ),
    Metric(
        key="tail_repeats",
        group=CAPTIONS,
        title="repetition at the end",
        meaning="captions that repeat themselves in their last third",
        better="lower",
        **_PERCENT,
    ),
    Metric(
        key="empty",
        group=CAPTIONS,
        title="empty captions",
        meaning="captions without a word; each counts as one everywhere else",
        better="lower",
        **_PERCENT,
    ),
    *(_bleu(order) for order in (1, 2, 3, 4)),
    Metric(
        key="meteor",
        group=REFERENCES,
        title="METEOR",
        meaning="words in common, also as synonyms or stems, and how scattered they are",
        histogram=True,
        **_PERCENT,
    ),
    Metric(
        key="rouge_l",
        group=REFERENCES,
        title="ROUGE-L",
        meaning="longest sequence of words in common, gaps allowed",
        histogram=True,
        **_PERCENT,
    ),
    Metric(
        key="cider_d",
        group=REFERENCES,
        title="CIDEr-D",
        meaning="rare words and phrases in common, other lengths penalised; the usual CIDEr",
        decimals=3,
        histogram=True,
    ),
    Metric(
        key="cider",
        group=REFERENCES,
        title="CIDEr",
        meaning="the same without clipping or penalty for length",
        decimals=3,
        histogram=True,
    ),
    Metric(
        key="spice",
        group=REFERENCES,
        title="SPICE",
        meaning="objects, attributes and relations in common",
        histogram=True,
        **_PERCENT,
    ),
    Metric(
        key="clip_score",
        group=IMAGE,
        title="CLIPScore",
        meaning="CLIP's cosine similarity of caption and image, x 2.5",
        scale=100.0,
        family="CLIP",
        histogram=True,
    ),
    Metric(
        key="ref_clip_score",
        group=IMAGE,
        title="RefCLIPScore",
        meaning="harmonic mean of CLIPScore and the similarity to the closest reference",
        scale=100.0,
        family="CLIP",
        histogram=True,
    ),
    *(_recall("clip", "CLIP", rank) for rank in (1, 5, 10)),
    _mean_rank("clip", "CLIP"),
    *(_recall("judge", "the judge", rank) for rank in (1, 5, 10)),
    _mean_rank("judge", "the judge"),
    Metric(
        key="ppl",
        group=LANGUAGE,
        title="PPL",
        meaning="GPT-2's perplexity: how unlikely the caption is as English",
        better="lower",
        histogram=True,
    ),
    Metric(
        key="true_share",
        group=TRUTH,
        title="true statements",
        meaning="statements of the captions that are true of their scene",
        histogram=True,
        **_PERCENT,
    ),
    Metric(
        key="statements",
        group=TRUTH,
        title="statements",
        meaning="statements a caption makes, true or not",
        decimals=2,
        histogram=True,
    ),
    *(_truth(kind) for kind in STATEMENT_KINDS),
    Metric(
        key="unparsed",
        group=TRUTH,
        title="unparsed words",
        meaning="words of a caption that are no statement; each counts as untrue",
        decimals=2,
        better="lower",
    ),
)
