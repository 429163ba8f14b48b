"""Zip archives as strangers make them: what is taken, what is refused, and that it is bounded."""

import stat
import struct
import zipfile
from pathlib import Path

import pytest

import smile.data.unzip as unzip
from smile.data.unzip import BadArchive, unpack
from smile.errors import UserError

GOOD = {"photos/a.jpg": b"a" * 5000, "photos/b.jpg": b"b", "photos/list.txt": b"a.jpg\n"}


@pytest.fixture(autouse=True)
def quick_disk(monkeypatch):
    monkeypatch.setattr(unzip, "flush_all", lambda folder: None)


def archive_of(place: Path, entries: dict, method: int = zipfile.ZIP_DEFLATED) -> Path:
    with zipfile.ZipFile(place, "w") as archive:
        for name, content in entries.items():
            info = name if isinstance(name, zipfile.ZipInfo) else zipfile.ZipInfo(name)
            archive.writestr(info, content, method)
    return place


def photos_of(archive: Path, *, most: int = 10_000) -> dict[str, bytes]:
    """What is unpacked of an archive's photos, by the path below the folder's parent."""
    folder = archive.parent / "to"
    unpack(archive, folder, wanted=lambda name: name.endswith(".jpg"), most_bytes=most)
    return {path.name: path.read_bytes() for path in folder.rglob("*")}


def linked(name: str, kind: int) -> zipfile.ZipInfo:
    info = zipfile.ZipInfo(name)
    info.create_system, info.external_attr = 3, (kind | 0o777) << 16
    return info


def test_takes_what_is_wanted_and_no_more(tmp_path):
    added = {"__MACOSX/photos/._a.jpg": b"x", "__MACOSX/c.jpg": b"x", "photos/._b.jpg": b"x"}
    folder = {zipfile.ZipInfo("photos.jpg/"): b"", linked("photos/d.jpg", stat.S_IFREG): b"d"}
    archive = archive_of(tmp_path / "a.zip", GOOD | added | folder)
    assert photos_of(archive) == {"a.jpg": b"a" * 5000, "b.jpg": b"b", "d.jpg": b"d"}


@pytest.mark.parametrize(
    "name",
    ["../a.jpg", "photos/../../a.jpg", "/a.jpg", "..", "photos/..", "..\\a.jpg", "\\a.jpg",
     "C:a.jpg", "c:/a.jpg", "a.jpg:x", "a\x00/../b.jpg", "new\nline.jpg", "../notes.txt"],
)  # fmt: skip
def test_an_entry_that_leaves_the_folder_is_refused(name, tmp_path):
    """With the whole archive, wanted or not: an honest one has none."""
    info = zipfile.ZipInfo("good.jpg")
    info.filename = info.orig_filename = name
    archive = archive_of(tmp_path / "a.zip", GOOD | {info: b"x"})
    with pytest.raises(BadArchive, match=r"not unpacked, its entry .* leaves the folder") as caught:
        photos_of(archive)
    assert str(archive) in str(caught.value) and "\n" not in str(caught.value)
    assert [*tmp_path.rglob("*")] == [archive]


@pytest.mark.parametrize("kind", [stat.S_IFLNK, stat.S_IFIFO, stat.S_IFCHR])
def test_links_and_devices_are_refused(kind, tmp_path):
    archive = archive_of(tmp_path / "a.zip", GOOD | {linked("c.jpg", kind): b"/etc/passwd"})
    with pytest.raises(BadArchive, match=r"'c\.jpg' is a link or a device"):
        photos_of(archive)


def test_one_name_in_two_folders_is_refused(tmp_path):
    archive = archive_of(tmp_path / "a.zip", GOOD | {"others/a.jpg": b""})
    with pytest.raises(BadArchive, match=r"a\.jpg is in it twice"):
        photos_of(archive)


@pytest.mark.parametrize("method", [zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_methods_that_fill_the_memory_are_refused(method, tmp_path):
    archive = archive_of(tmp_path / "a.zip", GOOD, method)
    with pytest.raises(BadArchive, match="compressed in an unusual way"):
        photos_of(archive)


def test_what_would_become_too_large_is_refused_before_it_is_written(tmp_path):
    archive = archive_of(tmp_path / "a.zip", {"a.jpg": bytes(6000), "b.jpg": bytes(6000)})
    with pytest.raises(BadArchive, match="would become 12000 bytes, expected at most 10000"):
        photos_of(archive)
    assert [*tmp_path.rglob("*")] == [archive]
    assert len(photos_of(archive, most=12_000)) == 2


@pytest.mark.parametrize("said", [10, 5_999, 6_001, 9_000])
@pytest.mark.parametrize("method", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
def test_no_entry_becomes_more_than_it_says(said, method, tmp_path):
    archive = archive_of(tmp_path / "a.zip", {"a.jpg": bytes(6000)}, method)
    data = archive.read_bytes().replace(struct.pack("<L", 6000), struct.pack("<L", said))
    archive.write_bytes(data)
    with pytest.raises(BadArchive, match="not a whole zip archive"):
        photos_of(archive)
    assert sum(path.stat().st_size for path in (tmp_path / "to").rglob("*")) <= said


def test_a_damaged_archive_gets_one_line(tmp_path):
    whole = archive_of(tmp_path / "whole.zip", GOOD).read_bytes()
    archive = tmp_path / "a.zip"
    for number in range(0, len(whole), 7):
        for data in (whole[:number], whole[:number] + b"\xff" + whole[number + 1 :]):
            archive.write_bytes(data)
            for path in (tmp_path / "to").glob("*"):
                path.unlink()
            try:
                found = photos_of(archive)
            except UserError as error:
                assert str(archive) in str(error) and "\n" not in str(error)
            else:
                assert found.items() <= {"a.jpg": b"a" * 5000, "b.jpg": b"b"}.items()


def test_an_encrypted_archive_is_refused(tmp_path):
    archive = archive_of(tmp_path / "a.zip", GOOD)
    data = bytearray(archive.read_bytes())
    for mark, offset in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
        data[data.index(mark) + offset] |= 1
    archive.write_bytes(data)
    with pytest.raises(BadArchive, match="encrypted"):
        photos_of(archive)


def test_a_disk_too_small_is_told_before_the_first_byte(tmp_path, monkeypatch):
    archive = archive_of(tmp_path / "a.zip", GOOD)
    usage = unzip.shutil.disk_usage(tmp_path)
    monkeypatch.setattr(unzip.shutil, "disk_usage", lambda _: usage._replace(free=5000))
    with pytest.raises(UserError, match=r"to: 0.0 MB do not fit in 0.0 MB") as caught:
        photos_of(archive)
    assert not isinstance(caught.value, BadArchive)
    assert [*(tmp_path / "to").iterdir()] == []


def test_all_is_on_the_disk_when_it_returns(tmp_path, monkeypatch):
    flushed = []
    monkeypatch.setattr(unzip, "flush_all", lambda folder: flushed.append({*folder.iterdir()}))
    photos_of(archive_of(tmp_path / "a.zip", GOOD))
    assert flushed == [{tmp_path / "to" / "a.jpg", tmp_path / "to" / "b.jpg"}]
