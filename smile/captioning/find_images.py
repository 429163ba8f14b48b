"""The images that a command line names: files, folders and patterns, always in the same order.

Names are yielded while the folders are still being listed. Only one folder's names are held at a
time, to sort them.
"""

import fnmatch
import glob
import os
import re
import unicodedata
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

from smile.data.batches import Broken
from smile.data.walk import walk
from smile.errors import UserError, counted
from smile.system.picture_files import HEIF_SUFFIXES, IMAGE_SUFFIXES, is_image, other_picture


class ImageNames:
    """The images that `arguments` name, each once, in order of argument and then of name.

    A file is taken whatever its suffix. A folder gives the files with an image's suffix in it and
    below it; hidden ones are skipped, links to folders are followed as in `walk`. A pattern that
    the shell did not expand ("photos/**/*.jpg") matches as in a shell, images only.

    Iterating yields paths, and a `Broken` for an argument without an image or for a folder that
    cannot be entered. What it skips is counted; `left_out()` reports it.

    Raises:
        UserError: an argument is a URL, or empty.
    """

    def __init__(self, arguments: Sequence[str | os.PathLike[str]]) -> None:
        self.arguments = [os.fspath(argument) for argument in arguments]
        self._forget()
        for argument in self.arguments:
            _check(argument)

    def _forget(self) -> None:
        self.num_repeated = 0  # names that came before
        self.other_pictures: Counter[str] = Counter()  # pictures that are not read, by suffix
        self.repeated_folders: list[str] = []  # links to folders that were already searched

    def __iter__(self) -> Iterator[str | Broken]:
        self._forget()
        if len(self.arguments) == 1 and os.path.isdir(self.arguments[0]):
            # All names of one folder differ: none need be remembered.
            yield from self._named_by(self.arguments[0])
            return
        seen: set[str] = set()
        for argument in self.arguments:
            for found in self._named_by(argument):
                if isinstance(found, str):
                    if found in seen:
                        self.num_repeated += 1
                        continue
                    seen.add(found)
                yield found

    def left_out(self) -> list[str]:
        """What the last iteration skipped, in words; empty if nothing."""
        parts = []
        if self.num_repeated:
            parts.append(f"{self.num_repeated} named twice, skipped")
        if links := len(self.repeated_folders):
            parts.append(
                counted(
                    links, "link to a folder searched already", "links to folders searched already"
                )
            )
        if self.other_pictures:
            parts.append(_others(self.other_pictures))
        return parts

    def _named_by(self, argument: str) -> Iterator[str | Broken]:
        """What one argument names, or why it names nothing."""
        path = _on_disk(str(Path(argument)))  # "photos", "photos/", "./photos": the same names
        others: Counter[str] = Counter()
        empty = None
        if os.path.isdir(path):
            found = walk(path, repeated=self.repeated_folders)
            found, empty = _images(found, others), "there is no image in this folder"
        elif glob.has_magic(path) and not os.path.lexists(path):
            found = _matching(path, self.repeated_folders)
            found, empty = _images(found, others), "matches no image"
        else:
            found = iter([path])
        for name in found:
            empty = None
            yield name
        if empty is None:
            self.other_pictures += others
        else:
            instead = f"; {_others(others)}" if others else ""
            yield Broken(argument, f"{empty} ({' '.join(sorted(IMAGE_SUFFIXES))}){instead}")


def _check(argument: str) -> None:
    if not argument:
        raise UserError("an image has an empty name: expected a file, a folder or a pattern")
    if re.match(r"(?i)(https?|ftp|s3|gs|data|file):", argument) and not os.path.lexists(argument):
        raise UserError(
            f"{argument[:200]} is a URL, and only files are read: download it first "
            "(curl -O URL) and name the file"
        )


def _on_disk(path: str) -> str:
    """The path as the disk spells it, if only the Unicode form of its accents differs."""
    forms = (path, *(unicodedata.normalize(form, path) for form in ("NFC", "NFD")))
    return next((form for form in forms if os.path.lexists(form)), path)


def _images(found: Iterator[str | Broken], others: Counter[str]) -> Iterator[str | Broken]:
    """The images among files; other pictures are counted in `others`."""
    for name in found:
        if isinstance(name, Broken) or is_image(name):
            yield name
        elif kind := other_picture(name):
            others[kind] += 1


def _others(kinds: Counter[str]) -> str:
    """Pictures left out, in words."""
    listed = ", ".join(f"{kind} {number}" for kind, number in sorted(kinds.items()))
    remedy = "; for HEIC: pip install pi-heif" if HEIF_SUFFIXES & kinds.keys() else ""
    return f"{counted(kinds.total(), 'picture')} not read ({listed}{remedy})"


# Patterns -----------------------------------------------------------------------------------------


def _matching(pattern: str, repeated: list[str]) -> Iterator[str | Broken]:
    """The files that match a pattern, folder by folder.

    A folder that matches gives its files, as if the shell had expanded the pattern. With `**` it
    does not, because `**` reaches those files itself.
    """
    if os.altsep:  # Windows: people write both
        pattern = pattern.replace(os.altsep, os.sep)
    drive, rest = os.path.splitdrive(pattern)
    root = drive + os.sep if rest.startswith(os.sep) else drive
    waiting = [(root, tuple(rest.strip(os.sep).split(os.sep)))]  # a stack: patterns may be long
    while waiting:
        place, parts = waiting.pop()
        if not parts:
            yield from walk(place, repeated=repeated) if os.path.isdir(place) else (place,)
        elif parts[0] == "**":
            yield from _matching_below(place, parts, repeated)
        elif not glob.has_magic(parts[0]):
            path = _on_disk(os.path.join(place, parts[0]))
            if os.path.lexists(path):
                waiting.append((path, parts[1:]))
        else:
            names = [name for name in _listing(place) if _fits(name, parts[0])]
            paths = [os.path.join(place, name) for name in sorted(names, reverse=True)]
            waiting += [(path, parts[1:]) for path in paths]


def _matching_below(
    place: str, parts: Sequence[str], repeated: list[str]
) -> Iterator[str | Broken]:
    """The files at and below a folder whose names from there on match `parts`, `**` first."""
    if parts[-1] == "**":
        parts = (*parts, "*")
    start = place or os.curdir
    for path in walk(start, repeated=repeated) if os.path.isdir(start) else ():
        if isinstance(path, Broken):
            yield path
            continue
        names = path[len(start) :].strip(os.sep).split(os.sep)
        if _all_fit(names, parts):
            yield os.path.join(place, *names)


def _all_fit(names: Sequence[str], parts: Sequence[str]) -> bool:
    """Whether a path's names match a pattern's parts, of which `**` stands for any number."""

    def skip(reached: set[int]) -> set[int]:
        """The parts that can come next, since `**` may also stand for nothing."""
        for index, part in enumerate(parts):
            if index in reached and part == "**":
                reached.add(index + 1)
        return reached

    reached = skip({0})
    for name in names:
        after = {i for i in reached if i < len(parts) and parts[i] == "**"}
        after |= {i + 1 for i in reached - after if i < len(parts) and _fits(name, parts[i])}
        reached = skip(after)
    return len(parts) in reached


def _fits(name: str, pattern: str) -> bool:
    name, pattern = (unicodedata.normalize("NFC", text) for text in (name, pattern))
    return fnmatch.fnmatchcase(name, pattern)


def _listing(place: str) -> list[str]:
    """The names in a folder that are not hidden; none if it is no folder or cannot be listed."""
    try:
        return [name for name in os.listdir(place or ".") if not name.startswith(".")]
    except OSError:
        return []
