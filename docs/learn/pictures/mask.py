"""Teacher forcing: what each position may see, and what it has to predict."""

from collections.abc import Mapping
from typing import Any

from svg import Canvas

CELL, LEFT, TOP = 46, 170, 96


def data(names: Mapping[str, Any]) -> Any:
    """The tokens that are read, and the label at each; None where nothing is predicted."""
    vocab, rows = names["tokenizer"].vocab, names["teacher"]
    return [
        {"read": vocab[read], "label": None if label < 0 else vocab[label]} for read, label in rows
    ]


def draw(rows: Any) -> Canvas:
    count = len(rows)
    right = LEFT + CELL * count
    canvas = Canvas(right + 220, TOP + CELL * count + 30)
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
            seen = k <= n
            canvas.rect(
                LEFT + CELL * k + 2,
                y + 2,
                CELL - 4,
                CELL - 4,
                fill="text" if k == n else "text-pale" if seen else "panel",
                stroke="" if seen else "edge",
                dashed=not seen,
                opacity=0.75 if k == n else 1,
            )
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
    return canvas
