"""Every file at and below a folder, always in the same order."""

import os
from collections import deque
from collections.abc import Iterator

from smile.data.batches import Broken
from smile.errors import reason_of


def walk(root: str, *, repeated: list[str] | None = None) -> Iterator[str | Broken]:
    """The files at and below `root`, sorted by name, folder by folder; hidden ones are skipped.

    Links to folders are followed last, so that links do not change the path of a file that can be
    reached without them. Each real folder is entered once; other paths to it are appended to
    `repeated`.

    Yields paths that begin with `root`, and a `Broken` for each folder that cannot be entered.
    Memory holds the names in one folder and in its parents.
    """
    entered: set[object] = set()
    starts = deque([root])
    while starts:
        start = starts.popleft()
        if start is not root and _is_circle(start):
            yield Broken(start, "a link to a folder that contains it: not followed")
            continue
        levels = [iter([(start, "folder")])]  # a stack: folders may be nested a thousand deep
        while levels:
            found = next(levels[-1], None)
            if found is None:
                levels.pop()
                continue
            path, kind = found
            if kind == "file":
                yield path
            elif kind == "link":
                starts.append(path)
            elif kind == "folder":
                try:
                    if _identity(path) not in entered:
                        entered.add(_identity(path))
                        levels.append(iter(_listing(path)))
                    elif repeated is not None:
                        repeated.append(path)
                except OSError as error:
                    yield Broken(path, f"cannot list this folder: {reason_of(error)}")
            else:
                yield Broken(path, kind)


def _listing(folder: str) -> list[tuple[str, str]]:
    """(path, kind) of a folder's entries, sorted; kind: "file", "folder", "link" or an error."""
    found = []
    with os.scandir(folder) as entries:
        for entry in entries:
            if not entry.name.startswith("."):
                found.append((os.path.join(folder, entry.name), _kind(entry)))
    return sorted(found)


def _kind(entry: os.DirEntry) -> str:
    try:
        if entry.is_dir(follow_symlinks=False):
            return "folder"
        return "link" if entry.is_dir() else "file"
    except OSError as error:  # a circular link, or one into a folder without access
        return f"cannot be read: {reason_of(error)}"


def _identity(folder: str) -> object:
    """A value that is equal for all paths of one folder."""
    status = os.stat(folder)
    return (status.st_dev, status.st_ino) if status.st_ino else folder  # some have no inodes


def _is_circle(link: str) -> bool:
    """Whether a link leads to the folder that contains it, or to a parent of that folder."""
    target, place = os.path.realpath(link), os.path.realpath(os.path.dirname(link))
    return os.path.join(place, "").startswith(os.path.join(target, ""))
