"""What pictures share: their labels' colours, and that they are written whole or not at all."""

import os
from pathlib import Path

import pytest
from PIL import Image

from smile import evaluation
from smile.captioning.pictures import LABELS, check_picture, colour_numbers, save_picture
from smile.errors import UserError

RED, GREEN = (Image.new("RGB", (1, 1), colour) for colour in ("red", "green"))


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


def test_a_picture_is_replaced_whole_or_left_alone(tmp_path):
    path = tmp_path / "a.png"
    save_picture(RED.save, path)
    before = path.read_bytes()

    def fail_halfway(where):
        where.write_bytes(b"half a picture")
        raise OSError("disk full")

    with pytest.raises(UserError, match=r"a\.png: cannot write: disk full"):
        save_picture(fail_halfway, path)
    assert path.read_bytes() == before
    assert [file.name for file in tmp_path.iterdir()] == ["a.png"]


def test_a_picture_follows_no_link_that_somebody_has_planted(tmp_path):
    victim = tmp_path / "victim"
    victim.write_text("precious")
    (tmp_path / ".unfinished-a.png").symlink_to(victim)
    save_picture(GREEN.save, tmp_path / "a.png")
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
            save_picture(Image.new("RGB", (1, height)).save, tmp_path / f"a{suffix}")
    assert list(tmp_path.iterdir()) == []
