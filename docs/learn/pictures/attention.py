"""The three uses of attention, with the shape of everything that flows, and real weights."""

from collections.abc import Mapping
from typing import Any

from svg import Canvas

WIDTH, HEIGHT, COLUMN = 880, 490, 293
SIDE = 119  # of a grid of weights


def data(names: Mapping[str, Any]) -> Any:
    """For each use: widths and lengths, and the weights of the first head."""
    captioner = names["captioner"]
    sizes = {"heads": captioner.config.vit.num_heads, "dim": captioner.config.vit.dim}
    uses = ("self_weights", "causal_weights", "cross_weights")
    return sizes | {name: names[name][0, 0].tolist() for name in uses}


def draw(drawn: Any) -> Canvas:
    canvas = Canvas(WIDTH, HEIGHT)
    image, text = len(drawn["self_weights"]), len(drawn["causal_weights"])
    dim, heads = drawn["dim"], drawn["heads"]
    uses = (
        (
            "self",
            "Self-attention",
            "encoder: image vectors look at each other",
            "image",
            image,
            image,
        ),
        ("causal", "Causal self-attention", "decoder: tokens look back", "text", text, text),
        ("cross", "Cross-attention", "decoder: tokens look at the image", "text", text, image),
    )
    for n, (name, title, words, color, queries, keys) in enumerate(uses):
        middle = COLUMN * n + COLUMN / 2
        canvas.text(middle, 32, title, bold=True, size=15, anchor="middle")
        canvas.text(middle, 51, words, color="soft", size=12, anchor="middle")
        if n:
            canvas.line((COLUMN * n, 20), (COLUMN * n, HEIGHT - 58), color="edge")
        source = "image" if name != "causal" else "text"
        _sources(canvas, middle, color, source, (queries, keys, dim), shared=name != "cross")
        _projections(canvas, middle, color, source, (queries, keys, dim // heads), heads)
        shape = f"({heads}, {queries}, {keys})"
        _grid(canvas, middle, drawn[f"{name}_weights"], color, shape)
        _result(canvas, middle, color, f"({queries}, {dim})")
    legend = (
        f"shapes: one image, one caption, no batch; d = {dim // heads}, the width of a head",
        "grids: head 1 of block 1; row: reader, column: source, stronger colour: more weight",
    )
    for n, words in enumerate(legend):
        y = HEIGHT - 32 + 18 * n
        canvas.text(WIDTH / 2, y, words, size=12, anchor="middle", color="soft")
    return canvas


def _box(
    canvas: Canvas, middle: float, y: float, width: float, words: str, shape: str, color: str
) -> None:
    canvas.rect(middle - width / 2, y, width, 38, fill=f"{color}-pale", stroke=color)
    canvas.text(middle, y + 16, words, size=12, anchor="middle")
    canvas.text(middle, y + 31, shape, size=11, anchor="middle", mono=True, color=color)


def _sources(
    canvas: Canvas,
    middle: float,
    color: str,
    source: str,
    sizes: tuple[int, int, int],
    *,
    shared: bool,
) -> None:
    """What queries, and keys and values, are made from: the same, or text and image."""
    queries, keys, dim = sizes
    if shared:
        _box(canvas, middle, 66, 150, "x", f"({queries}, {dim})", color)
        canvas.arrow((middle - 52, 104), (middle - 52, 134))
        canvas.arrow((middle + 52, 104), (middle + 52, 134))
        return
    _box(canvas, middle - 70, 66, 116, "x, of the caption", f"({queries}, {dim})", color)
    _box(canvas, middle + 66, 66, 124, "image features", f"({keys}, {dim})", source)
    canvas.arrow((middle - 52, 104), (middle - 52, 134))
    canvas.arrow((middle + 52, 104), (middle + 52, 134))


def _projections(
    canvas: Canvas,
    middle: float,
    color: str,
    source: str,
    sizes: tuple[int, int, int],
    heads: int,
) -> None:
    queries, keys, width = sizes
    _box(canvas, middle - 66, 134, 112, "queries", f"({heads}, {queries}, {width})", color)
    _box(canvas, middle + 66, 134, 112, "keys, values", f"({heads}, {keys}, {width})", source)
    canvas.arrow((middle - 46, 172), (middle - 30, 206))
    canvas.arrow((middle + 46, 172), (middle + 30, 206))
    canvas.text(middle, 190, "q kᵀ / √d", size=12, anchor="middle", color="soft")


def _grid(
    canvas: Canvas, middle: float, weights: list[list[float]], color: str, shape: str
) -> None:
    """The weights of one head: a row for each query, a column for each key; each row sums to 1."""
    rows, columns = len(weights), len(weights[0])
    width, height = SIDE / columns, SIDE / rows  # of a cell
    left, top = middle - SIDE / 2, 210
    canvas.rect(left - 2, top - 2, SIDE + 4, SIDE + 4, fill="page", stroke="edge", radius=2)
    most = max(max(row) for row in weights)
    for y, row in enumerate(weights):
        for x, weight in enumerate(row):
            if weight > 0:
                strength = max(0.08, (weight / most) ** 0.6)
                at = (left + width * x, top + height * y)
                canvas.rect(*at, width - 1, height - 1, fill=color, radius=0, opacity=strength)
    canvas.text(left - 8, 274, "softmax", size=11, anchor="end", color="soft")
    canvas.text(left - 8, 288, "of each row", size=11, anchor="end", color="soft")
    canvas.text(middle + SIDE / 2 + 8, 281, shape, size=11, mono=True, color="ink")


def _result(canvas: Canvas, middle: float, color: str, shape: str) -> None:
    canvas.arrow((middle, 335), (middle, 384))
    canvas.text(middle + 10, 353, "times values,", size=11, color="soft")
    canvas.text(middle + 10, 367, "heads joined, out", size=11, color="soft")
    _box(canvas, middle, 386, 150, "result", shape, color)
