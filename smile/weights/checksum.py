"""A file's SHA-256 beside it, in the form that `sha256sum -c` reads.

    runs/shapes/
        model.safetensors
        model.safetensors.sha256    "0123…  model.safetensors"

A flipped bit in the weights raises no error when they are loaded and only makes captions worse; the
checksum reveals it. A file without one is accepted: older runs have none.
"""

import re
import threading
from collections.abc import Callable
from pathlib import Path

from smile.errors import UserError
from smile.system.files import read_text, reading, remove, sha256, write_atomically, write_text

AT_ONCE = 200_000_000  # bytes; a file up to this size is hashed first, in a fraction of a second
TRIES = 3  # a file may be replaced while it is read
_LINE = re.compile(r"\\?([0-9a-fA-F]{64}) [ *](.+)")


def checksum_path(path: str | Path) -> Path:
    """Where the checksum of a file is kept."""
    path = Path(path)
    return path.with_name(f"{path.name}.sha256")


def write_with_checksum(path: str | Path, write: Callable[[Path], None]) -> None:
    """`files.write_atomically`, and the file's checksum beside it.

    The old checksum is removed first, then the file is replaced, then the new checksum is written.
    So a crash at any moment leaves a whole file, old or new, with its own checksum or none.

    Raises:
        OSError: one of them cannot be written; a whole file, old or new, is left.
    """
    path = Path(path)
    digest = ""

    def write_and_hash(temporary: Path) -> None:
        nonlocal digest
        write(temporary)
        digest = sha256(temporary)
        remove(checksum_path(path))

    write_atomically(path, write_and_hash)
    write_text(checksum_path(path), f"{digest}  {path.name}\n")


def check_sum(path: str | Path) -> None:
    """Compares a file with the checksum beside it, if there is one.

    Raises:
        UserError: they differ, or the checksum file does not name this file.
    """
    path = Path(path)
    for _ in range(TRIES):
        written = _read(path)
        if written is None:
            return
        expected = written
        with reading(path):
            found = sha256(path)
        if found == expected:
            return
        if _read(path) == expected:  # else training has just replaced both
            break
    note = checksum_path(path)
    raise UserError(
        f"{path}: not what was written: its SHA-256 is {found[:12]}…, {note.name} says "
        f"{expected[:12]}…; copy it again, or, if you changed it yourself, delete {note}"
    )


def start_check(path: str | Path) -> Callable[[], None]:
    """Starts `check_sum` in a thread; returns a function that waits for it and raises its error.

    A file of up to `AT_ONCE` bytes is checked before this returns.
    """
    path = Path(path)
    problems: list[UserError] = []

    def work() -> None:
        try:
            check_sum(path)
        except UserError as error:
            problems.append(error)

    def wait() -> None:
        thread.join()
        if problems:
            raise problems[0]

    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    with reading(path):
        small = path.stat().st_size <= AT_ONCE
    if small:
        wait()
    return wait


def _read(path: Path) -> str | None:
    """The checksum beside a file, in lower case; None if there is none."""
    note = checksum_path(path)
    try:
        text = read_text(note, largest=100_000)
    except UserError as error:
        if isinstance(error.__cause__, FileNotFoundError):
            return None
        raise
    lines = [match for line in text.splitlines() if (match := _LINE.fullmatch(line))]
    found = {match[1].lower() for match in lines if match[2] == path.name}
    if len(found) != 1:
        raise UserError(
            f"{note}: expected one line, a SHA-256 and the name {path.name}; delete the file, or "
            f"write it again with `sha256sum {path.name} > {note.name}` in its folder"
        )
    return found.pop()
