"""The work of greedy search with and without the cache: which tokens each step computes."""

from collections.abc import Mapping
from typing import Any

from svg import Canvas

CELL, TOP, GAP, IMAGE = 20, 78, 434, 40  # IMAGE: width of the image's cell
LOOKS = {  # fill, edge, opacity
    "image": ("image", "", 0.8),
    "prompt": ("text", "", 0.45),
    "caption": ("text", "", 0.8),
    "kept": ("page", "edge", 1),
}


def data(names: Mapping[str, Any]) -> Any:
    """The tokens in order, how many of them are the prompt, and how many each way computes."""
    vocab = names["tokenizer"].vocab
    return {
        "tokens": [vocab[i] for i in names["written"]],
        "prompt": names["start"],
        "vectors": names["single_features"].size(1),
        "without": names["without_cache"],
        "with": names["with_cache"],
    }


def draw(drawn: Any) -> Canvas:
    steps = len(drawn["tokens"]) - drawn["prompt"] + 1  # each reads the text and adds one token
    canvas = Canvas(880, TOP + CELL * steps + 78)
    for n, (title, key) in enumerate((("without a cache", "without"), ("with a cache", "with"))):
        left, times = 22 + GAP * n, steps if key == "without" else 1
        canvas.text(left, 28, title, bold=True, size=15)
        often = "once" if times == 1 else f"{times} times"
        words = f"{drawn[key]} tokens computed; the image’s keys and values: {often}"
        canvas.text(left, 47, words, color="soft", size=12)
        canvas.text(left, 69, "image", size=11, color="image")
        canvas.text(left + IMAGE + 8, 69, "text", size=11, color="text")
        for step in range(steps):
            _step(canvas, left, step, drawn["prompt"], every=key == "without")
    _legend(canvas, TOP + CELL * steps + 26, drawn["vectors"])
    return canvas


def _step(canvas: Canvas, left: float, step: int, prompt: int, *, every: bool) -> None:
    """A row: the image's keys and values, then the tokens so far; `every` one is computed anew."""
    y = TOP + CELL * step
    _cell(canvas, left, y, IMAGE - 3, "image" if every or step == 0 else "kept")
    for token in range(prompt + step):
        computed = every or step == 0 or token == prompt + step - 1
        kind = "prompt" if token < prompt else "caption"
        x = left + IMAGE + 8 + CELL * token
        _cell(canvas, x, y, CELL - 3, kind if computed else "kept")


def _cell(canvas: Canvas, x: float, y: float, width: float, kind: str) -> None:
    fill, edge, opacity = LOOKS[kind]
    canvas.rect(x, y, width, CELL - 3, fill=fill, stroke=edge, opacity=opacity, radius=3)


def _legend(canvas: Canvas, y: float, vectors: int) -> None:
    words = "each row is a step, each square a token of the text so far; coloured: computed now"
    canvas.text(22, y, words, size=12, color="soft")
    meanings = (
        ("image", f"keys and values of the {vectors} features"),
        ("prompt", "a token of the prompt"),
        ("caption", "a token of the caption"),
        ("kept", "kept in the cache"),
    )
    for (kind, words), x in zip(meanings, (22, 278, 468, 662), strict=True):
        _cell(canvas, x, y + 12, CELL - 3, kind)
        canvas.text(x + 24, y + 25, words, size=12, color="soft")
