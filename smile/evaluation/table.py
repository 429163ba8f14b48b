"""The table on the terminal."""

import math
import shutil
import textwrap
from collections.abc import Mapping, Sequence
from itertools import groupby

from smile.evaluation.catalogue import Metric
from smile.evaluation.published import NOTE, PUBLISHED, PUBLISHED_ROWS
from smile.evaluation.rows import Row
from smile.metrics.bootstrap import Comparison, Interval

__all__ = ["not_measured", "published_table", "show", "show_difference", "table"]

TITLE = 24
GAP = "  "
LEAST_MEANING = 36  # columns; the meaning would be unreadable if narrower


def table(
    rows: Sequence[Row],
    labels: Sequence[str],
    *,
    published: Mapping[str, float] | None = None,
    width: int | None = None,
) -> str:
    """Every measured row: values with 95 % intervals, differences from the first, the meaning.

    The last lines list the metrics that no system has, with the reason.

    Args:
        published: values for a last column, by the keys of metrics, which have a row in any case.
    """
    published = published or {}
    measured = [row for row in rows if not row.missing or row.metric.key in published]
    cells = {row.metric.key: [*_cells(row), *_differences(row)] for row in measured}
    heads = [*labels, *(f"{label} - {labels[0]}" for label in labels[1:])]
    if published:
        heads.append("published")
        for row in measured:
            value = published.get(row.metric.key)
            cells[row.metric.key].append("" if value is None else row.metric.show(value))
    widths = [
        max(len(head), *(len(cells[row.metric.key][i]) for row in measured))
        for i, head in enumerate(heads)
    ]
    width = width or shutil.get_terminal_size((140, 40)).columns
    left = TITLE + sum(len(GAP) + w for w in widths)
    meaning = max(LEAST_MEANING, width - left - len(GAP))
    lines = [_line(TITLE, "", [_join(heads, widths)], "what it means")]
    before = ""
    for group, members in groupby(measured, key=lambda row: row.metric.group):
        lines.append(f"\n{group}")
        for row in members:
            text, note = row.metric.meaning, _note(row)
            wrapped = textwrap.wrap(
                f"{text} ({note})" if note not in ("", before) else text, meaning
            )
            before = note
            values = [_join(cells[row.metric.key], widths)]
            lines.append(_line(TITLE, row.metric.title, values, wrapped[0]))
            lines += [" " * (left + len(GAP)) + more for more in wrapped[1:]]
            lines += _reasons(row, labels)
    lines.append("\n[...]: 95 % interval" + "; *: p < 0.05, paired" * (len(labels) > 1))
    lines += textwrap.wrap(not_measured(rows), left + len(GAP) + meaning, break_on_hyphens=False)
    return "\n".join(line.rstrip() for line in lines)


def not_measured(rows: Sequence[Row]) -> str:
    """The metrics that no system has, and what is needed for them; "" if there are none."""
    names: dict[str, list[str]] = {}
    for row in rows:
        if row.missing:
            names.setdefault(row.missing, []).append(row.metric.family or row.metric.title)
    parts = [f"{', '.join(dict.fromkeys(some))} ({why})" for why, some in names.items()]
    return f"not measured: {'; '.join(parts)}" if parts else ""


def published_table(rows: Sequence[Row], labels: Sequence[str]) -> str:
    """Our values beside the published ones."""
    by_key = {row.metric.key: row for row in rows}
    heads = [*labels, *(system.name for system in PUBLISHED)]
    above = [*("" for _ in labels), *(system.data for system in PUBLISHED)]
    body = []
    for number, (key, title) in enumerate(PUBLISHED_ROWS):
        values = [f"{system.values[number]:g}" for system in PUBLISHED]
        ours = ["-"] * len(labels)
        if key and key in by_key:
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
    """12.3 [11.9, 12.8], with a percent sign if needed; "too few" if there is no interval."""
    sign = " %" if metric.unit == "%" else ""
    within = f"{metric.show(interval.low)}, {metric.show(interval.high)}"
    if math.isnan(interval.low):
        within = "too few"
    return f"{metric.show(interval.value)}{sign} [{within}]"


def show_difference(metric: Metric, comparison: Comparison) -> str:
    """+1.2 [+0.3, +2.0] p 0.012 *, with the star if the difference is significant."""
    parts = [comparison.difference.value, comparison.difference.low, comparison.difference.high]
    if not any(parts):
        return "no difference"
    value, low, high = map(metric.show_difference, parts)
    star = "*" if comparison.significant else " "
    p_value = f"{max(comparison.p_value, 0.001):.3f}"  # 1000 resamples resolve no smaller value
    return f"{value} [{low}, {high}] p {p_value} {star}"


def _note(row: Row) -> str:
    return "; ".join(dict.fromkeys(cell.note for cell in row.cells if cell.note))


def _reasons(row: Row, labels: Sequence[str]) -> list[str]:
    """Why some systems lack this metric; if all do, `not_measured` says it."""
    if row.missing:
        return []
    return [
        f"    missing for {label}: {cell.missing}"
        for label, cell in zip(labels, row.cells, strict=True)
        if cell.missing
    ]
