"""The work of greedy search with and without the cache: which tokens each step computes."""

from collections.abc import Mapping
from typing import Any

from svg import Canvas

CELL, TOP, GAP = 22, 72, 440


def data(names: Mapping[str, Any]) -> Any:
    """The tokens in order, how many of them are the prompt, and how many each way computes."""
    vocab = names["tokenizer"].vocab
    return {
        "tokens": [vocab[i] for i in names["written"]],
        "prompt": names["start"],
        "without": names["without_cache"],
        "with": names["with_cache"],
    }


def draw(drawn: Any) -> Canvas:
    prompt = drawn["prompt"]
    steps = len(drawn["tokens"]) - prompt + 1  # each step reads what is there and adds one token
    canvas = Canvas(880, TOP + CELL * steps + 74)
    for n, (title, key) in enumerate((("without a cache", "without"), ("with a cache", "with"))):
        left = 22 + GAP * n
        canvas.text(left, 30, title, bold=True, size=15)
        canvas.text(left, 50, f"{drawn[key]} tokens computed", color="soft", size=12)
        for step in range(steps):
            for token in range(prompt + step):
                computed = key == "without" or step == 0 or token == prompt + step - 1
                canvas.rect(
                    left + CELL * token,
                    TOP + CELL * step,
                    CELL - 3,
                    CELL - 3,
                    fill="text" if computed else "page",
                    stroke="" if computed else "edge",
                    opacity=0.45 if computed and token < prompt else 0.8 if computed else 1,
                    radius=3,
                )
    y = TOP + CELL * steps + 26
    canvas.text(
        22, y, "each row is a step, each square a token of the text so far", size=12, color="soft"
    )
    y += 24
    canvas.rect(22, y - 11, 14, 14, fill="text", opacity=0.45, radius=3)
    canvas.text(42, y, "computed: a token of the prompt", size=12, color="soft")
    canvas.rect(262, y - 11, 14, 14, fill="text", opacity=0.8, radius=3)
    canvas.text(282, y, "computed: a token of the caption", size=12, color="soft")
    canvas.rect(502, y - 11, 14, 14, fill="page", stroke="edge", radius=3)
    canvas.text(522, y, "its keys and values are in the cache", size=12, color="soft")
    return canvas
