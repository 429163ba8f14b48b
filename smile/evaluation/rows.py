"""What tables and reports show: a row per metric, a cell per system, a test per pair."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from smile.evaluation.catalogue import METRICS, Metric
from smile.evaluation.measured import Averaged, Jackknifed, Missing, Outcome
from smile.metrics.bootstrap import Bootstrap, Comparison, Interval

__all__ = ["Cell", "Row", "System", "make_rows"]


@dataclass(frozen=True, kw_only=True)
class System:
    """A model, a file of captions, or people: the captions and every metric's outcome.

    record: its source and settings, for report.json.
    """

    label: str
    captions: Sequence[str]
    outcomes: dict[str, Outcome]
    record: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Cell:
    """One metric of one system, in the metric's shown unit; `interval` is None if it is missing."""

    interval: Interval | None = None
    missing: str = ""
    note: str = ""
    per_image: np.ndarray | None = None  # (N,), NaN where an image has no score


@dataclass(frozen=True, kw_only=True)
class Row:
    """A metric: a cell per system, in order, and each later system's test against the first."""

    metric: Metric
    cells: list[Cell]
    comparisons: list[Comparison | None]

    @property
    def missing(self) -> str:
        """Why every system lacks the metric, "" if one has it."""
        if any(cell.interval is not None for cell in self.cells):
            return ""
        return "; ".join(dict.fromkeys(cell.missing for cell in self.cells))


def make_rows(systems: Sequence[System], bootstrap: Bootstrap) -> list[Row]:
    """A row for every metric of the catalogue that applies to the images, in its order."""
    rows = []
    for metric in METRICS:
        first, *others = (system.outcomes[metric.key] for system in systems)
        if isinstance(first, Missing) and not first.applies:
            continue
        comparisons = [_compare(metric, first, other, bootstrap) for other in others]
        cells = [_cell(metric, outcome, bootstrap) for outcome in (first, *others)]
        rows.append(Row(metric=metric, cells=cells, comparisons=comparisons))
    return rows


def _cell(metric: Metric, outcome: Outcome, bootstrap: Bootstrap) -> Cell:
    if isinstance(outcome, Missing):
        return Cell(missing=outcome.reason)
    per_image = outcome.per_image
    if per_image is not None:
        per_image = np.asarray(per_image, dtype=np.float64) * metric.scale
    interval = _scaled(outcome.interval(bootstrap), metric.scale)
    return Cell(interval=interval, note=outcome.note, per_image=per_image)


def _compare(
    metric: Metric, first: Outcome, second: Outcome, bootstrap: Bootstrap
) -> Comparison | None:
    """Second minus first; None if one is missing or there is no interval."""
    found = None
    if isinstance(first, Averaged) and isinstance(second, Averaged):
        found = first.compare(second, bootstrap)
    if isinstance(first, Jackknifed) and isinstance(second, Jackknifed):
        found = first.compare(second, bootstrap)
    if found is None or math.isnan(found.difference.low):
        return None
    return Comparison(_scaled(found.difference, metric.scale), found.p_value)


def _scaled(interval: Interval, scale: float) -> Interval:
    return Interval(interval.value * scale, interval.low * scale, interval.high * scale)
