"""Which images a command line means, and in which order."""

import importlib
import os
import tracemalloc
import unicodedata
from pathlib import Path

import pytest

from smile.captioning.find_images import ImageNames
from smile.data.batches import Broken
from smile.errors import UserError


def test_folders_are_searched_in_order_of_their_names(tree):
    tree("p/b.jpg", "p/a/z.PNG", "p/a/y.webp", "p/a.jpg", "p/c.txt", "p/c/notes.md", "p/.x.jpg")
    tree("p/.hidden/a.jpg", "p/B.gif", "p/folder.jpg/in.tif")
    expected = ["B.gif", "a/y.webp", "a/z.PNG", "a.jpg", "b.jpg", "folder.jpg/in.tif"]
    expected = [f"p/{name}" for name in expected]
    for argument in ("p", "p/", "./p", Path("p")):
        assert list(ImageNames([argument])) == expected
    assert list(ImageNames([os.path.abspath("p")])) == [os.path.abspath(name) for name in expected]


def test_files_are_taken_whatever_they_are_called(tree):
    tree("photo.xyz", "b[1].jpg", "b1.jpg")
    names = ["photo.xyz", "absent.jpg", "b[1].jpg"]
    assert list(ImageNames(names)) == names


@pytest.mark.parametrize(
    ("pattern", "expected"),
    [
        ("p/*.jpg", ["p/a.jpg", "p/b.jpg"]),
        ("p/[b-z].*", ["p/b.jpg"]),
        ("p/**/*.jpg", ["p/a.jpg", "p/b.jpg", "p/sub/a.jpg", "p/sub/deep/d.jpg"]),
        ("**/d.jpg", ["p/sub/deep/d.jpg"]),
        ("p/**", ["p/a.jpg", "p/b.jpg", "p/sub/a.jpg", "p/sub/c.png", "p/sub/deep/d.jpg"]),
        ("p/s*", ["p/sub/a.jpg", "p/sub/c.png", "p/sub/deep/d.jpg"]),
        ("p/?ub/**/**/*", ["p/sub/a.jpg", "p/sub/c.png", "p/sub/deep/d.jpg"]),
        ("./*/sub/c*", ["p/sub/c.png"]),
    ],
)
def test_patterns_that_the_shell_left_alone(tree, pattern, expected):
    tree("p/b.jpg", "p/a.jpg", "p/sub/c.png", "p/sub/a.jpg", "p/sub/deep/d.jpg", "p/sub/no.txt")
    assert list(ImageNames([pattern])) == expected
    absolute = os.path.abspath(pattern)
    assert list(ImageNames([absolute])) == [os.path.abspath(name) for name in expected]


def test_patterns_may_be_written_with_both_separators(tree, monkeypatch):
    """As on Windows, where the other one is "/"."""
    tree("p/a.jpg", "p/sub/b.jpg")
    monkeypatch.setattr(os, "altsep", "\\")
    assert list(ImageNames([r"p\**/*.jpg"])) == ["p/a.jpg", "p/sub/b.jpg"]


def test_a_file_named_twice_comes_once(tree):
    tree("p/a.jpg", "p/b.jpg")
    names = ImageNames(["p/b.jpg", "p", "./p/a.jpg", "p/*"])
    assert list(names) == ["p/b.jpg", "p/a.jpg"]
    assert names.left_out() == ["4 named twice, skipped"]
    assert list(names) == ["p/b.jpg", "p/a.jpg"] and names.num_repeated == 4


def test_what_leads_to_no_image_is_said(tree):
    tree("p/notes.txt", "a.jpg")
    found = list(ImageNames(["p", "q/*.jpg", "a.jpg"]))
    assert [broken.name for broken in found[:2]] == ["p", "q/*.jpg"]
    assert all(isinstance(broken, Broken) for broken in found[:2]) and found[2] == "a.jpg"
    assert "no image in this folder (.apng .avif" in found[0].reason
    assert "matches no image" in found[1].reason


def test_pictures_that_are_not_read_are_counted(tree, no_heif):
    tree("p/a.jpg", "p/b.heic", "p/c.HEIC", "p/d/e.NEF", "p/notes.txt", "q/x.svg", "q/y.md")
    tree("r/a.jpg")
    Path("p/no_suffix").write_bytes(b"\xff\xd8\xff\xe0")
    names = ImageNames(["p"])
    said = [
        "4 pictures not read (.heic 2, .nef 1, no suffix 1; for HEIC: pip install pi-heif)",
    ]
    assert list(names) == ["p/a.jpg"] and names.left_out() == said
    assert list(names) == ["p/a.jpg"] and names.left_out() == said
    for pattern in ("p/*", "p/**", "[p]"):
        names = ImageNames([pattern])
        assert list(names) == ["p/a.jpg"] and "(.heic 2, .nef 1, no" in names.left_out()[0]
    (broken,) = ImageNames(["q"])
    assert broken.reason.endswith("; 1 picture not read (.svg 1)")
    names = ImageNames(["r"])
    assert list(names) == ["r/a.jpg"] and names.left_out() == []


def test_links_to_folders_are_followed(tree):
    tree("p/a.jpg", "store/b.jpg")
    os.symlink("..", "p/loop")
    os.symlink("../store", "p/more")
    os.symlink("../store", "p/again")
    os.symlink("p", "link")
    os.symlink("absent.jpg", "p/b.jpg")
    loop = Broken("p/loop", "a link to a folder that contains it: not followed")
    names = ImageNames(["p"])
    assert list(names) == ["p/a.jpg", "p/b.jpg", "p/again/b.jpg", loop]
    assert names.left_out() == ["1 link to a folder searched already"]
    assert list(ImageNames(["link/*.jpg"])) == ["link/a.jpg", "link/b.jpg"]
    assert list(ImageNames(["*/a.jpg"])) == ["link/a.jpg", "p/a.jpg"]
    assert list(ImageNames(["p/*/b.jpg"])) == ["p/again/b.jpg", "p/more/b.jpg"]
    assert list(ImageNames(["p/**/b.jpg"])) == ["p/b.jpg", "p/again/b.jpg", loop]


@pytest.mark.parametrize("on_disk", ["NFC", "NFD"])
def test_the_coding_of_accents_does_not_matter(tree, on_disk):
    stored = unicodedata.normalize(on_disk, "été/café 0.jpg")
    tree(stored)
    for form in ("NFC", "NFD"):
        for asked in ("été/café 0.jpg", "été", "é*/c*", "été/caf?*.jpg", "**/café*"):
            assert list(ImageNames([unicodedata.normalize(form, asked)])) == [stored]
    tree("été2/x.jpg", unicodedata.normalize("NFC", "é"), unicodedata.normalize("NFD", "é"))
    for form in ("NFC", "NFD"):  # both are there: each is itself
        asked = unicodedata.normalize(form, "é")
        assert list(ImageNames([asked])) == [asked]


def test_names_of_any_length_lead_to_no_traceback(tree):
    tree("p/a.jpg")
    long = "a" * 5000
    assert list(ImageNames([long])) == [long]
    for pattern in (f"{long}/*.jpg", "*/" * 1500 + "x", "d/" * 1500 + "*", "**/" * 1500 + "*.png"):
        (broken,) = ImageNames([pattern])
        assert "matches no image" in broken.reason


@pytest.mark.parametrize("url", ["https://example.org/a.jpg", "HTTP://x/y.png", "s3://b/c.jpg"])
def test_urls_are_refused_with_a_reason(url):
    with pytest.raises(UserError, match=r"is a URL.*download it first"):
        ImageNames(["a.jpg", url])


def test_an_empty_name_is_refused():
    with pytest.raises(UserError, match="empty"):
        ImageNames([""])


@pytest.mark.slow
def test_memory_is_that_of_one_folder(monkeypatch):
    """40 folders of 500 images: about 100 bytes for each of 500, not of 20 000."""

    class Entry:
        def __init__(self, name: str, is_folder: bool) -> None:
            self.name, self.is_folder = name, is_folder

        def is_dir(self, *, follow_symlinks: bool = True) -> bool:
            return self.is_folder

    class Listing:
        def __init__(self, path: str) -> None:
            self.folders = not os.path.basename(path).startswith("folder")

        def __enter__(self):
            kind, count = ("folder", 40) if self.folders else ("image.jpg", 500)
            return (Entry(f"{kind[:6]}{i:07}{kind[5:]}", self.folders) for i in range(count))

        def __exit__(self, *_):
            pass

    monkeypatch.setattr(os, "scandir", Listing)
    monkeypatch.setattr(os.path, "isdir", lambda path: True)
    monkeypatch.setattr(os.path, "lexists", lambda path: True)
    monkeypatch.setattr(importlib.import_module("smile.data.walk"), "_identity", str)
    tracemalloc.start()
    count = sum(1 for _ in ImageNames(["root"]))
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert count == 20_000
    assert peak < 1_000_000
