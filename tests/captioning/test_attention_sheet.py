"""The attention picture: light where the weight is, one scale, sane for any image."""

import pytest
from helpers import colours_of
from PIL import Image

from smile.captioning.attention_sheet import (
    LONGEST,
    TILE,
    WIDTH,
    _Sheet,
    attention_sheet,
    full_light,
    heated,
    panel_size,
)

COLOUR = (200, 120, 240)
NOWHERE, LEFT = [[0.0, 0.0], [0.0, 0.0]], [[0.5, 0.0], [0.5, 0.0]]


def hues(image: Image.Image) -> set[int]:
    return {colour[0] for colour in image.convert("HSV").get_flattened_data()}


def text(lines) -> str:
    return "".join(run.text for line in lines for run in line.runs)


def test_light_falls_where_the_weight_is_and_changes_no_colour():
    photo = Image.new("RGB", (200, 200), COLOUR)
    lit = heated(photo, LEFT, 0.5)
    assert lit.getpixel((10, 100)) == COLOUR
    assert max(lit.getpixel((190, 100))) < 50
    [hue] = hues(photo)
    assert all(abs(found - hue) <= 4 for found in hues(lit))


def test_all_panels_have_one_scale():
    photo = Image.new("RGB", (40, 40), COLOUR)
    even = [[0.25, 0.25], [0.25, 0.25]]
    assert full_light([LEFT, even]) == 0.5
    dim = heated(photo, even, 0.5).getpixel((5, 20))
    assert max(dim) < 0.7 * max(heated(photo, LEFT, 0.5).getpixel((5, 20)))


def test_a_dark_photo_is_seen_where_it_is_lit():
    photo = Image.new("RGB", (40, 40), (10, 20, 40))
    lit = heated(photo, LEFT, 0.5)
    assert lit.getpixel((5, 20))[2] > 90 > 20 > lit.getpixel((35, 20))[2]


@pytest.mark.parametrize(
    "size", [(1, 1), (4000, 3), (200, 1200), (3, 4000), (640, 480), (50_000, 1)]
)
def test_a_panel_is_neither_a_line_nor_a_tower(size, tmp_path):
    width, height = panel_size(*size)
    assert width * height == pytest.approx(TILE * TILE, rel=0.02)
    assert max(width, height) <= 1.02 * LONGEST * min(width, height)
    if LONGEST * min(size) >= max(size):
        assert width / height == pytest.approx(size[0] / size[1], rel=0.02)
    attention_sheet(Image.new("RGB", size), "a", [("a", -1.0, LEFT)] * 8, tmp_path / "a.png")
    with Image.open(tmp_path / "a.png") as sheet:
        assert sheet.width <= WIDTH and sheet.height <= 1000


def test_the_caption_and_what_light_means_are_on_it(tmp_path):
    sheet = _Sheet(Image.new("RGB", (9, 9)), "a cat sat", [("a", -0.5, LEFT), ("cat", 0.0, LEFT)])
    assert text(sheet.caption) == "a cat sat"
    assert "Light: 2.0 times an even share of it" in text(sheet.legend)
    assert "Percent: how likely" in text(sheet.legend)
    assert "longer than it is drawn" not in text(sheet.legend)
    long = _Sheet(Image.new("RGB", (40, 9)), "a", [("a", -0.5, LEFT)])
    assert "of 40 x 9 pixels, is longer than it is drawn" in text(long.legend)
    assert [text(panel.probability) for panel in sheet.panels] == ["", "61%", "100%"]


def test_a_caption_without_words_is_a_picture_of_the_image(tmp_path):
    attention_sheet(Image.new("RGB", (9, 9), COLOUR), "", [], tmp_path / "a.png")
    assert COLOUR in colours_of(tmp_path / "a.png")
