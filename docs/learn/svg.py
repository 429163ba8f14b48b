"""The few shapes that the lesson's pictures are made of, in colours for light and dark pages.

A picture is a `Canvas`: shapes are added one by one, and `to_svg` writes them with the data that
were drawn, as JSON in `<metadata>`. `data_of` reads them back. Colours are named by what they mean,
and the page's colour scheme chooses between the two of each name.
"""

import json
import xml.etree.ElementTree as ElementTree
from collections.abc import Iterable
from typing import Any
from xml.sax.saxutils import escape

# name → (on light pages, on dark pages). The pages' own colours are GitHub's.
COLORS = {
    "page": ("#ffffff", "#0d1117"),
    "panel": ("#f6f8fa", "#161b22"),
    "edge": ("#d1d9e0", "#3d444d"),
    "ink": ("#1f2328", "#e6edf3"),
    "soft": ("#59636e", "#9ba4ae"),
    "line": ("#848d97", "#7d8590"),
    "image": ("#0b62d6", "#79b8ff"),  # whatever comes from the image
    "image-pale": ("#dcebff", "#12294a"),
    "text": ("#b34700", "#ffab5e"),  # whatever comes from the caption
    "text-pale": ("#ffe9d6", "#43260f"),
    "up": ("#1a7f37", "#4ac26b"),  # pushed up
    "up-pale": ("#d8f5df", "#12331d"),
    "down": ("#cf222e", "#ff7b72"),  # pushed down
    "down-pale": ("#ffe1e1", "#471a1c"),
}
SANS = "system-ui, -apple-system, 'Segoe UI', 'Helvetica Neue', Arial, sans-serif"
MONO = "ui-monospace, 'SF Mono', Menlo, Consolas, 'DejaVu Sans Mono', monospace"


class Canvas:
    """A picture of `width` x `height` units, on a card of the page's colour."""

    def __init__(self, width: float, height: float):
        self.width, self.height = width, height
        self.shapes: list[str] = []
        self.rect(0.5, 0.5, width - 1, height - 1, fill="page", stroke="edge", radius=10)

    def add(self, shape: str) -> None:
        self.shapes.append(shape)

    def rect(
        self,
        x: float,
        y: float,
        width: float,
        height: float,
        *,
        fill: str = "panel",
        stroke: str = "",
        radius: float = 4,
        opacity: float = 1,
        dashed: bool = False,
    ) -> None:
        look = _look(fill, stroke) + (' stroke-dasharray="4 3"' if dashed else "")
        look += f' fill-opacity="{_n(opacity)}"' if opacity != 1 else ""
        self.add(
            f'<rect x="{_n(x)}" y="{_n(y)}" width="{_n(width)}" height="{_n(height)}" '
            f'rx="{_n(radius)}" {look}/>'
        )

    def text(
        self,
        x: float,
        y: float,
        words: str,
        *,
        color: str = "ink",
        size: float = 13,
        anchor: str = "start",
        mono: bool = False,
        bold: bool = False,
        upright: bool = False,
    ) -> None:
        """One line of text whose baseline is at `y`; `anchor` is "start", "middle" or "end".

        `upright` text runs from below to above, and its baseline is at `x`.
        """
        turn = f' transform="rotate(-90 {_n(x)} {_n(y)})"' if upright else ""
        classes = f"f-{color}" + (" mono" if mono else "") + (" bold" if bold else "")
        self.add(
            f'<text x="{_n(x)}" y="{_n(y)}" font-size="{_n(size)}" text-anchor="{anchor}" '
            f'class="{classes}" xml:space="preserve"{turn}>{escape(words)}</text>'
        )

    def line(
        self,
        *points: tuple[float, float],
        color: str = "line",
        width: float = 1.5,
        dashed: bool = False,
        head: bool = False,
    ) -> None:
        """A line through the points; with `head`, an arrow to the last, along x or along y."""
        if head:
            self._head(*points[-2], *points[-1], color)
        places = " ".join(f"{_n(x)},{_n(y)}" for x, y in points)
        dash = ' stroke-dasharray="4 3"' if dashed else ""
        self.add(
            f'<polyline points="{places}" fill="none" class="s-{color}" '
            f'stroke-width="{_n(width)}"{dash}/>'
        )

    def arrow(self, *points: tuple[float, float], color: str = "line", width: float = 1.5) -> None:
        self.line(*points, color=color, width=width, head=True)

    def _head(self, x0: float, y0: float, x: float, y: float, color: str) -> None:
        length = ((x - x0) ** 2 + (y - y0) ** 2) ** 0.5 or 1
        dx, dy = (x - x0) / length, (y - y0) / length
        sides = [(x - 8 * dx + s * 4 * dy, y - 8 * dy - s * 4 * dx) for s in (1, -1)]
        self.polygon([(x, y), *sides], fill=color)

    def polygon(self, points: Iterable[tuple[float, float]], *, fill: str) -> None:
        places = " ".join(f"{_n(x)},{_n(y)}" for x, y in points)
        self.add(f'<polygon points="{places}" class="f-{fill}"/>')

    def to_svg(self, title: str, data: Any) -> str:
        size = f'width="{_n(self.width)}" height="{_n(self.height)}"'
        box = f'viewBox="0 0 {_n(self.width)} {_n(self.height)}"'
        lines = [
            f'<svg xmlns="http://www.w3.org/2000/svg" {size} {box} role="img">',
            f"<title>{escape(title)}</title>",
            f"<metadata>{escape(json.dumps(data, ensure_ascii=False))}</metadata>",
            f"<style>{_style()}</style>",
            *self.shapes,
            "</svg>",
        ]
        return "\n".join(lines) + "\n"


def data_of(svg: str) -> Any:
    """The data that a picture of `Canvas.to_svg` was drawn from."""
    found = ElementTree.fromstring(svg).find("{http://www.w3.org/2000/svg}metadata")
    return None if found is None else json.loads(found.text or "null")


def _look(fill: str, stroke: str) -> str:
    classes = " ".join(kind + name for kind, name in (("f-", fill), ("s-", stroke)) if name)
    return f'class="{classes}"' + ("" if fill else ' fill="none"')


def _n(number: float) -> str:
    """A number to two decimals, without needless zeros."""
    return f"{round(number, 2) + 0:g}"


def _style() -> str:
    """The classes of every colour; those for dark pages replace those for light ones."""
    light, dark = (
        "".join(f".f-{name}{{fill:{c[i]}}}.s-{name}{{stroke:{c[i]}}}" for name, c in COLORS.items())
        for i in (0, 1)
    )
    return (
        f"text{{font-family:{SANS}}}.mono{{font-family:{MONO}}}.bold{{font-weight:600}}"
        f"{light}@media (prefers-color-scheme:dark){{{dark}}}"
    )
