"""Two scenes, five captions each."""

import textwrap
from collections.abc import Mapping
from typing import Any

from svg import Canvas

from pictures.scene import draw_scene, scene_data

WIDTH, CARD, SIDE = 880, 196, 156
WRAP = 92  # characters


def data(names: Mapping[str, Any]) -> Any:
    return [scene_data(scene) | {"captions": list(scene.captions)} for scene in names["shown"]]


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
        for part in lines:
            canvas.rect(200, y - 12, 4, 18 * len(part) - 2, fill="text", radius=2)
            for words in part:
                canvas.text(216, y, words, size=14)
                y += 18
            y += 12
    return canvas
