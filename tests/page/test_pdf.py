"""The photo book as a PDF, read by another library: its text, order, pages and pictures."""

import io
import re

import pypdf
import pytest
from helpers import image_bytes
from PIL import Image, ImageCms

from smile.captioning.fonts import Fonts
from smile.errors import UserError
from smile.page import pdf
from smile.page.book import Book
from smile.page.pdf import _is_shaped, bind, print_picture

SCRIPTS = {
    "Latin": "Zoë naïvely ate crème brûlée",
    "Greek": "μια γάτα κοιμάται στον ήλιο",
    "Cyrillic": "рыжая кошка спит на траве",
    "Hebrew": "חתול יושב על הדשא",
    "Arabic": "قطة تجلس على العشب الأخضر",
}


def pages_of(book: Book) -> list[pypdf.PageObject]:
    return list(pypdf.PdfReader(io.BytesIO(bind(book, fonts=Fonts([])).pdf)).pages)


def book_of(*captions: str, **options) -> Book:
    book = Book(**options)
    for caption in captions:
        book.add(image_bytes(), caption)
    return book


@pytest.mark.slow
def test_every_page_has_its_picture_its_caption_and_its_number():
    pages = pages_of(book_of(*SCRIPTS.values(), title="Été", author="Юлия"))
    assert pages[0].extract_text() == "Été\nЮлия"
    assert len(pages) == 1 + len(SCRIPTS)
    for number, (page, caption) in enumerate(zip(pages[1:], SCRIPTS.values(), strict=True), 2):
        assert page.extract_text() == f"{caption}\n{number}"
        assert len(page.images) == 1
        assert (page.mediabox.width, page.mediabox.height) == pytest.approx((595, 842), abs=1)


def test_the_order_and_the_edits_are_the_book_s():
    book = book_of("one", "two", "three", per_page=2)
    first, second, _ = book
    book.move(first.number, 2)
    book.edit(second.number, "deux")
    assert [page.extract_text() for page in pages_of(book)] == ["deux\nthree\n1", "one\n2"]


def test_what_is_no_word_is_written_as_it_is():
    captions = ["{nb} **a** __b__ [c](d)", "{nb} חתול {nb}", r"(\) <b>&amp;</b> $x$", "", "  "]
    texts = [page.extract_text() for page in pages_of(book_of(*captions))]
    assert texts[0] == "{nb} **a** __b__ [c](d)\n1"
    assert texts[1].count("{nb}") == 2
    assert texts[2:] == ["(\\) <b>&amp;</b> $x$\n3", "4", "5"]


def test_letters_with_marks_are_shaped():
    assert _is_shaped("कि") and _is_shaped("q\u0301") and _is_shaped("ที่")
    assert not _is_shaped("Zoë 狗 кошка")


def test_half_a_pair_of_characters_is_shown_by_its_number():
    book = book_of("a \ud800")
    book.title = "\ud800"
    assert bind(book, fonts=Fonts([])).warning.startswith("no font here has U+D800")


@pytest.mark.slow
def test_a_long_caption_goes_on_overleaf():
    words = [f"word{number}" for number in range(2000)]
    pages = pages_of(book_of("a", " ".join(words), "b", per_page=2))
    texts = [page.extract_text() for page in pages]
    assert re.findall(r"word\d+", "\n".join(texts[1:-1])) == words
    assert (texts[0], texts[-1]) == ("a\n1", f"b\n{len(pages)}")
    assert [len(page.images) for page in pages] == [1, 1, *([0] * (len(pages) - 3)), 1]


@pytest.mark.slow
@pytest.mark.parametrize("title", ["W" * 200, "\U0002a6d6" * 200])  # no font has the second
def test_text_and_pictures_stay_inside_the_margins(title):
    places = []

    def visit(text, cm, tm, font, size):
        if text.strip():
            places.append((tm[4], tm[5], text))

    book = book_of("x" * 500, "donaudampfschifffahrt " * 30, "שלום " * 90, "a\u200d" * 99)
    book.per_page = 2
    book.title = book.author = title
    pdf = bind(book, fonts=Fonts([])).pdf
    for page in pypdf.PdfReader(io.BytesIO(pdf)).pages:
        page.extract_text(visitor_text=visit)
    assert len(places) > 20
    [number] = [x for x, _, text in places if text.strip() == "2"]
    assert number == pytest.approx(595 / 2, abs=4)  # in the middle
    for x, y, _ in places:
        assert 60 < x < 595 - 60 and 36 < y < 842 - 60


@pytest.mark.slow
def test_a_character_that_no_font_has_is_shown_by_number_and_said():
    book = book_of("a 狗 runs", "狗")
    bound = bind(book, fonts=Fonts([]))
    [first, second] = pypdf.PdfReader(io.BytesIO(bound.pdf)).pages
    assert first.extract_text() == "a U+72D7 runs\n1"
    assert second.extract_text() == "U+72D7\n2"
    assert bound.warning == (
        "no font here has U+72D7, so the number stands in the text; a font that has it can be "
        "installed, such as one of Noto's"
    )
    assert bind(book_of("a"), fonts=Fonts([])).warning == ""


def test_pictures_stand_upright_and_bare():
    exif = Image.Exif()
    exif[0x0112] = 6  # turned
    exif[0x010E] = "where I live"
    book = Book()
    picture = Image.new("RGB", (40, 20), "blue")
    picture.paste("red", (0, 0, 20, 20))
    buffer = io.BytesIO()
    picture.save(buffer, "JPEG", exif=exif)
    book.add(buffer.getvalue(), "")
    [[found]] = [page.images for page in pages_of(book)]
    assert b"where I live" not in found.data
    width, height = found.image.size
    assert height == 2 * width
    top, bottom = (found.image.getpixel((width // 2, y)) for y in (height // 4, height * 3 // 4))
    assert top[0] > 200 > 50 > top[2] and bottom[2] > 200 > 50 > bottom[0]


@pytest.mark.slow
def test_pictures_are_compressed_to_what_a_printer_needs():
    rows = Image.linear_gradient("L").resize((2600, 400))
    buffer = io.BytesIO()
    Image.merge("RGB", (rows, rows.rotate(180), rows)).save(buffer, "PNG", compress_level=1)
    for per_page, longest in ((1, 2000), (2, 1400)):
        book = Book(per_page=per_page)
        book.add(buffer.getvalue(), "a")
        [page] = pages_of(book)
        [found] = page.images
        assert max(found.image.size) == longest and found.image.format == "JPEG"
        assert len(found.data) < 60_000


def test_a_colour_profile_is_kept_if_it_is_of_rgb():
    srgb = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    lab = ImageCms.ImageCmsProfile(ImageCms.createProfile("LAB")).tobytes()
    for profile, kept in ((srgb, True), (lab, False)):
        entry = Book().add(image_bytes(size=(700, 9), form="JPEG", icc_profile=profile), "a")
        data, size = print_picture(entry, 2000)
        assert size == (700, 9)
        assert ("icc_profile" in Image.open(io.BytesIO(data)).info) is kept


def test_a_picture_of_any_shape_fits():
    book = Book()
    for size in ((1, 1), (3000, 2), (2, 3000)):
        book.add(image_bytes(size=size), "a")
    assert len(pages_of(book)) == 3


def test_progress_is_told():
    told = []
    bind(book_of("a", "b"), fonts=Fonts([]), progress=lambda *numbers: told.append(numbers))
    assert told == [(1, 2), (2, 2)]


@pytest.mark.parametrize(("module", "package"), [("fpdf", "fpdf2"), ("uharfbuzz", "uharfbuzz")])
def test_a_missing_package_is_one_line(monkeypatch, module, package):
    monkeypatch.setattr(pdf, "find_spec", lambda name: None if name == module else name)
    expected = f"the book needs {package}: pip install -r requirements-page.txt"
    with pytest.raises(UserError, match=f"^{expected}$"):
        bind(book_of("a"))


def test_an_empty_book_is_refused():
    with pytest.raises(UserError, match="the book is empty: add a picture first"):
        bind(Book(title="Nothing"))
