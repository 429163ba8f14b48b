"""A beam search as a tree: what it looked at in each step, what it kept, what it finished."""

import itertools
from collections.abc import Mapping
from typing import Any, NamedTuple

from svg import Canvas

COLUMN, ROW, WIDTH, TOP, LEFT = 126, 52, 94, 62, 104
BEAM = 124  # width of a box with the last words of a beam
FIRST = 6  # steps that are drawn in any case
LOOKS = {  # fate → fill, edge, colour of the word
    "kept": ("text-pale", "text", "ink"),
    "finished": ("up-pale", "up", "ink"),
    "dropped": ("page", "edge", "soft"),
}
PLACES = ("1st", "2nd", "3rd")


class _Place(NamedTuple):
    """Where a band of the picture stands: its left edge and the top of its first row."""

    left: float
    top: float


def data(names: Mapping[str, Any]) -> Any:
    """The first steps, those in which one of the best captions is finished, and the last one.

    Each has the texts of the beams before it, and its candidates, best first: the number of the
    beam that a candidate continues, its word, total and fate; for a finished one also the length
    by which its total is divided, and its place among the best.
    """
    prompt, texts, steps = names["start"], [""], []
    for number, tree in enumerate(names["tree"], 1):
        candidates: list[dict[str, Any]] = [
            {"from": row, "word": word, "total": total, "fate": fate}
            for row, word, total, fate in tree
        ]
        for candidate in candidates:
            if candidate["fate"] == "finished":
                candidate["length"] = prompt + number - 1
        steps.append({"number": number, "beams": texts, "candidates": candidates})
        texts = [f"{texts[row]} {word}".strip() for row, word, _, fate in tree if fate == "kept"]
    finished = [c for step in steps for c in step["candidates"] if "length" in c]
    finished.sort(key=lambda c: c["total"] / c["length"], reverse=True)
    for place, candidate in enumerate(finished[: len(PLACES)]):
        candidate["place"] = place
    return [
        step
        for step in steps
        if step["number"] <= FIRST
        or step is steps[-1]
        or any("place" in candidate for candidate in step["candidates"])
    ]


def draw(steps: Any) -> Canvas:
    height = ROW * max(len(step["candidates"]) for step in steps)  # of a band
    canvas = Canvas(880, TOP + 2 * height + 140)
    middle = TOP + (height - ROW) / 2 + 17
    for line, words in enumerate(("[DEC]", "a picture", "of")):
        canvas.text(16, middle - 12 + 16 * line, words, size=12, mono=True, color="soft")
    _steps(canvas, steps[:FIRST], _Place(LEFT, TOP), [(LEFT - 14, middle)])
    place = _Place(22, TOP + height + 58)
    for run in _runs(steps[FIRST:]):
        starts = _beams(canvas, run[0], place)
        place = _Place(place.left + BEAM + 32, place.top)
        _steps(canvas, run, place, starts)
        place = _Place(place.left + COLUMN * len(run) + 12, place.top)
    _legend(canvas)
    return canvas


def _runs(steps: Any) -> list[Any]:
    """Steps that follow each other, together."""
    numbered = enumerate(steps)
    groups = itertools.groupby(numbered, lambda item: item[1]["number"] - item[0])
    return [[step for _, step in group] for _, group in groups]


def _beams(canvas: Canvas, step: Any, place: _Place) -> list[tuple[float, float]]:
    """The last words of the beams before a step; returns where their edges begin."""
    words = f"after step {step['number'] - 1}"
    middle = place.left + BEAM / 2
    canvas.text(middle, place.top - 32, words, anchor="middle", color="soft", size=12)
    fill, edge, color = LOOKS["kept"]
    starts = []
    for row, text in enumerate(step["beams"]):
        y = place.top + ROW * row
        canvas.rect(place.left, y, BEAM, 34, fill=fill, stroke=edge)
        last = "… " + " ".join(text.split()[-2:])
        size = min(12, 12 * 18 / len(last))
        canvas.text(middle, y + 21, last, size=size, anchor="middle", mono=True, color=color)
        starts.append((place.left + BEAM, y + 16))
    return starts


def _steps(canvas: Canvas, steps: Any, place: _Place, kept: list[tuple[float, float]]) -> None:
    """A column for each step; `kept` is where the edges to the first one begin."""
    for column, step in enumerate(steps):
        x, words = place.left + COLUMN * column, f"step {step['number']}"
        canvas.text(x + WIDTH / 2, place.top - 32, words, anchor="middle", color="soft", size=12)
        ends = []
        for rank, candidate in enumerate(step["candidates"]):
            y = place.top + ROW * rank
            _edge(canvas, kept[candidate["from"]], (x, y + 16), candidate["fate"])
            if candidate["fate"] == "kept":
                ends.append((x + WIDTH, y + 16))
        for rank, candidate in enumerate(step["candidates"]):
            _node(canvas, x, place.top + ROW * rank, candidate)
        kept = ends


def _edge(canvas: Canvas, start: tuple[float, float], end: tuple[float, float], fate: str) -> None:
    _, color, _ = LOOKS[fate]
    canvas.line(start, end, color=color, width=1 if fate == "dropped" else 2)


def _node(canvas: Canvas, x: float, y: float, candidate: dict[str, Any]) -> None:
    """A candidate's word and total; below a finished one its score, and its place at the end."""
    fill, edge, color = LOOKS[candidate["fate"]]
    dashed = candidate["fate"] == "dropped"
    canvas.rect(x, y, WIDTH, 34, fill=fill, stroke=edge, dashed=dashed)
    middle = x + WIDTH / 2
    canvas.text(middle, y + 15, candidate["word"], size=12, anchor="middle", mono=True, color=color)
    canvas.text(middle, y + 29, f"{candidate['total']:.2f}", size=11, anchor="middle", color=color)
    if candidate["fate"] == "finished":
        length, best = candidate["length"], "place" in candidate
        score = f"/ {length} = {candidate['total'] / length:.2f}"
        if best:
            score += f", {PLACES[candidate['place']]}"
        canvas.text(middle, y + 46, score, size=11, anchor="middle", bold=best, color="up")


def _legend(canvas: Canvas) -> None:
    x, y = 22, canvas.height - 42
    for fate, words in (
        ("kept", "kept: one of the beams"),
        ("finished", "finished: it ended with [SEP]; below it its score, the sum / the length"),
        ("dropped", "dropped"),
    ):
        fill, edge, _ = LOOKS[fate]
        canvas.rect(x, y - 11, 14, 14, fill=fill, stroke=edge, radius=2, dashed=fate == "dropped")
        canvas.text(x + 20, y, words, size=12, color="soft")
        x += 40 + 6.4 * len(words)
    words = "the number in a box is the sum of log-probabilities; steps between are not drawn"
    canvas.text(22, y + 24, words, size=12, color="soft")
