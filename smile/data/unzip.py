"""Unpacks what is wanted of a zip archive, and nothing that could do harm.

An archive that would write outside its folder is refused as a whole. So is one that unpacks to more
than `most_bytes`: a few kB may claim to be, or be, petabytes.
"""

import re
import shutil
import stat
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path, PurePosixPath

from tqdm import tqdm

from smile.errors import UserError, brief
from smile.system.files import flush_all, reading, writing
from smile.system.missing import shown_size

CHUNK = 1 << 20
# Whatever zipfile raises on a damaged, encrypted or strange archive.
PROBLEMS = (zipfile.BadZipFile, zlib.error, EOFError, RuntimeError, ValueError, OverflowError)
METHODS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)  # the others fill the memory at will
_LEAVES = re.compile(r"^/|\\|:|[\x00-\x1f\x7f]|(?:^|/)\.\.(?:/|$)")


class BadArchive(UserError):
    """The archive is damaged, or made to do harm."""


def unpack(
    archive: Path, folder: Path, *, wanted: Callable[[str], bool], most_bytes: int
) -> list[str]:
    """Unpacks the wanted entries to `folder`, which is made, without the folders they are in.

    Args:
        wanted: whether a file of that name is, its folders left out. What macOS adds, `__MACOSX/`
            and names that begin with `._`, never is.
        most_bytes: of the wanted entries together.

    Returns:
        The names, in the archive's order.

    Raises:
        BadArchive: it is no whole zip archive, or it is not safe.
        UserError: the archive cannot be read, or `folder` not written.
    """
    with reading(archive), archive.open("rb") as file:
        try:
            with zipfile.ZipFile(file) as opened:
                entries = _wanted(opened, archive, wanted)
                _check_sizes(entries, archive, most_bytes)
                with writing(folder):
                    folder.mkdir(parents=True, exist_ok=True)
                _check_room(entries, folder)
                for name, entry in tqdm(
                    entries.items(), desc=f"unpacking {archive.name}", disable=None
                ):
                    _copy(opened, entry, folder / name)
                with writing(folder):
                    flush_all(folder)
        except PROBLEMS as error:
            raise BadArchive(f"{archive}: not a whole zip archive: {error}") from error
    return list(entries)


def _wanted(
    opened: zipfile.ZipFile, archive: Path, wanted: Callable[[str], bool]
) -> dict[str, zipfile.ZipInfo]:
    """The wanted entries by the names of their files; all entries are checked."""
    found: dict[str, zipfile.ZipInfo] = {}
    for entry in opened.infolist():
        _check_place(entry, archive)
        path = PurePosixPath(entry.filename)
        added = path.parts[:1] == ("__MACOSX",) or path.name.startswith("._")
        if entry.is_dir() or added or not wanted(path.name):
            continue
        if path.name in found:
            raise BadArchive(f"{archive}: {brief(path.name)} is in it twice")
        found[path.name] = entry
    return found


def _check_place(entry: zipfile.ZipInfo, archive: Path) -> None:
    """Refuses an entry that could be written elsewhere, or that is no file and no folder."""
    if _LEAVES.search(entry.orig_filename):  # zipfile cuts `filename` at a zero byte
        raise BadArchive(f"{archive}: not unpacked, its entry {shown(entry)} leaves the folder")
    if stat.S_IFMT(entry.external_attr >> 16) not in (0, stat.S_IFREG, stat.S_IFDIR):
        raise BadArchive(f"{archive}: not unpacked, its entry {shown(entry)} is a link or a device")


def _check_sizes(entries: dict[str, zipfile.ZipInfo], archive: Path, most_bytes: int) -> None:
    for entry in entries.values():
        if entry.compress_type not in METHODS:
            raise BadArchive(f"{archive}: {shown(entry)} is compressed in an unusual way")
    total = sum(entry.file_size for entry in entries.values())
    if total > most_bytes:
        raise BadArchive(
            f"{archive}: not unpacked, it would become {total} bytes, expected at most {most_bytes}"
        )


def _check_room(entries: dict[str, zipfile.ZipInfo], folder: Path) -> None:
    needed = sum(entry.file_size for entry in entries.values())
    free = shutil.disk_usage(folder).free
    if needed > free:
        raise UserError(
            f"{folder}: {shown_size(needed)} do not fit in {shown_size(free)} free: make room there"
        )


def shown(entry: zipfile.ZipInfo) -> str:
    """An entry's name as messages show it."""
    return repr(brief(entry.orig_filename))


def _copy(opened: zipfile.ZipFile, entry: zipfile.ZipInfo, place: Path) -> None:
    """Writes one entry, flushed to disk; never more bytes than the archive says it has."""
    done = 0
    with opened.open(entry) as source, writing(place), place.open("xb") as file:
        while done <= entry.file_size and (chunk := source.read(CHUNK)):
            done += len(chunk)
            file.write(chunk)
    if done != entry.file_size:
        raise zipfile.BadZipFile(f"{shown(entry)} has another size than it says")
