"""Finds the pictures that a table names.

Each folder is listed only once: COCO has 123 000 pictures. If no file has exactly that name, one
that differs only in its Unicode form is taken (NFC or NFD: macOS and Linux write accents
differently, and tables are copied between them).
"""

import errno
import os
import unicodedata
from functools import cached_property
from pathlib import Path

from smile.errors import UserError, reason_of

__all__ = ["Places", "nfc"]

LONGEST_PATH = 4096  # characters; no system takes a longer one
_NOT_THERE = {errno.ENOENT, errno.ENOTDIR, errno.ENAMETOOLONG, errno.ELOOP}


def nfc(name: str) -> str:
    """A name in NFC, the form in which names are compared."""
    return name if name.isascii() else unicodedata.normalize("NFC", name)


class _Names:
    """Names in a folder, each with whether it is a link; found in any Unicode form."""

    def __init__(self) -> None:
        self.links: dict[str, bool] = {}

    def spelled(self, name: str) -> str | None:
        """`name` as spelled in this folder; None if it is not there."""
        return name if name in self.links else self._by_nfc.get(nfc(name))

    @cached_property
    def _by_nfc(self) -> dict[str, str]:
        return {nfc(name): name for name in sorted(self.links, reverse=True)}


class _Listing:
    """A folder's files and folders."""

    def __init__(self) -> None:
        self.files = _Names()
        self.folders = _Names()


class Places:
    """Finds files by the names that tables give them.

    Args:
        homes: the folders that pictures are expected in, with links resolved; `is_outside` tells
            whether a file is elsewhere.
    """

    def __init__(self, *homes: str | Path) -> None:
        self._homes = [os.path.join(os.path.realpath(home), "") for home in homes]
        self._listings: dict[str, _Listing] = {}
        self._real: dict[str, str] = {}

    def find(self, name: str, *folders: str | Path) -> str | None:
        """The path of the file that `name` means in the first of `folders` that has it, else None.

        The path is spelled as on disk; the folder "" is the current one.

        Raises:
            UserError: a folder cannot be listed.
        """
        found = (self._spell(os.fspath(folder), name) for folder in folders)
        return next((path for path in found if path), None)

    def is_outside(self, path: str) -> bool:
        """Whether a file is outside all homes, links followed."""
        place, name = os.path.split(path)
        is_link = self._listing(place).files.links.get(name, True)  # True: not looked at yet
        real = os.path.realpath(path) if is_link else self.identity(path)
        return not real.startswith(tuple(self._homes))

    def identity(self, path: str) -> str:
        """A path that is equal for all paths to a file; links to the file itself stay different."""
        place, name = os.path.split(path)
        if place not in self._real:
            self._real[place] = os.path.realpath(place)
        return os.path.join(self._real[place], name)

    def _spell(self, folder: str, name: str) -> str | None:
        path = os.path.join(folder, name)
        if len(path) > LONGEST_PATH:
            return None
        place, file = os.path.split(path)
        found = self._listing(place).files.spelled(file)
        if found is None and not name.isascii():
            place = self._spell_folder(folder, os.path.dirname(name))
            found = self._listing(place).files.spelled(file)
        return None if found is None else os.path.join(place, found)

    def _spell_folder(self, start: str, name: str) -> str:
        """A folder's path with the parts of `name` spelled as on disk."""
        path = os.path.join(start, os.sep) if os.path.isabs(name) else start
        for part in name.split(os.sep):
            if part:
                path = os.path.join(path, self._listing(path).folders.spelled(part) or part)
        return path

    def _listing(self, place: str) -> _Listing:
        if place not in self._listings:
            self._listings[place] = _list(place)
        return self._listings[place]


def _list(place: str) -> _Listing:
    listing = _Listing()
    try:
        with os.scandir(place or ".") as entries:
            for entry in entries:
                kind = listing.folders if _is_folder(entry) else listing.files
                kind.links[entry.name] = entry.is_symlink()
    except ValueError:  # a zero byte, which no file name can hold
        pass
    except OSError as error:
        if error.errno not in _NOT_THERE:
            raise UserError(f"{place}: cannot be listed: {reason_of(error)}") from error
    return listing


def _is_folder(entry: os.DirEntry) -> bool:
    """Whether it is a folder or a link to one; a circular link or one without access is not."""
    try:
        return entry.is_dir()
    except OSError:
        return False
