"""Contact sheets: pictures in rows on one or several pages, with names and captions beneath."""

import contextlib
import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from PIL import ExifTags, Image, ImageDraw

from smile.captioning.lettering import Lettering, Mark
from smile.captioning.marks import differing_words, pieces
from smile.captioning.pictures import (
    FAINT,
    FRAME,
    GRID,
    INK,
    LABELS,
    PAPER,
    RED,
    check_picture,
    colour_numbers,
    faded,
    save_picture,
    say_missing,
)
from smile.captioning.typeset import Line, Typesetter
from smile.errors import UserError

__all__ = ["COLUMNS", "TILE", "Shown", "Told", "check_sheet", "contact_sheet"]

COLUMNS, TILE = 4, 240  # pictures in a row, and their longest side in pixels
PAGE_HEIGHT = 2000  # pixels; a page has as many rows as fit, but one at least


@dataclass(frozen=True, kw_only=True)
class Told:
    """A caption: the label of who wrote it, "" for none, and the places of its false words."""

    text: str
    label: str = ""
    false: frozenset[int] = frozenset()


@dataclass(frozen=True, kw_only=True)
class Shown:
    """A picture, its name, "" for none, and what is told of it."""

    image: Image.Image
    captions: Sequence[Told]
    name: str = ""


@dataclass(frozen=True)
class _Text:
    """A text set in lines, and how its parts look."""

    lines: Sequence[Line]
    marks: Sequence[Mark] = ()


def contact_sheet(
    shown: Sequence[Shown],
    path: str | Path,
    *,
    columns: int = COLUMNS,
    tile: int = TILE,
    page_height: int = PAGE_HEIGHT,
) -> list[Path]:
    """Saves pictures in rows, each at most `tile` pixels wide and high, with its captions beneath.

    Tinted are the words that no other caption of the picture has, red and underlined those that
    are false. Each label has its colour.

    Returns:
        The pages written: `path` and, if one does not suffice, "sheet-2.png" and so on beside it.
        Those that a longer sheet has left there are removed.

    Raises:
        ValueError: no pictures.
        UserError: a page cannot be written.
    """
    if not shown:
        raise ValueError("a contact sheet of no pictures")
    sheet = _Sheet(shown, columns=min(columns, len(shown)), tile=tile)
    pages = list(sheet.pages(page_height))
    paths = [_page_path(Path(path), number) for number in range(1, len(pages) + 1)]
    for number, (rows, name) in enumerate(zip(pages, paths, strict=True), 1):
        of = f"page {number} of {len(pages)}" if len(pages) > 1 else ""
        page = sheet.draw(rows, of)
        exif = Image.Exif()
        exif[ExifTags.Base.ImageDescription] = _sign(Path(path), number)
        save_picture(partial(page.save, exif=exif), name)
    for number, old in _later_pages(Path(path), len(pages)):
        if _has_sign(old, _sign(Path(path), number)):
            old.unlink()
    say_missing(sheet.typesetter)
    return paths


def check_sheet(path: str | Path, num_pictures: int) -> None:
    """Raises UserError unless a sheet of so many pictures can be written, on pages of any number.

    What is no page of an older sheet is not replaced.
    """
    check_picture(path)
    most = -(-num_pictures // COLUMNS)  # a row on each
    for number, page in _later_pages(Path(path), 1):
        if number <= most and not _has_sign(page, _sign(Path(path), number)):
            raise UserError(
                f"{page} may be in the way: page {number} of {path} would have that name, and this "
                "is none; name another file, or move it"
            )


def _page_path(path: Path, number: int) -> Path:
    return path if number == 1 else path.with_stem(f"{path.stem}-{number}")


def _later_pages(path: Path, last: int) -> list[tuple[int, Path]]:
    """What is there under the names of the pages after the last one, with their numbers."""
    form = re.compile(re.escape(path.stem) + r"-(\d+)" + re.escape(path.suffix))
    with contextlib.suppress(OSError):  # no such folder yet
        names = os.listdir(path.parent)
        found = {name: form.fullmatch(name) for name in sorted(names)}
        pages = [(int(m[1]), path.with_name(name)) for name, m in found.items() if m]
        return [(number, page) for number, page in pages if number > last]
    return []


def _sign(path: Path, number: int) -> str:
    """What a page's metadata say of it: only such a page of the same sheet may be replaced."""
    return f"page {number} of the contact sheet {path.name!a}"


def _has_sign(path: Path, sign: str) -> bool:
    try:
        with Image.open(path) as image:
            return image.getexif().get(ExifTags.Base.ImageDescription) == sign
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError):
        return False


class _Sheet:
    """All texts of a sheet, set in lines; its rows, shared out among pages; a page's picture."""

    def __init__(self, shown: Sequence[Shown], *, columns: int, tile: int) -> None:
        self.shown, self.columns, self.tile = shown, columns, tile
        self.typesetter = Typesetter()
        self.large, self.small = (
            Lettering(size, self.typesetter) for size in (max(13, tile // 17), max(11, tile // 22))
        )
        self.margin, self.gap = tile // 8, tile // 12
        labels = list(dict.fromkeys(told.label for one in shown for told in one.captions))
        named = [label for label in labels if label]
        numbers = colour_numbers(named)
        self.colours = {label: LABELS[number] for label, number in zip(named, numbers, strict=True)}
        self.names = [self._name(one.name) for one in shown]
        self.texts = [self._captions(one.captions) for one in shown]
        self.images = [_fit(one.image, tile) for one in shown]

    @property
    def width(self) -> int:
        return 2 * self.margin + self.columns * self.tile + (self.columns - 1) * self.gap

    def pages(self, page_height: int) -> Iterator[list[range]]:
        """The rows of each page; a row is the places of its pictures."""
        page: list[range] = []
        height = 0
        for first in range(0, len(self.shown), self.columns):
            row = range(first, min(first + self.columns, len(self.shown)))
            own = self._row_height(row) + self.gap
            if page and height + own > page_height - 2 * self.margin:
                yield page
                page, height = [], 0
            page.append(row)
            height += own
        yield page

    def draw(self, rows: Sequence[range], of: str) -> Image.Image:
        """A page of these rows, and at its foot what the marks mean, and `of`."""
        foot = self._foot([told for row in rows for place in row for told in self.texts[place]])
        height = 2 * self.margin - self.gap + sum(self._row_height(row) + self.gap for row in rows)
        foot_top = height - self.margin + self.gap
        if foot.lines or of:
            height = foot_top + max(1, len(foot.lines)) * self.small.leading + self.margin
        page = Image.new("RGB", (self.width, height), PAPER)
        draw = ImageDraw.Draw(page)
        top = self.margin
        for row in rows:
            for column, place in enumerate(row):
                self._draw_tile(
                    page, draw, (self.margin + column * (self.tile + self.gap), top), place
                )
            top += self._row_height(row) + self.gap
        self._write(draw, (self.margin, foot_top), foot, self.small, FAINT)
        for line in self.small.lines(of, self.width):
            left = self.width - self.margin - self.small.width(line)
            self.small.draw(draw, (left, foot_top), line, self.width, colour=FAINT)
        return page

    def _draw_tile(
        self, page: Image.Image, draw: ImageDraw.ImageDraw, where: tuple[int, int], place: int
    ) -> None:
        left, y = where
        page.paste(self.images[place], where)
        y += self.tile + self.gap // 3
        y = self._write(draw, (left, y), self.names[place], self.small, FAINT)
        for text in self.texts[place]:
            y = self._write(draw, (left, y + self._pause), text, self.large, INK)

    @property
    def _pause(self) -> int:
        """Pixels above a caption."""
        return self.large.leading // 3

    def _write(
        self,
        draw: ImageDraw.ImageDraw,
        where: tuple[int, int],
        text: _Text,
        lettering: Lettering,
        colour: tuple[int, int, int],
    ) -> int:
        """Draws a text beneath a picture; returns where the next may begin."""
        return lettering.write(draw, where, text.lines, self.tile, colour=colour, marks=text.marks)

    def _row_height(self, row: range) -> int:
        return self.tile + self.gap // 3 + max(map(self._text_height, row))

    def _text_height(self, place: int) -> int:
        captions = sum(
            self._pause + len(text.lines) * self.large.leading for text in self.texts[place]
        )
        return len(self.names[place].lines) * self.small.leading + captions

    def _name(self, name: str) -> _Text:
        """A name in one line, without its first folders if need be; a file's name stays whole."""
        parts = name.split("/")
        lines: list[Line] = []
        for first in range(len(parts)):
            shown = "/".join(parts[first:]) if first == 0 else "…/" + "/".join(parts[first:])
            if len(lines := self.small.lines(shown, self.tile)) <= 1:
                break
        return _Text(lines)

    def _captions(self, captions: Sequence[Told]) -> list[_Text]:
        """The captions of a picture, with their labels and marks."""
        differing = differing_words([told.text for told in captions])
        texts = []
        for told, differs in zip(captions, differing, strict=True):
            start = f"{told.label}: " if told.label else ""
            colour = self.colours.get(told.label)
            marks = [Mark(0, len(start) - 1, ink=colour)] if start else []
            tint = faded(colour, 0.16) if colour else GRID
            for text, place, (differs_here, false) in pieces(told.text, differs, told.false):
                if differs_here or false:
                    marks.append(
                        Mark(
                            len(start) + place,
                            len(start) + place + len(text),
                            ink=RED if false else None,
                            ground=tint if differs_here else None,
                            underlined=false,
                        )
                    )
            lines = self.large.lines(start + told.text, self.tile, marks=marks)
            texts.append(_Text(lines, marks))
        return texts

    def _foot(self, texts: Sequence[_Text]) -> _Text:
        """What the marks of these texts mean, each in its own look."""
        every = [mark for text in texts for mark in text.marks]
        text, marks = "", []
        if any(mark.ground for mark in every):
            marks.append(Mark(0, len("tinted"), ground=GRID))
            text = "tinted: words that no other caption of the picture has at that place"
        if any(mark.underlined for mark in every):
            text += "; " * bool(text)
            marks.append(Mark(len(text), len(text) + len("red"), ink=RED, underlined=True))
            text += "red: false of the drawn scene"
        return _Text(self.small.lines(text, self.width * 3 / 4, marks=marks), marks)


def _fit(image: Image.Image, tile: int) -> Image.Image:
    """The whole image, as large as fits, centred on a square of side `tile`."""
    scale = tile / max(image.size)
    width, height = (max(1, round(side * scale)) for side in image.size)
    square = Image.new("RGB", (tile, tile), FRAME)
    resized = image.convert("RGB").resize((width, height), Image.Resampling.BICUBIC)
    square.paste(resized, ((tile - width) // 2, (tile - height) // 2))
    return square
