"""A drawn scene as vectors: what `smile.data.shapes` draws in pixels."""

from typing import Any

from svg import Canvas

from smile.data.shapes import COLORS, INK, UNITS, Scene, outline

STRIPE, DOT, STEP = 0.9, 1.1, 5  # half a stripe's width, a dot's radius, their distance, in units
SHADE = 0.85


def scene_data(scene: Scene) -> dict[str, Any]:
    """What of a scene is drawn, as JSON can hold it."""
    kinds = ("shape", "color", "texture", "x", "y", "diameter")
    objects = [{kind: getattr(thing, kind) for kind in kinds} for thing in scene.objects]
    return {"background": scene.background, "shading": scene.shading, "objects": objects}


def draw_scene(canvas: Canvas, scene: dict[str, Any], x: float, y: float, side: float) -> None:
    """The scene in a square at (x, y)."""
    shapes = scene_shapes(scene, prefix=f"s{len(canvas.shapes)}")
    canvas.add(
        f'<svg x="{x:g}" y="{y:g}" width="{side:g}" height="{side:g}" '
        f'viewBox="0 0 {UNITS} {UNITS}">{shapes}</svg>'
    )


def scene_shapes(scene: dict[str, Any], *, prefix: str) -> str:
    """The shapes of a scene, in units; `prefix` begins the ids of what cuts them to size."""
    parts = [_background(scene, prefix)]
    parts += [_object(thing, f"{prefix}o{n}") for n, thing in enumerate(scene["objects"])]
    return "".join(parts)


def _background(scene: dict[str, Any], prefix: str) -> str:
    base = COLORS[scene["background"]]
    shade = tuple(round(part * SHADE) for part in base)
    flat = scene["shading"] == "flat"
    first, last = (base, shade) if scene["shading"] == "lighter above" else (shade, base)
    stops = "".join(
        f'<stop offset="{n}" stop-color="{_hex(base if flat else color)}"/>'
        for n, color in enumerate((first, last))
    )
    return (
        f'<linearGradient id="{prefix}b" x2="0" y2="1">{stops}</linearGradient>'
        f'<rect width="{UNITS}" height="{UNITS}" fill="url(#{prefix}b)"/>'
    )


def _object(thing: dict[str, Any], name: str) -> str:
    size, half = thing["diameter"], thing["diameter"] / 2
    corners = [
        (thing["x"] + half + a * half, thing["y"] + half + b * half)
        for a, b in outline(thing["shape"])
    ]
    places = " ".join(f"{a:.2f},{b:.2f}" for a, b in corners)
    middle = size // 2
    steps = [middle + STEP * k for k in range(-size, size) if 0 < middle + STEP * k < size]
    ink = []
    if thing["texture"] == "striped":
        for step in steps:
            top = thing["y"] + step - STRIPE
            ink.append(f'<rect x="{thing["x"]}" y="{top:g}" width="{size}" height="{2 * STRIPE}"/>')
    if thing["texture"] == "dotted":
        ink += [
            f'<circle cx="{thing["x"] + a}" cy="{thing["y"] + b}" r="{DOT}"/>'
            for a in steps
            for b in steps
        ]
    outlined = f'<polygon points="{places}" fill="none" stroke="{_hex(INK)}" stroke-width="2"/>'
    return (
        f'<clipPath id="{name}"><polygon points="{places}"/></clipPath>'
        f'<polygon points="{places}" fill="{_hex(COLORS[thing["color"]])}"/>'
        f'<g clip-path="url(#{name})" fill="{_hex(INK)}">{"".join(ink)}{outlined}</g>'
    )


def _hex(color: tuple[int, ...]) -> str:
    return "#" + "".join(f"{part:02x}" for part in color)
