"""The three uses of attention, with the shape of everything that flows, and real weights."""

from collections.abc import Mapping
from typing import Any, NamedTuple

from svg import Canvas

WIDTH, HEIGHT, COLUMN = 880, 646, 293
SIDE, LEFT, TOP = 136, 66, 276  # of a grid of weights; its left is counted from its column's
MIDDLE = LEFT + SIDE / 2
QUERIES, KEYS, VALUES, BOX = 52, 147, 242, 86  # the middles of three boxes, and their width


class _Use(NamedTuple):
    """One use of attention: who reads, what is read, and how many of each there are."""

    name: str
    title: str
    words: str
    reader: str  # "image" or "text", which are also colours
    source: str


USES = (
    _Use("self", "Self-attention", "encoder: image vectors look at each other", "image", "image"),
    _Use("causal", "Causal self-attention", "decoder: tokens look back", "text", "text"),
    _Use("cross", "Cross-attention", "decoder: tokens look at the image", "text", "image"),
)


def data(names: Mapping[str, Any]) -> Any:
    """The tokens, and for each use the weights of the first head of the first block."""
    config, vocab = names["captioner"].config.vit, names["tokenizer"].vocab
    weights = {use.name: names[f"{use.name}_weights"][0, 0].tolist() for use in USES}
    tokens = [vocab[i] for i in names["ids"]]
    return {"heads": config.num_heads, "dim": config.dim, "tokens": tokens, **weights}


def draw(drawn: Any) -> Canvas:
    canvas = Canvas(WIDTH, HEIGHT)
    for n, use in enumerate(USES):
        left = COLUMN * n
        canvas.text(left + COLUMN / 2, 32, use.title, bold=True, size=15, anchor="middle")
        canvas.text(left + COLUMN / 2, 51, use.words, color="soft", size=12, anchor="middle")
        if n:
            canvas.line((left, 20), (left, HEIGHT - 58), color="edge")
        _scores(canvas, left, use, drawn)
        _grid(canvas, left, use, drawn)
        _result(canvas, left, use, drawn)
    width = drawn["dim"] // drawn["heads"]
    legend = (
        f"shapes: one image, one caption, no batch; d = {width}, the width of a head",
        "grids: head 1 of block 1; row: reader, column: source, stronger colour: more weight",
    )
    for n, words in enumerate(legend):
        y = HEIGHT - 32 + 18 * n
        canvas.text(WIDTH / 2, y, words, size=12, anchor="middle", color="soft")
    return canvas


def _box(
    canvas: Canvas, middle: float, y: float, width: float, words: str, shape: Any, color: str
) -> None:
    canvas.rect(middle - width / 2, y, width, 38, fill=f"{color}-pale", stroke=color)
    canvas.text(middle, y + 16, words, size=12, anchor="middle")
    shape = f"({', '.join(map(str, shape))})"
    canvas.text(middle, y + 31, shape, size=11, anchor="middle", mono=True, color=color)


def _sizes(use: _Use, drawn: Any) -> tuple[int, int]:
    """How many readers there are, and how many sources."""
    weights = drawn[use.name]
    return len(weights), len(weights[0])


def _scores(canvas: Canvas, left: float, use: _Use, drawn: Any) -> None:
    """What queries, keys and values are made from, and the scores of queries and keys."""
    heads, dim = drawn["heads"], drawn["dim"]
    readers, sources = _sizes(use, drawn)
    if use.reader == use.source:
        _box(canvas, left + KEYS, 66, 150, "x", (readers, dim), use.reader)
        for middle, start in ((QUERIES, KEYS - 68), (KEYS, KEYS), (VALUES, KEYS + 68)):
            canvas.line((left + start, 104), (left + middle, 119))
            canvas.arrow((left + middle, 119), (left + middle, 134))
    else:
        _box(canvas, left + QUERIES, 66, BOX, "x, caption", (readers, dim), use.reader)
        _box(canvas, left + (KEYS + VALUES) / 2, 66, 150, "features", (sources, dim), use.source)
        for middle, start in ((QUERIES, QUERIES), (KEYS, KEYS), (VALUES, VALUES)):
            canvas.arrow((left + start, 104), (left + middle, 134))
    width = dim // heads
    _box(canvas, left + QUERIES, 134, BOX, "queries", (heads, readers, width), use.reader)
    _box(canvas, left + KEYS, 134, BOX, "keys", (heads, sources, width), use.source)
    _box(canvas, left + VALUES, 134, BOX, "values", (heads, sources, width), use.source)
    for middle in (QUERIES, KEYS):
        canvas.arrow((left + middle, 172), (left + middle, 194))
    middle, wide = (QUERIES + KEYS) / 2, KEYS - QUERIES + BOX
    shape = (heads, readers, sources)
    _box(canvas, left + middle, 194, wide, "scores: q kᵀ / √d", shape, use.reader)


def _grid(canvas: Canvas, left: float, use: _Use, drawn: Any) -> None:
    """The weights of one head: a row for each reader, a column for each source."""
    steps = ["softmax of each row"]
    if use.name == "causal":
        steps.insert(0, "later tokens: −∞,")
    for n, words in enumerate(reversed(steps)):
        canvas.text(left + MIDDLE - 8, 262 - 14 * n, words, size=11, anchor="end", color="soft")
    canvas.arrow((left + MIDDLE, 232), (left + MIDDLE, TOP - 4))
    weights = drawn[use.name]
    readers, sources = _sizes(use, drawn)
    width, height = SIDE / sources, SIDE / readers  # of a cell
    x, y = left + LEFT, TOP
    canvas.rect(x - 2, y - 2, SIDE + 4, SIDE + 4, fill="page", stroke="edge", radius=2)
    most = max(map(max, weights))
    for row, values in enumerate(weights):
        for column, weight in enumerate(values):
            if weight > 0:
                strength = max(0.08, (weight / most) ** 0.6)
                at = (x + width * column, y + height * row)
                canvas.rect(*at, width - 1, height - 1, fill=use.reader, radius=0, opacity=strength)
    _row_names(canvas, x - 8, use.reader, drawn["tokens"], readers)
    _column_names(canvas, x, use.source, drawn["tokens"], sources)


def _row_names(canvas: Canvas, x: float, kind: str, tokens: list[str], count: int) -> None:
    cell = SIDE / count
    if kind == "text":
        for n, token in enumerate(tokens):
            y = TOP + cell * (n + 0.5) + 3.5
            canvas.text(x, y, token, size=10, anchor="end", mono=True, color="text")
        return
    canvas.text(x, TOP + cell / 2 + 3.5, "class", size=10, anchor="end", color="image")
    canvas.line((x + 2, TOP + cell + 2), (x + 2, TOP + SIDE - 2), color="image", width=1)
    middle = TOP + (SIDE + cell) / 2
    canvas.text(x - 3, middle - 2, "patches", size=10, anchor="end", color="image")
    canvas.text(x - 3, middle + 11, f"1 to {count - 1}", size=10, anchor="end", color="image")


def _column_names(canvas: Canvas, x: float, kind: str, tokens: list[str], count: int) -> None:
    cell, y = SIDE / count, TOP + SIDE + 8
    if kind == "text":
        for n, token in enumerate(tokens):
            at = (x + cell * (n + 0.5) + 3.5, y)
            canvas.text(*at, token, size=10, anchor="end", mono=True, color="text", upright=True)
        return
    canvas.text(x + cell, y + 8, "class", size=10, anchor="end", color="image")
    canvas.line((x + cell + 2, y - 2), (x + SIDE - 2, y - 2), color="image", width=1)
    middle, words = x + (SIDE + cell) / 2, f"patches 1 to {count - 1}"
    canvas.text(middle, y + 10, words, size=10, anchor="middle", color="image")


def _result(canvas: Canvas, left: float, use: _Use, drawn: Any) -> None:
    """The weights times the values, then the heads joined and a last linear layer."""
    heads, dim = drawn["heads"], drawn["dim"]
    readers, _ = _sizes(use, drawn)
    y = TOP + SIDE + 66
    below = 50 if use.source == "text" else 22  # the names of the columns
    canvas.arrow((left + MIDDLE, TOP + SIDE + below), (left + MIDDLE, y))
    canvas.line((left + VALUES, 172), (left + VALUES, y + 19), color=use.source)
    canvas.arrow((left + VALUES, y + 19), (left + MIDDLE + 68, y + 19), color=use.source)
    shape = (heads, readers, dim // heads)
    _box(canvas, left + MIDDLE, y, 128, "weights × values", shape, use.reader)
    canvas.arrow((left + MIDDLE, y + 38), (left + MIDDLE, y + 64))
    words = "heads joined, linear layer"
    canvas.text(left + MIDDLE + 8, y + 55, words, size=11, color="soft")
    _box(canvas, left + MIDDLE, y + 66, 128, "result", (readers, dim), use.reader)
