"""A beam search as a tree: what it looked at in each step, what it kept, what it finished."""

from collections.abc import Mapping
from typing import Any

from svg import Canvas

COLUMN, ROW, WIDTH, TOP, LEFT = 126, 46, 94, 62, 104
STEPS = 6  # of those the search takes
LOOKS = {  # fate → fill, edge, colour of the word
    "kept": ("text-pale", "text", "ink"),
    "finished": ("up-pale", "up", "ink"),
    "dropped": ("page", "edge", "soft"),
}


def data(names: Mapping[str, Any]) -> Any:
    """For each of the first steps its candidates, best first.

    Each has the number of the beam that it continues, its word, total and fate.
    """
    return [
        [
            {"from": row, "word": word, "total": total, "fate": fate}
            for row, word, total, fate in step
        ]
        for step in names["tree"][:STEPS]
    ]


def draw(steps: Any) -> Canvas:
    ranks = max(map(len, steps))
    width = max(880, LEFT + COLUMN * len(steps) + 10)
    canvas = Canvas(width, TOP + ROW * ranks + 56)
    middle = TOP + ROW * ranks / 2
    for line, words in enumerate(("[DEC]", "a picture", "of")):
        canvas.text(16, middle - 12 + 16 * line, words, size=12, mono=True, color="soft")
    kept = [(LEFT - 14, middle)]
    for column, step in enumerate(steps):
        x = LEFT + COLUMN * column
        canvas.text(x + WIDTH / 2, 30, f"step {column + 1}", anchor="middle", color="soft", size=12)
        ends = []
        for rank, candidate in enumerate(step):
            y = TOP + ROW * rank
            _edge(canvas, kept[candidate["from"]], (x, y + 16), candidate["fate"])
            if candidate["fate"] == "kept":
                ends.append((x + WIDTH, y + 16))
        for rank, candidate in enumerate(step):
            _node(canvas, x, TOP + ROW * rank, candidate)
        kept = ends
    _legend(canvas, len(steps))
    return canvas


def _edge(canvas: Canvas, start: tuple[float, float], end: tuple[float, float], fate: str) -> None:
    _, color, _ = LOOKS[fate]
    canvas.line(start, end, color=color, width=1 if fate == "dropped" else 2)


def _node(canvas: Canvas, x: float, y: float, candidate: dict[str, Any]) -> None:
    fill, edge, color = LOOKS[candidate["fate"]]
    dashed = candidate["fate"] == "dropped"
    canvas.rect(x, y, WIDTH, 34, fill=fill, stroke=edge, dashed=dashed)
    middle = x + WIDTH / 2
    canvas.text(middle, y + 15, candidate["word"], size=12, anchor="middle", mono=True, color=color)
    canvas.text(middle, y + 29, f"{candidate['total']:.2f}", size=11, anchor="middle", color=color)


def _legend(canvas: Canvas, steps: int) -> None:
    x, y = LEFT, canvas.height - 20
    for fate, words in (
        ("kept", "kept: one of the beams"),
        ("finished", "finished: it ended with [SEP]"),
        ("dropped", "dropped"),
    ):
        fill, edge, _ = LOOKS[fate]
        canvas.rect(x, y - 11, 14, 14, fill=fill, stroke=edge, radius=2, dashed=fate == "dropped")
        canvas.text(x + 20, y, words, size=12, color="soft")
        x += 40 + 7 * len(words)
    words = f"the first {steps} steps"
    canvas.text(canvas.width - 24, y, words, size=12, color="soft", anchor="end")
