"""The table on the terminal."""

import math
import shutil
import textwrap
from collections.abc import Sequence
from itertools import groupby

from smile.evaluation.catalogue import Metric
from smile.evaluation.published import NOTE, PUBLISHED, PUBLISHED_ROWS
from smile.evaluation.rows import Row
from smile.metrics import Comparison, Interval

__all__ = ["published_table", "table"]

TITLE = 24
GAP = "  "
LEAST_MEANING = 36  # columns; narrower than that it would be all line breaks


def table(rows: Sequence[Row], labels: Sequence[str], *, width: int | None = None) -> str:
    """Every row: values with 95 % intervals, differences from the first system, the meaning.

    Metrics that are missing in every system for the same reason share one entry.
    """
    cells = {row.metric.key: [*_cells(row), *_differences(row)] for row in rows}
    heads = [*labels, *(f"{label} - {labels[0]}" for label in labels[1:])]
    widths = [
        max(len(head), *(len(cells[row.metric.key][i]) for row in rows))
        for i, head in enumerate(heads)
    ]
    width = width or shutil.get_terminal_size((140, 40)).columns
    left = TITLE + sum(len(GAP) + w for w in widths)
    meaning = max(LEAST_MEANING, width - left - len(GAP))
    lines = [_line(TITLE, "", [_join(heads, widths)], "what it means")]
    for group, members in groupby(rows, key=lambda row: row.metric.group):
        lines.append(f"\n{group}")
        for reason, some in groupby(members, key=_missing_everywhere):
            if reason:
                lines += _missing(list(some), reason, left + len(GAP) + meaning)
                continue
            for row in some:
                wrapped = textwrap.wrap(_meaning(row), meaning)
                values = [_join(cells[row.metric.key], widths)]
                lines.append(_line(TITLE, row.metric.title, values, wrapped[0]))
                lines += [" " * (left + len(GAP)) + more for more in wrapped[1:]]
                lines += _reasons(row, labels)
    lines.append("\n[...]: 95 % interval" + "; *: p < 0.05, paired" * (len(labels) > 1))
    return "\n".join(line.rstrip() for line in lines)


def published_table(rows: Sequence[Row], labels: Sequence[str]) -> str:
    """Our values beside the published ones."""
    by_key = {row.metric.key: row for row in rows}
    heads = [*labels, *(system.name for system in PUBLISHED)]
    above = [*("" for _ in labels), *(system.data for system in PUBLISHED)]
    body = []
    for number, (key, title) in enumerate(PUBLISHED_ROWS):
        values = [f"{system.values[number]:g}" for system in PUBLISHED]
        ours = ["-"] * len(labels)
        if key:
            metric = by_key[key].metric
            ours = [
                metric.show(cell.interval.value) if cell.interval else "missing"
                for cell in by_key[key].cells
            ]
        body.append((title, [*ours, *values]))
    widths = [
        max(len(line[i]) for line in (heads, above, *(values for _, values in body)))
        for i in range(len(heads))
    ]
    lines = [_line(TITLE, "", [_join(above, widths)]), _line(TITLE, "", [_join(heads, widths)])]
    lines += [_line(TITLE, title, [_join(values, widths)]) for title, values in body]
    return "\n".join(line.rstrip() for line in [*lines, *textwrap.wrap(NOTE, 100)])


def _line(title_width: int, title: str, parts: Sequence[str], last: str = "") -> str:
    return GAP.join([title.ljust(title_width), *parts, last])


def _join(cells: Sequence[str], widths: Sequence[int]) -> str:
    return GAP.join(cell.rjust(width) for cell, width in zip(cells, widths, strict=True))


def _cells(row: Row) -> list[str]:
    return [show(row.metric, cell.interval) if cell.interval else "missing" for cell in row.cells]


def _differences(row: Row) -> list[str]:
    return [
        show_difference(row.metric, comparison) if comparison else "-"
        for comparison in row.comparisons
    ]


def show(metric: Metric, interval: Interval) -> str:
    """12.3 [11.9, 12.8], with its unit's sign; "too few" where no interval is known."""
    sign = " %" if metric.unit == "%" else ""
    within = f"{metric.show(interval.low)}, {metric.show(interval.high)}"
    if math.isnan(interval.low):
        within = "too few"
    return f"{metric.show(interval.value)}{sign} [{within}]"


def show_difference(metric: Metric, comparison: Comparison) -> str:
    """+1.2 [+0.3, +2.0] p 0.012 *, the star where the difference is significant."""
    parts = [comparison.difference.value, comparison.difference.low, comparison.difference.high]
    value, low, high = (f"{part:+.{metric.decimals}f}" for part in parts)
    star = "*" if comparison.significant else " "
    p_value = f"{max(comparison.p_value, 0.001):.3f}"  # 1000 draws tell no smaller ones apart
    return f"{value} [{low}, {high}] p {p_value} {star}"


def _meaning(row: Row) -> str:
    notes = list(dict.fromkeys(cell.note for cell in row.cells if cell.note))
    return row.metric.meaning + (f" ({'; '.join(notes)})" if notes else "")


def _missing_everywhere(row: Row) -> str:
    """The reason why a metric is missing, where it is so in every system; else ""."""
    reasons = {cell.missing for cell in row.cells}
    return reasons.pop() if len(reasons) == 1 else ""


def _missing(rows: Sequence[Row], reason: str, width: int) -> list[str]:
    text = f"{', '.join(row.metric.title for row in rows)}: missing: {reason}"
    return textwrap.wrap(text, width, subsequent_indent="    ", break_on_hyphens=False)


def _reasons(row: Row, labels: Sequence[str]) -> list[str]:
    """Why some systems lack this metric."""
    return [
        f"    missing for {label}: {cell.missing}"
        for label, cell in zip(labels, row.cells, strict=True)
        if cell.missing
    ]
