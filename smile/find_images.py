"""Which images a command line means: files, folders and patterns, in an order that never changes.

Names are handed out while the folders are still being listed. Only the names of one folder at a
time are held, because without them there is no order.
"""

import fnmatch
import glob
import os
import re
from collections.abc import Iterator, Sequence
from pathlib import Path

from smile.data import IMAGE_SUFFIXES, Broken
from smile.errors import UserError


class ImageNames:
    """The images that `arguments` name, each once, in order of argument and then of name.

    A file is taken whatever it is called. Of a folder, and of those in it, the files with an
    image's suffix are taken; hidden ones are not, nor are links to folders followed. A pattern that
    the shell has left alone ("photos/**/*.jpg") matches as a shell's would, images only.

    Iterating gives paths, and a `Broken` for an argument that leads to no image or a folder that
    cannot be listed. `repeated` counts the names left out because they had come before.

    Raises:
        UserError: an argument is a URL, or empty.
    """

    def __init__(self, arguments: Sequence[str | os.PathLike[str]]) -> None:
        self.arguments = [os.fspath(argument) for argument in arguments]
        self.repeated = 0
        for argument in self.arguments:
            _check(argument)

    def __iter__(self) -> Iterator[str | Broken]:
        self.repeated = 0
        if len(self.arguments) == 1 and os.path.isdir(self.arguments[0]):
            # A folder's names differ from each other: none need be remembered.
            yield from _named_by(self.arguments[0])
            return
        seen: set[str] = set()
        for argument in self.arguments:
            for found in _named_by(argument):
                if isinstance(found, str):
                    if found in seen:
                        self.repeated += 1
                        continue
                    seen.add(found)
                yield found


def _check(argument: str) -> None:
    if not argument:
        raise UserError("an image has an empty name: expected a file, a folder or a pattern")
    if re.match(r"(?i)(https?|ftp|s3|gs|data|file):", argument) and not os.path.lexists(argument):
        raise UserError(
            f"{argument[:200]} is a URL, and only files are read: download it first "
            "(curl -O URL) and name the file"
        )


def _named_by(argument: str) -> Iterator[str | Broken]:
    """What one argument names, or why it names nothing."""
    path = str(Path(argument))  # "photos", "photos/" and "./photos" give the same names
    empty = None
    if os.path.isdir(path):
        found, empty = _inside(path), "there is no image in this folder"
    elif glob.has_magic(path) and not os.path.lexists(path):
        start = os.sep if os.path.isabs(path) else ""
        parts = path.strip(os.sep).split(os.sep)
        found, empty = _matching(start, parts, with_folders="**" not in parts), "matches no image"
    else:
        found = iter([path])
    for name in found:
        empty = None
        yield name
    if empty:
        yield Broken(argument, f"{empty} ({' '.join(sorted(IMAGE_SUFFIXES))})")


def _is_image(name: str) -> bool:
    return os.path.splitext(name)[1].lower() in IMAGE_SUFFIXES


def _inside(folder: str) -> Iterator[str | Broken]:
    """The images in a folder and the folders in it, sorted folder by folder."""
    names, folders = [], set()
    try:
        with os.scandir(folder) as entries:
            for entry in entries:
                if entry.name.startswith("."):
                    continue
                if entry.is_dir(follow_symlinks=False):
                    folders.add(entry.name)
                elif not _is_image(entry.name) or entry.is_dir():
                    continue
                names.append(entry.name)
    except OSError as error:
        yield Broken(folder, f"cannot list this folder: {error.strerror}")
        return
    names.sort()
    for name in names:
        path = os.path.join(folder, name)
        if name in folders:
            yield from _inside(path)
        else:
            yield path


def _matching(place: str, parts: Sequence[str], *, with_folders: bool) -> Iterator[str | Broken]:
    """The images at `place` that match the rest of a pattern, one part a folder.

    A folder that matches gives its images, as it would if the shell had expanded the pattern;
    beside `**`, which reaches those images itself, it does not.
    """
    if not parts:
        if with_folders and os.path.isdir(place):
            yield from _inside(place)
        elif _is_image(place) and not os.path.isdir(place):
            yield place
        return
    part, rest = parts[0], parts[1:]
    if not glob.has_magic(part):
        path = os.path.join(place, part)
        if os.path.lexists(path):
            yield from _matching(path, rest, with_folders=with_folders)
        return
    if part == "**":
        while rest and rest[0] == "**":
            rest = rest[1:]
        yield from _matching(place, rest or ["*"], with_folders=with_folders)
        pattern, after = "*", [part, *rest]
    else:
        pattern, after = part, rest
    for name in sorted(_listing(place)):
        path = os.path.join(place, name)
        if not fnmatch.fnmatchcase(name, pattern):
            continue
        if part != "**" or (os.path.isdir(path) and not os.path.islink(path)):
            yield from _matching(path, after, with_folders=with_folders)


def _listing(place: str) -> Iterator[str]:
    """The names in a folder that are not hidden; none if it is no folder or cannot be listed."""
    try:
        with os.scandir(place or ".") as entries:
            for entry in entries:
                if not entry.name.startswith("."):
                    yield entry.name
    except OSError:
        return
