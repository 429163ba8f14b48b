"""Pictures: everything asked for is on them, and they are written whole or not at all."""

import os
from pathlib import Path

import matplotlib
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from PIL import Image

from smile import evaluation
from smile.captioning.pictures import (
    BLUE,
    GRID,
    INK,
    LABELS,
    ORANGE,
    PAPER,
    _save,
    check_picture,
    colour_numbers,
    contact_sheet,
    light,
    loss_curve,
)
from smile.errors import UserError

RED, GREEN = (255, 0, 0), (0, 255, 0)


def colours(path, box=None) -> set[tuple[int, int, int]]:
    with Image.open(path) as image:
        return set(image.convert("RGB").crop(box).get_flattened_data())


def record(epoch, train_loss, val_loss, objective="mle") -> dict:
    return {
        "epoch": epoch,
        "objective": objective,
        "train_loss": train_loss,
        "val_loss": val_loss,
    }


def test_each_image_stands_in_its_tile(tmp_path):
    path = tmp_path / "sheet.png"
    images = [Image.new("RGB", (48, 48), RED), Image.new("RGB", (300, 200), GREEN)]
    contact_sheet(images, [["a"], ["b"]], path, columns=2, tile=240)
    with Image.open(path) as sheet:
        # Margin 30, gap 20: tiles begin at x = 30 and x = 290.
        assert sheet.width == 30 + 240 + 20 + 240 + 30
        for x, y in ((30, 30), (269, 269)):  # enlarged to the whole tile
            assert sheet.getpixel((x, y)) == RED
        assert sheet.getpixel((290 + 120, 30 + 120)) == GREEN
        # 300 x 200 keeps its proportions: 240 x 160, so 40 pixels of frame above.
        assert sheet.getpixel((290 + 120, 30 + 38)) != GREEN
        assert sheet.getpixel((290 + 120, 30 + 42)) == GREEN


def test_long_captions_make_room_and_stay_under_their_image(tmp_path):
    short, long = tmp_path / "short.png", tmp_path / "long.png"
    images = [Image.new("RGB", (48, 48), RED)] * 2
    contact_sheet(images, [["a dog"], []], short, columns=2, tile=240)
    contact_sheet(images, [["a dog " * 30 + "x" * 90], []], long, columns=2, tile=240)
    with Image.open(short) as a, Image.open(long) as b:
        assert b.width == a.width
        assert b.height > a.height + 100
        bottom = b.height
    assert INK in colours(long, (30, 275, 270, bottom))
    assert colours(long, (271, 271, 560, bottom)) == {PAPER}


def test_labels_have_their_own_colours(tmp_path):
    path = tmp_path / "sheet.png"
    image = Image.new("RGB", (48, 48), RED)
    contact_sheet([image], [["a dog"]], path)
    assert BLUE not in colours(path)
    contact_sheet([image], [["MLE: a dog", "SMILE: a brown dog on grass"]], path)
    assert {BLUE, ORANGE, INK} <= colours(path)
    contact_sheet([image], [["SMILE: a brown dog on grass"]], path)
    assert BLUE not in colours(path) and ORANGE in colours(path)


@pytest.mark.parametrize(
    ("labels", "numbers"),
    [
        (["MLE", "SMILE"], [0, 1]),
        (["SMILE", "MLE"], [1, 0]),
        (["before", "SMILE"], [2, 1]),
        (["runs/shapes/mle", "shapes"], [0, 1]),
        (["shapes", "mle/"], [1, 0]),
        (["a", "b", "c", "d", "e"], [0, 1, 2, 3, 0]),
        (["before", "mle", "smile", "x", "y"], [2, 0, 1, 3, 3]),
    ],
)
def test_mle_and_smile_keep_their_colours(labels, numbers):
    assert colour_numbers(labels) == numbers


def test_the_report_has_the_pictures_colours():
    page = Path(evaluation.__file__).with_name("report.html").read_text("utf-8")
    for number, colour in enumerate(LABELS):
        assert f"--c{number}: light-dark(#{bytes(colour).hex()}, " in page


def test_rows_are_filled_from_the_left(tmp_path):
    path = tmp_path / "sheet.png"
    contact_sheet([Image.new("L", (9, 9))] * 5, [["x"]] * 5, path, columns=4, tile=64)
    with Image.open(path) as sheet:
        assert sheet.width == 2 * 8 + 4 * 64 + 3 * 5
        assert sheet.getpixel((8 + 32, sheet.height - 8 - 40)) == (0, 0, 0)
        assert sheet.getpixel((8 + 69 + 32, sheet.height - 8 - 40)) == PAPER


def test_captions_must_match_images(tmp_path):
    with pytest.raises(ValueError, match="1 images and 0 lists"):
        contact_sheet([Image.new("RGB", (4, 4))], [], tmp_path / "sheet.png")


# The plot spans x 77 to 931; one epoch or the border between two stands in its middle, at 504.
LEFT, MIDDLE, RIGHT = (80, 70, 498, 470), (500, 70, 509, 470), (510, 70, 928, 470)


def test_one_epoch_is_two_dots_in_the_middle(tmp_path):
    path = tmp_path / "loss.png"
    loss_curve([record(3, 1.0, 4.0)], path)
    with Image.open(path) as chart:
        assert chart.size == (960, 540)
    assert {BLUE, light(BLUE)} <= colours(path, MIDDLE)
    assert not {BLUE, light(BLUE)} & (colours(path, LEFT) | colours(path, RIGHT))


@pytest.mark.slow
def test_the_switch_of_objective_is_marked_and_breaks_the_curves(tmp_path):
    path = tmp_path / "loss.png"
    curves = {BLUE, ORANGE, light(BLUE), light(ORANGE)}
    steady = [record(e, 4.0 / e, 4.2 / e) for e in (1, 2)]
    loss_curve(steady, path)
    assert curves & colours(path, MIDDLE) == {BLUE, light(BLUE)}
    loss_curve([steady[0], {**steady[1], "objective": "smile"}], path)
    assert not curves & colours(path, MIDDLE)
    assert any(max(colour) < min(GRID) for colour in colours(path, MIDDLE))  # the dashes
    assert curves & colours(path, LEFT) == {BLUE, light(BLUE)}
    assert curves & colours(path, RIGHT) == {ORANGE, light(ORANGE)}


@pytest.mark.parametrize("missing", [None, float("nan"), float("inf")])
def test_a_loss_that_is_no_number_leaves_a_gap(tmp_path, missing):
    path = tmp_path / "loss.png"
    plot = (80, 70, 928, 470)
    loss_curve([record(1, 2.0, missing), record(2, 1.0, missing)], path)
    assert light(BLUE) in colours(path, plot)
    assert BLUE not in colours(path, plot)


def test_a_chart_heeds_no_settings_of_the_users(tmp_path, monkeypatch):
    loss_curve([record(1, 1.0, 2.0)], tmp_path / "a.png")
    monkeypatch.setitem(matplotlib.rcParams, "figure.facecolor", "black")
    loss_curve([record(1, 1.0, 2.0)], tmp_path / "b.png")
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()


def test_a_picture_is_replaced_whole_or_left_alone(tmp_path, monkeypatch):
    path = tmp_path / "loss.png"
    loss_curve([record(1, 1.0, 1.0)], path)
    before = path.read_bytes()

    def fail_halfway(self, where):
        where.write_bytes(b"half a picture")
        raise OSError("disk full")

    monkeypatch.setattr(FigureCanvasAgg, "print_png", fail_halfway)
    with pytest.raises(UserError, match=r"loss\.png: cannot write: disk full"):
        loss_curve([record(1, 2.0, 3.0)], path)
    assert path.read_bytes() == before
    assert [file.name for file in tmp_path.iterdir()] == ["loss.png"]


def test_a_picture_follows_no_link_that_somebody_has_planted(tmp_path):
    victim = tmp_path / "victim"
    victim.write_text("precious")
    (tmp_path / ".unfinished-loss.png").symlink_to(victim)
    loss_curve([record(1, 1.0, 1.0)], tmp_path / "loss.png")
    assert victim.read_text() == "precious"


@pytest.mark.parametrize("name", ["a.xyz", "a", "a.pdf", "a.gif", "folder.png", "pipe.png"])
def test_a_picture_that_cannot_be_written_is_refused(tmp_path, name):
    (tmp_path / "folder.png").mkdir()
    os.mkfifo(tmp_path / "pipe.png")
    with pytest.raises(UserError, match=name):
        check_picture(tmp_path / name)
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="not a directory"):
        check_picture(tmp_path / "file" / "a.png")
    check_picture(tmp_path / "new" / "folder" / "a.PNG")
    assert not (tmp_path / "new").exists()


def test_a_picture_of_more_pixels_than_its_format_takes_is_one_line(tmp_path):
    for suffix, height in ((".jpg", 70_000), (".webp", 17_000)):
        with pytest.raises(UserError, match=r"a\.\w+: cannot write: .+"):
            _save(Image.new("RGB", (1, height)).save, tmp_path / f"a{suffix}")
    assert list(tmp_path.iterdir()) == []
