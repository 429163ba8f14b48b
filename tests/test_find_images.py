"""Which images a command line means, and in which order."""

import os
import tracemalloc
from pathlib import Path

import pytest

from smile.data import Broken
from smile.errors import UserError
from smile.find_images import ImageNames


@pytest.fixture
def photos(tmp_path, monkeypatch):
    """A folder of files, the working directory; `photos("b.jpg", …)` makes them, empty."""
    monkeypatch.chdir(tmp_path)

    def make(*names: str) -> None:
        for name in names:
            Path(name).parent.mkdir(parents=True, exist_ok=True)
            Path(name).touch()

    return make


def test_folders_are_searched_in_order_of_their_names(photos):
    photos("p/b.jpg", "p/a/z.PNG", "p/a/y.webp", "p/a.jpg", "p/c.txt", "p/c/notes.md", "p/.x.jpg")
    photos("p/.hidden/a.jpg", "p/B.gif", "p/folder.jpg/in.tif")
    expected = ["B.gif", "a/y.webp", "a/z.PNG", "a.jpg", "b.jpg", "folder.jpg/in.tif"]
    expected = [f"p/{name}" for name in expected]
    for argument in ("p", "p/", "./p", Path("p")):
        assert list(ImageNames([argument])) == expected
    assert list(ImageNames([os.path.abspath("p")])) == [os.path.abspath(name) for name in expected]


def test_files_are_taken_whatever_they_are_called(photos):
    photos("photo.xyz", "b[1].jpg", "b1.jpg")
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
def test_patterns_that_the_shell_left_alone(photos, pattern, expected):
    photos("p/b.jpg", "p/a.jpg", "p/sub/c.png", "p/sub/a.jpg", "p/sub/deep/d.jpg", "p/sub/no.txt")
    assert list(ImageNames([pattern])) == expected
    absolute = os.path.abspath(pattern)
    assert list(ImageNames([absolute])) == [os.path.abspath(name) for name in expected]


def test_a_file_named_twice_comes_once(photos):
    photos("p/a.jpg", "p/b.jpg")
    names = ImageNames(["p/b.jpg", "p", "./p/a.jpg", "p/*"])
    assert list(names) == ["p/b.jpg", "p/a.jpg"]
    assert names.repeated == 4
    assert list(names) == ["p/b.jpg", "p/a.jpg"] and names.repeated == 4


def test_what_leads_to_no_image_is_said(photos):
    photos("p/notes.txt", "a.jpg")
    found = list(ImageNames(["p", "q/*.jpg", "a.jpg"]))
    assert [broken.name for broken in found[:2]] == ["p", "q/*.jpg"]
    assert all(isinstance(broken, Broken) for broken in found[:2]) and found[2] == "a.jpg"
    assert "no image in this folder (.apng .avif" in found[0].reason
    assert "matches no image" in found[1].reason


def test_links_to_folders_are_followed_only_where_named(photos):
    photos("p/a.jpg")
    os.symlink("..", "p/loop")
    os.symlink("p", "link")
    os.symlink("absent.jpg", "p/b.jpg")
    assert list(ImageNames(["p"])) == ["p/a.jpg", "p/b.jpg"]
    assert list(ImageNames(["link"])) == ["link/a.jpg", "link/b.jpg"]
    assert list(ImageNames(["**/a.jpg"])) == ["p/a.jpg"]


def test_a_folder_that_cannot_be_listed_is_said(photos, monkeypatch):
    photos("p/a/x.jpg", "p/b.jpg")
    scandir = os.scandir

    def refuse(path):
        if str(path).endswith("a"):
            raise PermissionError(13, "Permission denied", path)
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refuse)
    broken, name = ImageNames(["p"])
    assert broken == Broken("p/a", "cannot list this folder: Permission denied")
    assert name == "p/b.jpg"


@pytest.mark.parametrize("url", ["https://example.org/a.jpg", "HTTP://x/y.png", "s3://b/c.jpg"])
def test_urls_are_refused_with_a_reason(url):
    with pytest.raises(UserError, match=r"is a URL.*download it first"):
        ImageNames(["a.jpg", url])


def test_an_empty_name_is_refused():
    with pytest.raises(UserError, match="empty"):
        ImageNames([""])


def test_memory_is_that_of_one_folder(monkeypatch):
    """200 folders of 500 images: about 100 bytes for each of 500, not of 100 000."""

    class Entry:
        def __init__(self, name: str, is_folder: bool) -> None:
            self.name, self.is_folder = name, is_folder

        def is_dir(self, *, follow_symlinks: bool = True) -> bool:
            return self.is_folder

    class Listing:
        def __init__(self, path: str) -> None:
            self.folders = not os.path.basename(path).startswith("folder")

        def __enter__(self):
            kind, count = ("folder", 200) if self.folders else ("image.jpg", 500)
            return (Entry(f"{kind[:6]}{i:07}{kind[5:]}", self.folders) for i in range(count))

        def __exit__(self, *_):
            pass

    monkeypatch.setattr(os, "scandir", Listing)
    monkeypatch.setattr(os.path, "isdir", lambda path: True)
    tracemalloc.start()
    count = sum(1 for _ in ImageNames(["root"]))
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert count == 100_000
    assert peak < 1_000_000
