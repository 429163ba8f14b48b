"""Text on Pillow's pictures, in the fonts and the order that `typeset.py` decides."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from PIL import ImageDraw, ImageFont, features

from smile.captioning.fonts import Face
from smile.captioning.typeset import Line, Typesetter

Colour = tuple[int, int, int]

LEADING = 1.35  # from one line to the next, as a multiple of the letters' size


@dataclass(frozen=True)
class Mark:
    """How a part of a text looks: from `start` to before `end`.

    Args:
        ink: its letters' colour, None for that of the text.
        ground: the colour behind it, None for none.
        underlined: by a line in the ink's colour.
    """

    start: int
    end: int
    ink: Colour | None = None
    ground: Colour | None = None
    underlined: bool = False


class Lettering:
    """Text of one size.

    Without Raqm, which Pillow's own packages have and a system's may lack, text from right to left
    stands in its order too, but its letters are not joined.
    """

    def __init__(self, size: int, typesetter: Typesetter) -> None:
        self.size, self.typesetter = size, typesetter
        self.leading = round(size * LEADING)
        self.ascent, self._descent = self._font(typesetter.fonts.first).getmetrics()

    def lines(self, text: str, width: float, *, marks: Sequence[Mark] = ()) -> list[Line]:
        """The lines of a text in `width` pixels, whose runs end where the marks do."""
        splits = sorted({place for mark in marks for place in (mark.start, mark.end)})
        return self.typesetter.lines(text, width, self._measure, splits=splits)

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
        marks: Sequence[Mark] = (),
    ) -> None:
        """Draws a line into a box `width` wide whose upper left corner is `where`.

        A text from right to left ends at the right. `marks` are those that `lines` had.
        """
        x, y = where
        if line.rtl:
            x += width - self.width(line)
        base, thickness = y + self.ascent, max(1, self.size // 9)
        for run in line.runs:
            end = x + self._measure(run.text, run.face, run.rtl)
            look = next((m for m in marks if m.start <= run.start < m.end), Mark(0, 0))
            ink = look.ink or colour
            if look.ground:
                draw.rectangle((x, y, end - 1, base + self._descent), look.ground)
            if look.underlined:
                top = base + thickness
                draw.rectangle((x, top, end - 1, top + thickness - 1), ink)
            options = _direction(run.rtl)
            text = run.text if options or not run.rtl else run.text[::-1]
            draw.text((x, base), text, ink, self._font(run.face), anchor="ls", **options)
            x = end

    def write(
        self,
        draw: ImageDraw.ImageDraw,
        where: tuple[int, int],
        lines: Sequence[Line],
        width: float | None = None,
        *,
        colour: Colour,
        marks: Sequence[Mark] = (),
    ) -> int:
        """Draws lines one beneath the other, and returns where the next would be.

        Each is drawn into a box `width` wide, or as wide as itself.
        """
        x, y = where
        for line in lines:
            room = self.width(line) if width is None else width
            self.draw(draw, (x, y), line, room, colour=colour, marks=marks)
            y += self.leading
        return y

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
