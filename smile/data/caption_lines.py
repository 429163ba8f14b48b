"""Lines of JSON, one per image, in one file or in parts: read, repaired, sorted.

captions.jsonl.part-0-of-4      written by the first of four processes
"""

import contextlib
import json
import os
import re
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from smile.errors import UserError
from smile.system.files import expect, parse_json

START = b'{"image": "'  # of each line


def scan(path: Path) -> Iterator[tuple[str, int, int]]:
    """Every image with a whole line in `path`: name, first byte, end.

    Raises:
        UserError: a line is not one of ours.
    """
    start = 0
    with open(path, "rb") as file:
        for line in file:
            if line.endswith(b"\n"):
                yield image_of(line, f"{path}, byte {start}"), start, start + len(line)
            start += len(line)


def image_of(line: bytes, where: str) -> str:
    """The name in a `Result.json_line`. Raises UserError if it is not one."""
    try:
        record = expect(parse_json(line, where), dict, where=where)
        captions = expect(record.get("captions"), list, where=f"{where}, captions")
        for caption in captions:
            expect(caption, dict, where=f"{where}, captions")
            expect(caption.get("text"), str, where=f"{where}, text")
        return expect(record.get("image"), str, where=f"{where}, image")
    except UserError as error:
        raise UserError(
            f"{error}: not a record of ours; repair the file, move it away, or start again with "
            "--overwrite"
        ) from error


def repair(path: Path) -> None:
    """Removes a half-written last line of a killed process, or adds its missing line end.

    Raises:
        UserError: the file holds a line that is not ours; it is not changed.
    """
    whole = 0
    for _, _, end in scan(path):
        whole = end
    with open(path, "r+b") as file:
        file.seek(whole)
        tail = file.read()
        if not tail:
            return
        try:
            image_of(tail, f"{path}, byte {whole}")
            file.write(b"\n")  # only the line end is missing, which some editors remove
        except UserError:
            if not _is_torn(tail):
                raise
            file.truncate(whole)


def _is_torn(line: bytes) -> bool:
    """Whether this is the beginning of a line of ours, and not yet JSON."""
    try:
        json.loads(line)
    except (ValueError, RecursionError):
        return line[: len(START)] == START[: len(line)]
    return False


def gather(to: Path, files: Sequence[Path], names: Iterable[str]) -> None:
    """Copies each image's line once, in the order of `names`; the others come last."""
    places: dict[str, tuple[int, int, int]] = {}
    for number, path in enumerate(files):
        for name, start, end in scan(path):
            places.setdefault(name, (number, start, end))
    with contextlib.ExitStack() as stack:
        sources = [stack.enter_context(open(path, "rb")) for path in files]
        target = stack.enter_context(open(to, "wb"))

        def copy(place: tuple[int, int, int]) -> None:
            number, start, end = place
            sources[number].seek(start)
            target.write(sources[number].read(end - start))

        for name in names:
            if name in places:
                copy(places.pop(name))
        for place in places.values():
            copy(place)


def beside(path: Path, ending: str) -> Path:
    return path.with_name(path.name + ending)


def parts(path: Path) -> list[Path]:
    """`path` if it exists, then its parts in order of rank."""
    found = []
    pattern = re.compile(re.escape(path.name) + r"\.part-(\d+)-of-(\d+)")
    if path.parent.is_dir():
        for name in os.listdir(path.parent):
            if match := pattern.fullmatch(name):
                found.append((int(match[2]), int(match[1]), path.with_name(name)))
    return [path] * path.is_file() + [part for _, _, part in sorted(found)]
