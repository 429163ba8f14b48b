"""Contact sheets: pictures, names and captions in their places, on as many pages as needed."""

import re

import pytest
from helpers import colours_of
from PIL import Image

from smile.captioning.contact_sheet import Shown, Told, _Sheet, check_sheet, contact_sheet
from smile.captioning.pictures import BLUE, FAINT, GRID, INK, ORANGE, PAPER, RED, faded
from smile.data.shapes import make_scenes
from smile.errors import UserError
from smile.training.report import draw_captions

CRIMSON, GREEN = (255, 0, 0), (0, 255, 0)


def shown(*captions, name="", size=(48, 48), colour=CRIMSON) -> Shown:
    told = [one if isinstance(one, Told) else Told(text=one) for one in captions]
    return Shown(image=Image.new("RGB", size, colour), captions=told, name=name)


def test_each_image_stands_in_its_tile(tmp_path):
    path = tmp_path / "sheet.png"
    contact_sheet([shown("a"), shown("b", size=(300, 200), colour=GREEN)], path, tile=240)
    with Image.open(path) as sheet:
        # Margin 30, gap 20: tiles begin at x = 30 and x = 290.
        assert sheet.width == 30 + 240 + 20 + 240 + 30
        for x, y in ((30, 30), (269, 269)):  # enlarged to the whole tile
            assert sheet.getpixel((x, y)) == CRIMSON
        assert sheet.getpixel((290 + 120, 30 + 120)) == GREEN
        # 300 x 200 keeps its proportions: 240 x 160, so 40 pixels of frame above.
        assert sheet.getpixel((290 + 120, 30 + 38)) != GREEN
        assert sheet.getpixel((290 + 120, 30 + 42)) == GREEN


def test_a_small_image_is_enlarged_without_squares(tmp_path):
    image = Image.new("RGB", (4, 4), "black")
    image.putpixel((1, 1), (255, 255, 255))
    contact_sheet([Shown(image=image, captions=[])], tmp_path / "sheet.png")
    assert len(colours_of(tmp_path / "sheet.png", (30, 30, 270, 270))) > 50


def test_long_captions_make_room_and_stay_under_their_image(tmp_path):
    short, long = tmp_path / "short.png", tmp_path / "long.png"
    contact_sheet([shown("a dog"), shown()], short, tile=240)
    contact_sheet([shown("a dog " * 30 + "x" * 90), shown()], long, tile=240)
    with Image.open(short) as a, Image.open(long) as b:
        assert b.width == a.width
        assert b.height > a.height + 100
        bottom = b.height
    assert INK in colours_of(long, (30, 275, 270, bottom))
    assert colours_of(long, (271, 271, 560, bottom)) == {PAPER}


def test_labels_have_their_own_colours(tmp_path):
    path = tmp_path / "sheet.png"
    mle, smile = Told(text="a dog", label="MLE"), Told(text="a brown dog", label="SMILE")
    contact_sheet([shown("a dog")], path)
    assert BLUE not in colours_of(path)
    contact_sheet([shown(mle, smile)], path)
    assert {BLUE, ORANGE, INK} <= colours_of(path)
    contact_sheet([shown(smile)], path)
    assert BLUE not in colours_of(path) and ORANGE in colours_of(path)


def test_words_that_differ_are_tinted_in_their_label_s_colour(tmp_path):
    path = tmp_path / "sheet.png"
    tints = {faded(BLUE, 0.16), faded(ORANGE, 0.16), GRID}
    same = [Told(text="a dog", label=label) for label in ("MLE", "SMILE")]
    contact_sheet([shown(*same)], path)
    assert not tints & colours_of(path)
    contact_sheet([shown(same[0], Told(text="a brown dog", label="SMILE"))], path)
    assert tints & colours_of(path) == {faded(ORANGE, 0.16), GRID}  # GRID: what a tint means
    contact_sheet([shown("a cat", "a dog")], path)
    assert tints & colours_of(path) == {GRID}


def test_false_words_are_red(tmp_path):
    path = tmp_path / "sheet.png"
    contact_sheet([shown(Told(text="a red star", false=frozenset({2})))], path)
    assert RED in colours_of(path)
    scene = make_scenes("test", 1)[0]
    true, false = (path.with_name(f"{name}.png") for name in ("true", "false"))
    draw_captions(true, [scene], {"": {scene.name: scene.captions[0]}}, skip_broken=False)
    draw_captions(false, [scene], {"": {scene.name: "a cat"}}, skip_broken=False)
    below = (0, 275, 300, 320)
    assert RED in colours_of(false, below) and RED not in colours_of(true, below)


def test_a_scene_is_drawn_at_the_sheet_s_size(tmp_path):
    [scene] = make_scenes("test", 1, image_size=16)
    draw_captions(tmp_path / "a.png", [scene], {"": {scene.name: "a"}}, skip_broken=False)
    with Image.open(tmp_path / "a.png") as sheet:
        assert sheet.crop((30, 30, 270, 270)).tobytes() == scene.read(240).tobytes()


@pytest.mark.parametrize(
    ("name", "line"),
    [
        ("a.jpg", "a.jpg"),
        ("photos/a.jpg", "photos/a.jpg"),
        ("photos/" + "x" * 60 + "/a.jpg", "…/a.jpg"),
        ("/data/" + "x" * 60 + "/b/a.jpg", "…/b/a.jpg"),
    ],
)
def test_a_name_is_one_line(name, line):
    sheet = _Sheet([shown(name=name)], columns=1, tile=240)
    [found] = sheet.names[0].lines
    assert "".join(run.text for run in found.runs) == line


def test_a_name_stands_below_its_image_and_a_file_s_name_is_never_cut(tmp_path):
    contact_sheet([shown(name="a.jpg"), shown()], tmp_path / "sheet.png")
    assert FAINT in colours_of(tmp_path / "sheet.png", (30, 270, 270, 300))
    assert FAINT not in colours_of(tmp_path / "sheet.png", (290, 270, 530, 300))
    name = "folder/" + "x" * 200 + ".jpg"
    lines = _Sheet([shown(name=name)], columns=1, tile=240).names[0].lines
    assert len(lines) > 2
    assert "…/" + name[7:] == "".join(run.text for line in lines for run in line.runs)


def test_rows_are_filled_from_the_left(tmp_path):
    path = tmp_path / "sheet.png"
    contact_sheet([shown("x", size=(9, 9), colour=(0, 0, 0))] * 5, path, columns=4, tile=64)
    with Image.open(path) as sheet:
        assert sheet.width == 2 * 8 + 4 * 64 + 3 * 5
        assert sheet.getpixel((8 + 32, sheet.height - 8 - 40)) == (0, 0, 0)
        assert sheet.getpixel((8 + 69 + 32, sheet.height - 8 - 40)) == PAPER


def test_a_sheet_has_pages_and_leaves_none_of_a_longer_one(tmp_path):
    path = tmp_path / "sheet.png"
    names = ["sheet.png", "sheet-2.png", "sheet-3.png"]
    options = {"columns": 2, "tile": 64, "page_height": 250}
    assert contact_sheet([shown("x")] * 9, path, **options) == [tmp_path / name for name in names]
    heights = [Image.open(tmp_path / name).height for name in names]
    assert heights[0] == heights[1] <= 250 and heights[2] < heights[0]  # 2 rows, 2 rows, 1 row
    Image.new("RGB", (9, 9)).save(tmp_path / "sheet-4.png")  # somebody's
    contact_sheet([shown("x")], tmp_path / "sheet-5.png")  # another sheet, of one page
    assert contact_sheet([shown("x")] * 3, path, **options) == [path]
    left = sorted(file.name for file in tmp_path.iterdir())
    assert left == ["sheet-4.png", "sheet-5.png", "sheet.png"]


def test_a_row_higher_than_a_page_has_one_of_its_own(tmp_path):
    pages = contact_sheet([shown("x")] * 2, tmp_path / "a.jpg", columns=1, page_height=10)
    assert [page.name for page in pages] == ["a.jpg", "a-2.jpg"]


@pytest.mark.parametrize("suffix", [".png", ".jpg", ".webp"])
def test_pages_replace_pages_and_nothing_else(tmp_path, suffix):
    path = tmp_path / f"a{suffix}"
    contact_sheet([shown("x")] * 3, path, columns=1, tile=64, page_height=10)
    check_sheet(path, 40)
    other = tmp_path / f"a-7{suffix}"
    other.write_bytes(b"no picture")
    with pytest.raises(UserError, match=re.escape(str(other)) + " may be in the way"):
        check_sheet(path, 40)
    Image.new("RGB", (9, 9)).save(other)
    with pytest.raises(UserError, match="name another file, or move it"):
        check_sheet(path, 40)
    check_sheet(path, 24)  # never 7 pages
    check_sheet(tmp_path / "new" / f"a{suffix}", 40)


def test_no_pictures_make_no_sheet(tmp_path):
    with pytest.raises(ValueError, match="no pictures"):
        contact_sheet([], tmp_path / "sheet.png")
