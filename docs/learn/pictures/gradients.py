"""The gradient of each logit under MLE and under SMILE, for one caption."""

from collections.abc import Mapping
from typing import Any

from svg import Canvas
from torch import Tensor

LEFT, TOP, ROW, GAP = 92, 84, 26, 66


def data(names: Mapping[str, Any]) -> Any:
    """The gradients of the caption's words and of some others, a row for each label.

    None stands for a gradient of exactly zero, which is not the same as a small one.
    """
    inside, outside = names["inside"], names["outside"]
    vocab, ids = names["tokenizer"].vocab, names["tokenizer"].ids
    columns = [ids[word] for word in (*inside, *outside)]

    def chosen(gradient: Tensor) -> list[list[float | None]]:
        return [[number or None for number in row] for row in gradient[0][:, columns].tolist()]

    return {
        "inside": list(inside),
        "outside": list(outside),
        "labels": [vocab[i] for i in names["labels"][0].tolist()],
        "MLE": chosen(names["mle_gradient"]),
        "SMILE": chosen(names["smile_gradient"]),
    }


def draw(drawn: Any) -> Canvas:
    words = [*drawn["inside"], *drawn["outside"]]
    cell = min(56, (880 - LEFT - 40) / len(words))
    rows = len(drawn["labels"])
    canvas = Canvas(880, 2 * (TOP + ROW * rows) + 84)
    for n, name in enumerate(("MLE", "SMILE")):
        _panel(canvas, drawn, name, cell, top=TOP + n * (ROW * rows + GAP + 10))
    y = canvas.height - 42
    x = 22.0
    for fill, words in (
        ("up", "pushed up: a negative gradient"),
        ("down", "pushed down: a positive one"),
        ("page", "no gradient: exactly zero"),
    ):
        edge = "edge" if fill == "page" else ""
        canvas.rect(x, y - 11, 14, 14, fill=fill, stroke=edge, radius=2, dashed=bool(edge))
        canvas.text(x + 20, y, words, size=12, color="soft")
        x += 44 + 6.4 * len(words)
    words = "a row is a position of the caption: it has to predict the green token at its left"
    canvas.text(22, y + 24, words + "; colour without a number: below 0.005", size=12, color="soft")
    return canvas


def _panel(canvas: Canvas, drawn: Any, name: str, cell: float, *, top: float) -> None:
    words, inside = [*drawn["inside"], *drawn["outside"]], len(drawn["inside"])
    canvas.text(22, top - 34, name, bold=True, size=16)
    canvas.text(LEFT, top - 34, "words of the caption", size=12, color="soft")
    canvas.text(LEFT - 10, top - 10, "right token", size=12, anchor="end", color="up")
    gap = LEFT + cell * inside + 12
    canvas.text(gap, top - 34, "some of the other words", size=12, color="soft")
    for column, word in enumerate(words):
        x = LEFT + cell * column + (12 if column >= inside else 0)
        canvas.text(x + cell / 2 - 1, top - 10, word, size=12, anchor="middle")
    for row, label in enumerate(drawn["labels"]):
        y = top + ROW * row
        canvas.text(LEFT - 10, y + 17, label, size=12, anchor="end", mono=True, color="up")
        for column, number in enumerate(drawn[name][row]):
            x = LEFT + cell * column + (12 if column >= inside else 0)
            color = "up" if words[column] == label else "down"
            _cell(canvas, x, y, cell - 2, number, color)


def _cell(
    canvas: Canvas, x: float, y: float, width: float, number: float | None, color: str
) -> None:
    """A cell as strong as its gradient; a step moves the logit the other way."""
    if number is None:
        canvas.rect(x, y, width, ROW - 2, fill="page", stroke="edge", radius=2, dashed=True)
        return
    strength = 0.75 * min(1, abs(number)) ** 0.7
    canvas.rect(x, y, width, ROW - 2, fill=f"{color}-pale", radius=2)  # even where it is tiny
    canvas.rect(x, y, width, ROW - 2, fill=color, radius=2, opacity=strength)
    if number:  # what is left of a small one is its colour
        canvas.text(x + width / 2, y + 16, f"{number:+.2f}", size=11, anchor="middle", mono=True)
