"""Teacher forcing: what each position may see, and what it has to predict."""

from collections.abc import Mapping
from typing import Any

from svg import Canvas

CELL, LEFT, TOP = 46, 170, 96
KINDS = {  # of a square → fill, edge, opacity
    "itself": ("text", "", 0.75),
    "earlier": ("text-pale", "", 1),
    "later": ("panel", "edge", 1),
}


def data(names: Mapping[str, Any]) -> Any:
    """The tokens that are read, and the label at each; None where nothing is predicted."""
    vocab, rows = names["tokenizer"].vocab, names["teacher"]
    return [
        {"read": vocab[read], "label": None if label < 0 else vocab[label]} for read, label in rows
    ]


def draw(rows: Any) -> Canvas:
    count = len(rows)
    right = LEFT + CELL * count
    canvas = Canvas(right + 220, TOP + CELL * count + 56)
    canvas.text(LEFT, 28, "may look at", bold=True)
    canvas.text(LEFT - 16, 28, "the state at", bold=True, anchor="end")
    canvas.text(right + 40, 28, "has to predict", bold=True)
    for n, row in enumerate(rows):
        middle = LEFT + CELL * n + CELL / 2
        place = TOP - 14 if n % 2 == 0 else TOP - 34  # in turn, so that long words do not touch
        canvas.text(middle, place, row["read"], size=12, anchor="middle", mono=True, color="text")
        if n % 2:
            canvas.line((middle, TOP - 28), (middle, TOP - 5), color="edge")
        y = TOP + CELL * n
        canvas.text(LEFT - 16, y + 28, row["read"], anchor="end", mono=True, color="text")
        for k in range(count):
            kind = "itself" if k == n else "earlier" if k < n else "later"
            _square(canvas, LEFT + CELL * k + 2, y + 2, CELL - 4, kind)
        predicted = row["label"] is not None
        canvas.arrow(
            (right + 6, y + CELL / 2),
            (right + 32, y + CELL / 2),
            color="up" if predicted else "edge",
        )
        if predicted:
            canvas.text(right + 40, y + 28, row["label"], mono=True, color="up", bold=True)
        else:
            canvas.text(right + 40, y + 28, "nothing: the prompt", size=12, color="soft")
    _legend(canvas, canvas.height - 22)
    return canvas


def _square(canvas: Canvas, x: float, y: float, side: float, kind: str) -> None:
    fill, stroke, opacity = KINDS[kind]
    look = {"stroke": stroke, "dashed": bool(stroke), "radius": side / 10}
    canvas.rect(x, y, side, side, fill=fill, opacity=opacity, **look)


def _legend(canvas: Canvas, y: float) -> None:
    words = ("the token itself", "an earlier token", "a later token: masked")
    for n, (kind, meaning) in enumerate(zip(KINDS, words, strict=True)):
        x = LEFT + 160 * n
        _square(canvas, x, y - 11, 14, kind)
        canvas.text(x + 20, y, meaning, size=12, color="soft")
