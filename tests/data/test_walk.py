"""Walking folders: which files, in which order, whatever links and names there are."""

import inspect
import os
import sys

import pytest
from PIL import Image

from smile.data.batches import Broken
from smile.data.walk import walk
from smile.model import images
from smile.system import picture_files
from smile.system.picture_files import (
    HEIF_SUFFIXES,
    IMAGE_SUFFIXES,
    OTHER_SUFFIXES,
    is_image,
    other_picture,
)


def test_all_files_come_sorted_folder_by_folder(tree):
    tree("p/b.jpg", "p/a/z.txt", "p/a.jpg", "p/.x.jpg", "p/.h/a.jpg", "p/B", "p/c.jpg/in.tif")
    names = ["B", "a/z.txt", "a.jpg", "b.jpg", "c.jpg/in.tif"]
    assert list(walk("p")) == [f"p/{name}" for name in names]


def test_links_to_folders_are_followed_each_real_folder_once(tree):
    """After what is reached without them, so that no link changes the name of another file."""
    tree("p/z/a.jpg", "store/b.jpg", "store/deep/c.jpg")
    os.symlink("z", "p/a")  # the folder has a name of its own here
    os.symlink("../store", "p/first")
    os.symlink("../store/deep", "p/second")  # reached by way of the first
    repeated: list[str] = []
    names = ["p/z/a.jpg", "p/first/b.jpg", "p/first/deep/c.jpg"]
    assert list(walk("p", repeated=repeated)) == names
    assert repeated == ["p/a", "p/second"]
    os.symlink("p", "link")
    assert next(walk("link")) == "link/z/a.jpg"  # what is asked for is followed anyway


@pytest.mark.parametrize("target", [".", "..", "../..", "/", "../sub"])
def test_a_link_in_a_circle_costs_itself_alone(tree, target):
    tree("p/sub/a.jpg", "p/z.jpg")
    os.symlink(target, "p/sub/loop")
    *files, broken = walk("p")
    assert files == ["p/sub/a.jpg", "p/z.jpg"]
    assert broken == Broken("p/sub/loop", "a link to a folder that contains it: not followed")


def test_two_links_that_lead_to_each_other_end(tree):
    tree("a/x.jpg", "b/y.jpg")
    os.symlink("../b", "a/to_b")
    os.symlink("../a", "b/to_a")
    assert list(walk("a")) == ["a/x.jpg", "a/to_b/y.jpg"]


def test_an_entry_that_cannot_be_entered_costs_itself_alone(tree, monkeypatch):
    tree("p/a.jpg", "p/shut/x.jpg", "p/z.jpg")
    os.symlink("loop.jpg", "p/loop.jpg")
    os.symlink("gone", "p/dangling")
    scandir = os.scandir

    def refuse(path):
        if path.endswith("shut"):
            raise PermissionError(13, "Permission denied", path)
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refuse)
    assert list(walk("p")) == [
        "p/a.jpg",
        "p/dangling",
        Broken("p/loop.jpg", "cannot be read: too many levels of symbolic links"),
        Broken("p/shut", "cannot list this folder: permission denied"),
        "p/z.jpg",
    ]
    assert [b.name for b in walk("absent")] == ["absent"]


def test_depth_takes_no_recursion(tree):
    """150 folders in each other, where Python may call only 100 deeper than here."""
    deep = "p" + "/d" * 150
    tree(f"{deep}/x.jpg")
    limit = sys.getrecursionlimit()
    sys.setrecursionlimit(len(inspect.stack(0)) + 100)
    try:
        found = list(walk("p"))
    finally:
        sys.setrecursionlimit(limit)
    assert found == [f"{deep}/x.jpg"]


# --- which files are pictures -----------------------------------------------------------------


def test_every_suffix_of_what_is_read_counts_as_an_image():
    Image.init()
    ours = {suffix for suffix, form in Image.EXTENSION.items() if form in images.FORMATS}
    assert ours - {".mpo"} <= IMAGE_SUFFIXES  # plugins of others may have changed the table
    for suffix in IMAGE_SUFFIXES:
        assert is_image(f"a{suffix}") and is_image(f"a{suffix.upper()}")
        assert other_picture(f"a{suffix}") is None
    assert not IMAGE_SUFFIXES & OTHER_SUFFIXES


def test_other_pictures_are_known_by_their_suffix(monkeypatch):
    monkeypatch.setattr(picture_files, "heif_plugin", lambda: None)
    for suffix in OTHER_SUFFIXES | HEIF_SUFFIXES:
        assert not is_image(f"a{suffix}")
        assert other_picture(f"a{suffix.upper()}") == suffix
    monkeypatch.setattr(picture_files, "heif_plugin", lambda: "pi_heif")
    assert all(is_image(f"a{suffix}") for suffix in HEIF_SUFFIXES)


FORMATS = ["jpeg", "png", "gif", "bmp", "tiff", "webp", "ppm", "avif", "jpeg2000"]


@pytest.mark.parametrize("name", ["photo", "1.5 release", "frame.0001", "a.jpg_large"])
@pytest.mark.parametrize("form", FORMATS)
def test_a_file_without_a_suffix_is_known_by_its_first_bytes(tmp_path, name, form):
    Image.new("RGB", (4, 4)).save(tmp_path / name, form)
    assert other_picture(tmp_path / name) == "no suffix"


def test_what_is_no_picture_is_not_called_one(tmp_path):
    for name in ("notes.txt", "LICENSE", "captions.jsonl", "empty", "absent"):
        if name != "absent":
            (tmp_path / name).write_text("" if name == "empty" else "BMW, P5 and GIFs: some notes")
        assert other_picture(tmp_path / name) is None
    os.mkfifo(tmp_path / "pipe")
    assert other_picture(tmp_path / "pipe") is None
