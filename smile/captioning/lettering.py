"""Text on Pillow's pictures, in the fonts and the order that `typeset.py` decides."""

from functools import cache
from pathlib import Path

from PIL import ImageDraw, ImageFont, features

from smile.captioning.fonts import Face
from smile.captioning.typeset import Line, Typesetter

Colour = tuple[int, int, int]

LEADING = 1.35  # from one line to the next, as a multiple of the letters' size


class Lettering:
    """Text of one size.

    Without Raqm, which Pillow's own packages have and a system's may lack, text from right to left
    stands in its order too, but its letters are not joined.
    """

    def __init__(self, size: int, typesetter: Typesetter) -> None:
        self.size, self.typesetter = size, typesetter
        self.leading = round(size * LEADING)
        self._ascent = self._font(typesetter.fonts.first).getmetrics()[0]

    def lines(self, text: str, width: float, *, split: int = 0) -> list[Line]:
        """The lines of a text in `width` pixels; `split` as in `Typesetter.lines`."""
        return self.typesetter.lines(text, width, self._measure, split=split)

    def width(self, line: Line) -> float:
        """A line's width in pixels."""
        return sum(self._measure(run.text, run.face, run.rtl) for run in line.runs)

    def draw(
        self,
        draw: ImageDraw.ImageDraw,
        where: tuple[float, float],
        line: Line,
        width: float,
        *,
        colour: Colour,
        label: tuple[int, Colour] | None = None,
    ) -> None:
        """Draws a line into a box `width` wide whose upper left corner is `where`.

        A text from right to left ends at the right. `label` is where a label in the text ends, and
        its colour.
        """
        x, y = where
        if line.rtl:
            x += width - self.width(line)
        for run in line.runs:
            fill = label[1] if label and run.start < label[0] else colour
            options = _direction(run.rtl)
            font = self._font(run.face)
            text = run.text if options or not run.rtl else run.text[::-1]
            draw.text((x, y + self._ascent), text, fill, font, anchor="ls", **options)
            x += self._measure(run.text, run.face, run.rtl)

    def _measure(self, text: str, face: Face, rtl: bool) -> float:
        return self._font(face).getlength(text, **_direction(rtl))

    def _font(self, face: Face) -> ImageFont.FreeTypeFont:
        return _font(face.path, face.index, self.size)


@cache
def _font(path: Path, index: int, size: int) -> ImageFont.FreeTypeFont:
    return ImageFont.truetype(path, size, index)


@cache
def _has_raqm() -> bool:
    return bool(features.check("raqm"))


def _direction(rtl: bool) -> dict:
    """Pillow's option for the direction, which it takes only where it has Raqm."""
    return {"direction": "rtl" if rtl else "ltr"} if _has_raqm() else {}
