"""What visitors bring: pictures within limits; of the rest a line says what is wrong."""

import io
import zlib

import pytest
from PIL import Image

from smile.errors import UserError
from smile.page import uploads
from smile.page.uploads import (
    MB,
    PREVIEW_SIDE,
    TooMany,
    check_room,
    drawn_examples,
    left_out,
    photo_examples,
    read_upload,
)
from tests.test_imports import ROOT


def file_of(image: Image.Image, form: str = "PNG", **options) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, form, **options)
    return buffer.getvalue()


def photo(width=12, height=8, form="PNG", **options) -> bytes:
    return file_of(Image.new("RGB", (width, height), "red"), form, **options)


def huge_png(width: int, height: int) -> bytes:
    """A PNG whose header claims so many pixels."""
    data = bytearray(photo())
    data[16:24] = width.to_bytes(4) + height.to_bytes(4)
    data[29:33] = zlib.crc32(data[12:29]).to_bytes(4)
    return bytes(data)


@pytest.mark.parametrize(
    ("name", "data", "said"),
    [
        ("cut.jpg", photo(400, 400, "JPEG")[:500], "cut.jpg: cannot read this image: "),
        ("huge.png", huge_png(20_000, 10_000), "too many pixels; at most 75 million are read"),
        ("large.png", huge_png(10_000, 10_000), "10000 x 10000 pixels may be"),
        ("notes.jpg", b"Dear diary", "notes.jpg: cannot read this image: not an image file"),
        ("empty.png", b"", "empty.png: cannot read this image: the file is empty"),
        ("large.bmp", bytes(26 * MB), "large.bmp: 26 MB, expected at most 25 MB"),
        ("\x1b[2J.png", b"", r"\x1b[2J.png: cannot read this image: the file is empty"),
    ],
)
def test_what_is_no_picture_is_named_with_the_reason(name, data, said):
    with pytest.raises(UserError) as caught:
        read_upload(0, name, data)
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_preview_is_small_and_upright():
    exif = Image.Exif()
    exif[0x0112] = 6  # turned by a quarter
    picture = read_upload(3, "a.jpg", photo(3000, 1000, "JPEG", exif=exif))
    with Image.open(io.BytesIO(picture.preview)) as preview:
        assert preview.size == (PREVIEW_SIDE // 3, PREVIEW_SIDE)
    assert (picture.number, picture.name, picture.note) == (3, "a.jpg", "")


@pytest.mark.parametrize("form", ["GIF", "WEBP", "PNG"])
def test_of_an_animation_the_first_picture_counts(form):
    frames = [Image.new("RGB", (8, 8), colour) for colour in ("red", "blue")]
    data = file_of(frames[0], form, save_all=True, append_images=frames[1:])
    picture = read_upload(0, "moving", data)
    assert picture.note == "an animation: only its first picture counts"
    with Image.open(io.BytesIO(picture.preview)) as preview:
        red, _, blue = preview.getpixel((4, 4))
    assert red > 200 > 50 > blue
    assert not read_upload(0, "still", photo(form=form)).note


def test_the_list_has_room_for_so_many_and_no_more(monkeypatch):
    monkeypatch.setattr(uploads, "MOST_PICTURES", 2)
    monkeypatch.setattr(uploads, "MOST_TOTAL_MB", 1)
    one = read_upload(0, "a.png", photo())
    check_room([one], 900_000)
    with pytest.raises(TooMany, match="1 MB of pictures at most"):
        check_room([one], 1_000_000)
    with pytest.raises(TooMany, match="holds 2 pictures at most") as caught:
        check_room([one, one], 1)
    line = left_out(["a", "b\n", "c", "d"], caught.value)
    assert line == "4 files left out, since the list holds 2 pictures at most: a, b\\n, c, …"


def test_every_example_is_a_picture_that_says_what_it_shows():
    examples = [*photo_examples(ROOT / "docs" / "photos"), *drawn_examples()]
    assert len(examples) == 8
    for example in examples:
        assert not read_upload(0, example.name, example.data).note
        assert example.title and example.shows
    assert not list(photo_examples(ROOT / "nowhere"))
