"""The book as a PDF of A4 pages: a title page, then one or two pictures on each.

fpdf2 writes the file. Fonts, line breaks and the order of letters are those of `typeset.py`, as on
a contact sheet.
"""

import io
import unicodedata
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.util import find_spec

from PIL import Image

from smile.captioning.fonts import Face, Fonts
from smile.captioning.pictures import FAINT, GRID, INK, Colour, enlarged
from smile.captioning.typeset import Line, Typesetter
from smile.errors import UserError
from smile.model.images import read_image
from smile.page.book import Book, Entry

NEEDED = {"fpdf": "fpdf2", "uharfbuzz": "uharfbuzz"}  # by the names they are imported by

# Millimetres.
PAGE_WIDTH, PAGE_HEIGHT = 210.0, 297.0
MARGIN = 22.0
GAP = 12.0  # between two pictures of a page
UNDER_PICTURE = 5.0
NUMBER_FROM_BOTTOM = 17.0
WIDTH = PAGE_WIDTH - 2 * MARGIN
HEIGHT = PAGE_HEIGHT - 2 * MARGIN - 4.0  # of a page's contents: the page number is below
LEAST_PICTURE = 0.5  # of a place's height: a longer caption goes on overleaf
ABOVE_CENTRE = 0.45  # where a place's contents stand: the middle looks too low

# Points, of 25.4 / 72 mm.
TITLE, AUTHOR, CAPTION, NUMBER = 30.0, 15.0, 12.0, 9.0
SCALES = (1.0, 0.8, 0.6, 0.45, 0.3, 0.2)  # of a title page: the first at which all of it fits
POINT = 25.4 / 72
LEADING = 1.5  # from line to line, as a multiple of the letters' size: Thai and Hindi need it

# Pictures: enough for 300 dots per inch, not shown so large that single pixels are seen.
MOST_PIXELS = {1: 2000, 2: 1400}  # on the longer side, by pictures a page
QUALITY = 85  # of the JPEG
COARSEST = POINT  # mm a pixel, 72 to the inch
SMALLEST = 90.0  # mm: tiny pictures are enlarged to that,
SMOOTH = 600  # smoothly, to about so many pixels
MOST_CENTRED = 4  # lines of a caption; a longer one is read more easily from a straight edge


@dataclass(frozen=True)
class Bound:
    """A book as a PDF.

    pdf: the file's bytes.
    warning: a line about characters that no font here has; "" if there are none.
    """

    pdf: bytes
    warning: str


def bind(
    book: Book,
    *,
    fonts: Fonts | None = None,
    progress: Callable[[int, int], object] | None = None,
) -> Bound:
    """The book as a PDF.

    Args:
        fonts: the system's unless given.
        progress: called as `progress(done, total)` after each picture.

    Raises:
        UserError: the book is empty or its title too long, a picture or a font cannot be read, or
            a package is missing.
    """
    book.check()
    for module, package in NEEDED.items():
        if find_spec(module) is None:
            raise UserError(f"the book needs {package}: pip install -r requirements-page.txt")
    sheets = _Pages(book, Typesetter(fonts))
    if book.title.strip() or book.author.strip():
        sheets.title_page()
    for done, entry in enumerate(book, start=1):
        sheets.add(entry)
        if progress is not None:
            progress(done, len(book))
    return Bound(sheets.bytes(), sheets.typesetter.warning())


def print_picture(entry: Entry, longest: int) -> tuple[bytes, tuple[int, int]]:
    """A picture as a JPEG to print, upright and without its metadata, and its size in pixels.

    The colour profile is kept, which tells what the numbers mean.
    """
    image = read_image(entry.picture, entry.name or f"picture {entry.number}", longest=longest)
    size = image.size
    profile = image.info.get("icc_profile") or b""
    image = enlarged(image, SMOOTH, Image.Resampling.BICUBIC)
    buffer = io.BytesIO()
    of_rgb = profile if profile[16:20] == b"RGB " else None
    image.save(buffer, "JPEG", quality=QUALITY, optimize=True, icc_profile=of_rgb)
    return buffer.getvalue(), size


class _Pages:
    """The PDF as it grows."""

    def __init__(self, book: Book, typesetter: Typesetter) -> None:
        from fpdf import FPDF

        self.book, self.typesetter = book, typesetter
        self.pdf = FPDF(format="A4")
        self.pdf.set_auto_page_break(False)
        self.pdf.c_margin = 0
        self.pdf.alias_nb_pages("")  # or "{nb}" in a caption would become a number
        self.pdf.set_title(_whole(book.title))
        self.pdf.set_author(_whole(book.author))
        self.pdf.set_line_width(0.2)
        self.pdf.set_draw_color(*GRID)
        self.families: dict[Face, str] = {}
        self.widths: dict[tuple[str, Face, bool, float], float] = {}
        self.place = 0  # on the page, of the next picture; 0 begins a new page
        self.numbered = False

    def bytes(self) -> bytes:
        """The finished file."""
        self._end_page()
        return bytes(self.pdf.output())

    # Pages ------------------------------------------------------------------------------------

    def title_page(self) -> None:
        self.pdf.add_page()
        for scale in SCALES:
            size, smaller = scale * TITLE, scale * AUTHOR
            title = self._lines(self.book.title, size)
            author = self._lines(self.book.author, smaller)
            above = len(title) * _leading(size)
            height = above + (len(author) + 0.5) * _leading(smaller)
            if height <= HEIGHT:
                break
        y = min(max(MARGIN, PAGE_HEIGHT * 0.4 - above), PAGE_HEIGHT - MARGIN - height)
        y = self._write(title, y, size)
        self._write(author, y + _leading(smaller) / 2, smaller, colour=FAINT)

    def add(self, entry: Entry) -> None:
        """A picture and its caption in the next place, or on pages of its own."""
        lines = self._lines(entry.caption, CAPTION)
        places = self.book.per_page
        height = (HEIGHT - GAP * (places - 1)) / places
        if _capacity(height * (1 - LEAST_PICTURE) - UNDER_PICTURE) < len(lines):
            places, height, self.place = 1, HEIGHT, 0
        if self.place == 0:
            self._new_page()
        here = _capacity(height * (1 - LEAST_PICTURE) - UNDER_PICTURE)
        top = MARGIN + self.place * (height + GAP)
        self._picture(entry, lines[:here], top, height, centred=len(lines) <= MOST_CENTRED)
        self.place = (self.place + 1) % places
        per_page = _capacity(HEIGHT)
        for first in range(here, len(lines), per_page):
            self._new_page()
            self._write(lines[first : first + per_page], MARGIN, CAPTION, centred=False)

    def _new_page(self) -> None:
        self._end_page()
        self.pdf.add_page()
        self.numbered = True

    def _end_page(self) -> None:
        """Writes the page's number last, as it is read; the title page has none."""
        if self.numbered:
            y = PAGE_HEIGHT - NUMBER_FROM_BOTTOM
            self._write(self._lines(str(self.pdf.page_no()), NUMBER), y, NUMBER, colour=FAINT)

    def _picture(
        self, entry: Entry, lines: Sequence[Line], top: float, height: float, *, centred: bool
    ) -> None:
        """A picture in a place of this height, with as much of its caption as stands there."""
        data, (width_px, height_px) = print_picture(entry, MOST_PIXELS[self.book.per_page])
        text = UNDER_PICTURE + len(lines) * _leading(CAPTION) if lines else 0.0
        fits = min(WIDTH / width_px, (height - text) / height_px)
        scale = min(fits, max(COARSEST, SMALLEST / max(width_px, height_px)))
        width, tall = width_px * scale, height_px * scale
        y = top + (height - tall - text) * ABOVE_CENTRE
        x = (PAGE_WIDTH - width) / 2
        self.pdf.image(io.BytesIO(data), x, y, width, tall, alt_text=_whole(entry.caption) or None)
        self.pdf.rect(x, y, width, tall)  # or one with a white edge would seem to float
        self._write(lines, y + tall + UNDER_PICTURE, CAPTION, centred=centred)

    # Text -------------------------------------------------------------------------------------

    def _lines(self, text: str, size: float) -> list[Line]:
        return self.typesetter.lines(
            text, WIDTH, lambda text, face, rtl: self._measure(text, face, rtl, size)
        )

    def _measure(self, text: str, face: Face, rtl: bool, size: float) -> float:
        key = text, face, rtl, size
        if key not in self.widths:
            self._choose(text, face, rtl, size)
            self.widths[key] = self.pdf.get_string_width(text)
        return self.widths[key]

    def _write(
        self,
        lines: Sequence[Line],
        y: float,
        size: float,
        *,
        colour: Colour = INK,
        centred: bool = True,
    ) -> float:
        """Writes lines, the first at `y`, and returns where the next one would go.

        They stand in the middle of the page, or begin at its edge: the right one if they are read
        from right to left.
        """
        self.pdf.set_text_color(*colour)
        for line in lines:
            widths = [self._measure(run.text, run.face, run.rtl, size) for run in line.runs]
            free = WIDTH - sum(widths)
            x = MARGIN + (free / 2 if centred else free if line.rtl else 0)
            for run, width in zip(line.runs, widths, strict=True):
                self._choose(run.text, run.face, run.rtl, size)
                self.pdf.set_xy(x, y)
                self.pdf.cell(width, _leading(size), run.text, align="L")
                x += width
            y += _leading(size)
        return y

    def _choose(self, text: str, face: Face, rtl: bool, size: float) -> None:
        family = self.families.get(face)
        if family is None:
            family = self.families[face] = f"face{len(self.families)}"
            try:
                self.pdf.add_font(family, fname=face.path, collection_font_number=face.index)
            except Exception as error:  # the libraries' errors on a font that is damaged
                raise UserError(f"{face.path}: this font cannot be read: {error}") from error
        self.pdf.set_font(family, size=size)
        self.pdf.set_text_shaping(rtl or _is_shaped(text), direction="rtl" if rtl else "ltr")


def _whole(text: str) -> str:
    """A text for the PDF's own fields, without halves of surrogate pairs, which it cannot hold."""
    return text.encode("utf-8", "replace").decode("utf-8")


def _is_shaped(text: str) -> bool:
    """Whether letters change with their neighbours: there are marks or joiners among them.

    Arabic's do too, which runs from right to left. For the others fpdf2 without shaping writes a
    tenth of the bytes: with it, it places every letter by itself.
    """
    return any(unicodedata.category(char) in ("Mn", "Mc", "Me", "Cf") for char in text)


def _leading(size: float) -> float:
    """From one line to the next, in mm."""
    return size * POINT * LEADING


def _capacity(height: float) -> int:
    """How many lines of a caption a height has room for."""
    return int(height / _leading(CAPTION))
