"""An image cut into patches, and the vectors that they become."""

from collections.abc import Mapping
from typing import Any

import torch
from svg import Canvas

from pictures.scene import draw_scene, scene_data, scene_shapes

WIDTH, LEFT, STEP, CELL = 880, 232, 37, 7
SHOWN = 6  # numbers of each vector


def data(names: Mapping[str, Any]) -> Any:
    """The scene, and the first numbers of each vector at three stages."""

    def first(vectors: torch.Tensor) -> list[list[float]]:
        return vectors[0, :, :SHOWN].detach().tolist()

    vit = names["captioner"].vit
    stages = {
        "patches": first(torch.cat([vit.class_token, names["patches"]], dim=1)),
        "positions": first(vit.positions),
        "features": first(names["features"]),
    }
    return {"scene": scene_data(names["scene"]), "size": vit.config.image_size, **stages}


def draw(drawn: Any) -> Canvas:
    canvas = Canvas(WIDTH, 348)
    draw_scene(canvas, drawn["scene"], 22, 40, 160)
    canvas.text(102, 26, f"{drawn['size']} × {drawn['size']} pixels", anchor="middle", bold=True)
    count = len(drawn["features"]) - 1
    side = round(count**0.5)
    for n in range(1, side):
        at = 160 * n / side
        canvas.line((22, 40 + at), (182, 40 + at), color="page", width=2)
        canvas.line((22 + at, 40), (22 + at, 200), color="page", width=2)
    _thumbnails(canvas, drawn["scene"], side)
    rows = (
        ("patches", "the class token: a learned vector; each patch: its pixels, times one matrix"),
        ("positions", "plus a learned vector for each place"),
        ("features", "after the blocks: the features"),
    )
    for row, (name, words) in enumerate(rows):
        top = 112 + 80 * row
        canvas.text(LEFT, top - 8, words, color="soft")
        _strips(canvas, drawn[name], top)
    width = len(drawn["features"][0])
    canvas.text(22, 236, f"{count} patches, one class token:", size=13)
    canvas.text(22, 254, f"{count + 1} vectors", size=13, bold=True, color="image")
    canvas.text(22, 288, f"Drawn: the first {width} numbers", color="soft", size=12)
    canvas.text(22, 304, "of each vector.", color="soft", size=12)
    canvas.rect(22, 314, 12, 12, fill="image", radius=2)
    canvas.text(40, 324, "positive", color="soft", size=12)
    canvas.rect(102, 314, 12, 12, fill="text", radius=2)
    canvas.text(120, 324, "negative", color="soft", size=12)
    return canvas


def _thumbnails(canvas: Canvas, scene: dict[str, Any], side: int) -> None:
    """The class token's place, then the patches in reading order."""
    canvas.add(f'<defs><g id="scene">{scene_shapes(scene, prefix="t")}</g></defs>')
    canvas.rect(LEFT, 40, 32, 32, fill="image-pale", stroke="image")
    canvas.text(LEFT + 16, 60, "class", size=11, anchor="middle", color="image")
    units = 48 / side
    for n in range(side * side):
        row, column = divmod(n, side)
        x = LEFT + STEP * (n + 1)
        canvas.add(
            f'<svg x="{x}" y="40" width="32" height="32" '
            f'viewBox="{column * units:g} {row * units:g} {units:g} {units:g}">'
            '<use href="#scene"/></svg>'
        )
        canvas.rect(x, 40, 32, 32, fill="", stroke="edge", radius=0)
        canvas.text(x + 16, 34, str(n + 1), size=10, anchor="middle", color="soft")


def _strips(canvas: Canvas, vectors: list[list[float]], top: float) -> None:
    """Each vector as a column of cells; the strongest colour is the largest number."""
    most = max(abs(number) for vector in vectors for number in vector) or 1
    for n, vector in enumerate(vectors):
        x = LEFT + STEP * n
        for k, number in enumerate(vector):
            strength = abs(number) / most
            fill = "image" if number > 0 else "text"
            canvas.rect(
                x, top + (CELL + 1) * k, 32, CELL, fill=fill, radius=1, opacity=strength**0.7
            )
        canvas.rect(x - 1, top - 1, 34, (CELL + 1) * len(vector) + 1, fill="", stroke="edge")
