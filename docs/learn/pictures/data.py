"""Two scenes, five captions each."""

import textwrap
from collections.abc import Mapping
from typing import Any

from svg import Canvas

from pictures.scene import draw_scene, scene_data
from smile.data.shapes import Scene, check_caption

WIDTH, CARD, SIDE = 880, 196, 156
WRAP = 82  # characters


def data(names: Mapping[str, Any]) -> Any:
    """The scenes, their captions, and the number of the caption that says most."""
    return [
        scene_data(scene) | {"captions": list(scene.captions), "full": _full(scene)}
        for scene in names["shown"]
    ]


def _full(scene: Scene) -> int:
    counts = [len(check_caption(caption, scene)) for caption in scene.captions]
    return counts.index(max(counts))


def draw(scenes: Any) -> Canvas:
    canvas = Canvas(WIDTH, CARD * len(scenes) + 4)
    for row, scene in enumerate(scenes):
        top = CARD * row + 22
        draw_scene(canvas, scene, 22, top, SIDE)
        if row:
            canvas.line((22, top - 20), (WIDTH - 22, top - 20), color="edge")
        lines = [textwrap.wrap(caption, WRAP) for caption in scene["captions"]]
        height = sum(18 * len(part) + 12 for part in lines) - 12
        y = top + (SIDE - height) / 2 + 13
        for number, part in enumerate(lines):
            full = number == scene["full"]
            bar = 18 * len(part) - 2
            canvas.rect(200, y - 12, 4, bar, fill="up" if full else "text", radius=2)
            if full:
                canvas.text(WIDTH - 22, y, "says everything", size=12, anchor="end", color="up")
            for words in part:
                canvas.text(216, y, words, size=14)
                y += 18
            y += 12
    return canvas
