"""The picture of where a captioner looked for each word: the image, light there, dark elsewhere."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from PIL import Image, ImageDraw, ImageStat

from smile.captioning.lettering import Lettering
from smile.captioning.pictures import FAINT, INK, PAPER, save_picture, say_missing
from smile.captioning.typeset import Line, Typesetter

__all__ = ["Heat", "attention_sheet", "full_light", "heated"]

Heat = Sequence[Sequence[float]]  # rows of weights, one for each patch

WIDTH, LEAST_WIDTH = 1330, 700  # of the picture, in pixels
TILE = 200  # the side of a square panel; others have its area
LEAST_COLUMN = 130  # pixels for a panel's word, however narrow the panel
LONGEST = 3  # a panel's longer side is at most so many times the other
MARGIN, GAP = 25, 16
DARKEST = 0.16  # what is left of the light where the captioner did not look
LEAST_LIGHT = 0.4  # mean brightness of a panel: darker photos are brightened, or nothing is seen
BRIGHTENED = 0.45  # the smallest exponent of that
PEAK = 0.95  # the share of all patches of all panels that have less than full light


def attention_sheet(
    image: Image.Image,
    caption: str,
    words: Sequence[tuple[str, float, Heat]],
    path: str | Path,
) -> None:
    """Saves an image once plain and once for each word, light where the captioner looked for it.

    Above stands the caption, below what light and numbers mean. All panels have one scale, so that
    a word for which the captioner looked everywhere is dim.

    Args:
        words: each with its log-probability, shown as a probability, and its weights.

    Raises:
        UserError: it cannot be written.
    """
    sheet = _Sheet(image, caption, words)
    save_picture(sheet.draw().save, path)
    say_missing(sheet.typesetter)


def heated(photo: Image.Image, heat: Heat, most: float) -> Image.Image:
    """The photo in its own colours, in full light where `heat` is `most` or more, dark where 0."""
    photo = _brightened(photo)
    mask = Image.new("L", (len(heat[0]), len(heat)))
    mask.putdata([round(255 * min(1.0, value / max(most, 1e-12))) for row in heat for value in row])
    mask = mask.resize(photo.size, Image.Resampling.BICUBIC)
    return Image.composite(photo, Image.blend(Image.new("RGB", photo.size), photo, DARKEST), mask)


def full_light(heats: Sequence[Heat]) -> float:
    """The weight that has full light in all panels: a few patches of all have more."""
    weights = sorted(value for heat in heats for row in heat for value in row)
    return weights[math.ceil(PEAK * len(weights)) - 1]


def _brightened(photo: Image.Image) -> Image.Image:
    """A dark photo lighter, in its own colours; any other as it is."""
    light = ImageStat.Stat(photo.convert("L")).mean[0] / 255
    if light >= LEAST_LIGHT:
        return photo
    power = max(BRIGHTENED, math.log(LEAST_LIGHT) / math.log(max(light, 1 / 255)))
    return photo.point([round(255 * (value / 255) ** power) for value in range(256)] * 3)


def panel_size(width: int, height: int) -> tuple[int, int]:
    """The size of a panel for an image: its proportions, within `LONGEST`, and `TILE`'s area."""
    proportion = min(LONGEST, max(1 / LONGEST, width / height))
    return round(TILE * proportion**0.5), round(TILE / proportion**0.5)


@dataclass(frozen=True)
class _Panel:
    """A picture, and beneath it a word and how likely that was."""

    picture: Image.Image
    word: Sequence[Line]
    probability: Sequence[Line]


class _Sheet:
    """All panels and texts, set in lines, and the picture of them."""

    def __init__(
        self, image: Image.Image, caption: str, words: Sequence[tuple[str, float, Heat]]
    ) -> None:
        self.typesetter = Typesetter()
        self.title, self.large, self.small = (
            Lettering(size, self.typesetter) for size in (20, 16, 12)
        )
        self.size = panel_size(*image.size)
        photo = image.convert("RGB").resize(self.size, Image.Resampling.LANCZOS)
        self.most = full_light([heat for *_, heat in words]) if words else 1.0
        self.column = max(self.size[0], LEAST_COLUMN)
        self.panels = [self._panel(photo, "(image)")]
        for word, logprob, heat in words:
            panel = heated(photo, heat, self.most)
            self.panels.append(self._panel(panel, word, f"{math.exp(logprob):.0%}"))
        most = (WIDTH - 2 * MARGIN + GAP) // (self.column + GAP)
        self.columns = min(most, len(self.panels))
        used = self.columns * (self.column + GAP) - GAP
        self.width = max(LEAST_WIDTH, 2 * MARGIN + used)
        self.caption = self.title.lines(caption, self.width - 2 * MARGIN)
        self.legend = self._legend(image.size, words)

    def _panel(self, picture: Image.Image, word: str, probability: str = "") -> _Panel:
        room = self.column - self.small.size * (3 if probability else 0)
        lines = self.small.lines(probability, self.column)
        return _Panel(picture, self.large.lines(word, room), lines)

    def _legend(
        self, size: tuple[int, int], words: Sequence[tuple[str, float, Heat]]
    ) -> list[Line]:
        width, height = size
        text = ""
        if words:
            even = sum(map(len, words[0][2]))
            text = (
                f"Dark: no attention. Light: {self.most * even:.1f} times an even share of it, or "
                "more; the same in all panels. "
                "Percent: how likely the word was, given those before."
            )
        if max(width, height) > LONGEST * min(width, height):
            text += f" The image, of {width} x {height} pixels, is longer than it is drawn here."
        return self.small.lines(text, self.width - 2 * MARGIN)

    def draw(self) -> Image.Image:
        """The picture."""
        rows = [
            self.panels[first : first + self.columns]
            for first in range(0, len(self.panels), self.columns)
        ]
        heights = [self._row_height(row) for row in rows]
        top = MARGIN + self.title.leading * len(self.caption) + GAP
        foot = top + sum(heights)
        height = foot + self.small.leading * len(self.legend) + MARGIN
        sheet = Image.new("RGB", (self.width, height), PAPER)
        draw = ImageDraw.Draw(sheet)
        self.title.write(draw, (MARGIN, MARGIN), self.caption, colour=INK)
        for row, row_height in zip(rows, heights, strict=True):
            for number, panel in enumerate(row):
                self._draw_panel(sheet, draw, (MARGIN + number * (self.column + GAP), top), panel)
            top += row_height
        self.small.write(draw, (MARGIN, foot), self.legend, colour=FAINT)
        return sheet

    def _row_height(self, row: Sequence[_Panel]) -> int:
        lines = max(len(panel.word) for panel in row)
        return self.size[1] + GAP // 3 + lines * self.large.leading + GAP

    def _draw_panel(
        self, sheet: Image.Image, draw: ImageDraw.ImageDraw, where: tuple[int, int], panel: _Panel
    ) -> None:
        left, y = where
        sheet.paste(panel.picture, where)
        y += self.size[1] + GAP // 3
        baseline = y + self.large.ascent - self.small.ascent
        for line in panel.probability:
            x = left + self.column - self.small.width(line)
            self.small.draw(draw, (x, baseline), line, self.column, colour=FAINT)
        self.large.write(draw, (left, y), panel.word, colour=INK)
