"""Files read and written with care.

Writing: a temporary file in the same folder is flushed to disk and renamed, so that a crash or a
full disk leaves the old file or the new one, never half of one. Reading: whatever a stranger's file
holds, the result is the value asked for or one line that says what is wrong with the file.
"""

import contextlib
import hashlib
import json
import os
import re
import secrets
import stat
import sys
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

from smile.errors import UserError, printable, reason_of

UNFINISHED = ".unfinished-"  # how the names of temporary files begin
LONGEST_SUFFIX = 16  # bytes; temporary files keep their suffix, which some writers look at
LARGEST_TEXT = 2**30  # bytes; far more than any text file that this project reads
SHOWN = 80  # characters of a wrong value that an error quotes
_LONE_SURROGATE = re.compile("[\ud800-\udfff]")


# Writing ------------------------------------------------------------------------------------------


def write_atomically(path: str | Path, write: Callable[[Path], object]) -> None:
    """Calls `write(temporary)`, flushes that file to disk and renames it to `path`.

    A replaced file keeps its permissions; a new one follows the process's umask. A symbolic link
    is followed and kept. A killed process leaves the temporary file; `remove_unfinished` removes
    it.

    Raises:
        OSError: the file cannot be written; the old one is untouched.
    """
    path = Path(os.path.realpath(path))
    temporary = _new_file(path)
    try:
        mode = temporary.stat().st_mode
        with contextlib.suppress(FileNotFoundError):
            mode = path.stat().st_mode
        write(temporary)
        flush(temporary)
        temporary.chmod(stat.S_IMODE(mode))  # safetensors writes a file that its owner alone reads
        temporary.replace(path)
        flush(path.parent)  # without this, the new name may not survive a loss of power
    finally:
        temporary.unlink(missing_ok=True)


def write_text(path: str | Path, text: str) -> None:
    """Writes UTF-8 text by `write_atomically`; surrogate escapes become their bytes again."""
    data = text.encode("utf-8", "surrogateescape")
    write_atomically(path, lambda temporary: temporary.write_bytes(data))


def _new_file(path: Path) -> Path:
    """Creates an empty file beside `path`, under a new random name."""
    suffix = path.suffix if len(os.fsencode(path.suffix)) <= LONGEST_SUFFIX else ""
    temporary = path.with_name(f"{UNFINISHED}{secrets.token_hex(8)}{suffix}")
    os.close(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666))
    return temporary


def flush(path: Path) -> None:
    """Returns once a file's contents, or a folder's names, are on the disk. Raises OSError."""
    on_windows = not hasattr(os, "O_DIRECTORY")
    if on_windows and path.is_dir():  # which cannot be opened there
        return
    handle = os.open(path, os.O_RDWR if on_windows else os.O_RDONLY)  # flushed only if writable
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def flush_all(folder: Path) -> None:
    """Returns once all files in a folder, and their names, are on the disk. Raises OSError.

    Linux is asked once for everything: a wait for each of thousands of files takes minutes.
    """
    if sys.platform == "linux":
        os.sync()
    else:
        for path in (*folder.iterdir(), folder):
            flush(path)


def remove(path: str | Path) -> None:
    """Removes a file, if it is there, for good: a loss of power does not bring it back."""
    path = Path(path)
    with contextlib.suppress(FileNotFoundError):
        path.unlink()
        flush(path.parent)


def make_folder(folder: Path) -> list[Path]:
    """Makes a folder, and those that it is in; returns the new ones, the innermost first.

    Raises:
        OSError: it cannot be made.
    """
    made = [path for path in (folder, *folder.parents) if not path.exists()]
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError:
        remove_empty(made)
        raise
    return made


def remove_empty(folders: Iterable[Path]) -> None:
    """Removes those of the folders that are there and empty, in this order."""
    for folder in folders:
        with contextlib.suppress(OSError):
            folder.rmdir()


def check_empty(folder: str | Path) -> None:
    """Raises UserError unless `folder` is empty or not there yet, so that nothing is lost."""
    folder = Path(folder)
    with reading(folder):
        if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
            raise UserError(f"{folder} is not an empty folder; name a new one, so nothing is lost")


def remove_unfinished(folder: Path) -> None:
    """Removes temporary files of killed processes below `folder`, where nobody may be writing."""
    for path in folder.rglob(f"{UNFINISHED}*"):
        path.unlink()


@contextlib.contextmanager
def writing(path: str | Path) -> Iterator[None]:
    """Turns an OSError from writing at or below `path` into a UserError."""
    try:
        yield
    except OSError as error:
        name = os.fsdecode(error.filename or path)
        if UNFINISHED in name:  # the user does not know that name
            name = str(path)
        raise UserError(f"{name}: cannot write: {reason_of(error)}") from error


def check_writable(path: str | Path) -> None:
    """Raises UserError unless a file can be written at `path`, in a folder that may be missing.

    Nothing is changed or left behind, and several processes may ask at once. A command checks its
    outputs so before it starts its work.
    """
    path = Path(path)
    with writing(path):
        with contextlib.suppress(FileNotFoundError):
            os.stat(path)  # fails on a name that the file system does not allow
            check_regular(path)
        real = Path(os.path.realpath(path))  # a link is followed
        there = next(folder for folder in real.parents if os.path.lexists(folder))
        for name in real.relative_to(there).parts:
            with contextlib.suppress(FileNotFoundError):
                os.stat(there / name)
        _new_file(there / real.name).unlink()


# Reading ------------------------------------------------------------------------------------------


@contextlib.contextmanager
def reading(path: str | Path) -> Iterator[None]:
    """Turns an OSError from reading at or below `path` into a UserError."""
    try:
        yield
    except OSError as error:
        raise UserError(f"{error.filename or path}: cannot be read: {reason_of(error)}") from error


def check_regular(path: str | Path) -> None:
    """Raises UserError unless `path` is a file: a pipe or a device might never end."""
    with reading(path):
        mode = os.stat(path).st_mode
    if stat.S_ISDIR(mode):
        raise UserError(f"{path}: it is a folder, expected a file")
    if not stat.S_ISREG(mode):
        raise UserError(f"{path}: not a regular file (a pipe or a device?)")


def read_text(path: str | Path, *, largest: int = LARGEST_TEXT, keep_bytes: bool = False) -> str:
    """The text of a UTF-8 file, without a byte order mark.

    Args:
        keep_bytes: keep bytes that are not UTF-8 as surrogate escapes, as Python does in file
            names; the caller finds them with `lone_surrogate`.

    Raises:
        UserError: there is no such file, it has more than `largest` bytes, or is not UTF-8.
    """
    check_regular(path)
    with reading(path), open(path, "rb") as file:
        size = max(os.fstat(file.fileno()).st_size, 2**20)  # read(n) allocates n bytes at once
        data = file.read(min(size, largest) + 1)
    if len(data) > largest:
        raise UserError(f"{path}: more than {largest} bytes, too many for such a file")
    try:
        return data.decode("utf-8-sig", "surrogateescape" if keep_bytes else "strict")
    except UnicodeDecodeError as error:
        raise UserError(
            f"{path}: not UTF-8 text (byte {error.start} is {data[error.start]:#04x}): "
            "save it as UTF-8"
        ) from error


def is_web_page(head: bytes) -> bool:
    """Whether a file with this `head` is a web page: often a log-in or error page in its place."""
    text = head.lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    return text.startswith((b"<!doctype", b"<html", b"<head", b"<?xml"))


def digest(path: str | Path, kind: str) -> str:
    """The checksum of a file, in hexadecimal; `kind` is hashlib's name of it. Raises OSError."""
    with open(path, "rb") as file:
        # Not for security: some systems refuse MD5 unless told so.
        make = partial(hashlib.new, kind, usedforsecurity=False)
        return hashlib.file_digest(file, make).hexdigest()


def sha256(path: str | Path) -> str:
    """The SHA-256 of a file, in hexadecimal. Raises OSError."""
    return digest(path, "sha256")


# JSON ---------------------------------------------------------------------------------------------


def json_line(value: Any) -> bytes:
    """One line of UTF-8 JSON; control characters and lone surrogates become JSON escapes."""
    text = json.dumps(value, ensure_ascii=False)
    if printable(text) != text or lone_surrogate(text):
        text = json.dumps(value)
    return text.encode() + b"\n"


def read_json(
    path: str | Path, kind: type = dict, *, unique: bool = False, largest: int = LARGEST_TEXT
) -> Any:
    """The value of a JSON file, which must be a `kind`.

    Args:
        unique: refuse an object that names one key twice.
        largest: most bytes that the file may have.

    Raises:
        UserError: there is no such file, it is too large, not JSON, or of another kind.
    """
    value = parse_json(read_text(path, largest=largest), str(path), unique=unique)
    return expect(value, kind, where=str(path))


def parse_json(text: str | bytes, where: str, *, unique: bool = False) -> Any:
    """The value of a JSON text; `where` is what an error names: "FILE" or "FILE, line N".

    Numbers of thousands of digits, nesting that Python cannot follow, NaN and Infinity (which are
    not JSON) are refused like any other mistake.
    """
    try:
        return json.loads(
            text,
            parse_constant=_refuse_constant,
            object_pairs_hook=_unique_keys if unique else None,
        )
    except RecursionError as error:
        raise UserError(f"{where}: not JSON that can be read: nested too deep") from error
    except ValueError as error:
        reason = "a number has too many digits" if "int_max_str_digits" in str(error) else error
        raise UserError(f"{where}: not JSON ({reason})") from error


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is no number")


def _unique_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        keys = [key for key, _ in pairs]
        twice = next(key for key in keys if keys.count(key) > 1)
        raise ValueError(f"{show(twice)} is named twice")
    return found


_KIND_WORDS = {
    dict: "an object {…}",
    list: "a list […]",
    str: "text",
    bool: "true or false",
    int: "a whole number",
    float: "a number",
}


def expect(value: Any, kind: type, *, where: str) -> Any:
    """`value` if it is a `kind` of JSON's (dict, list, str, bool, int, float), else UserError.

    A whole number is also a number; true and false are neither.
    """
    kinds = (int, float) if kind is float else kind
    if isinstance(value, kinds) and (kind is bool or not isinstance(value, bool)):
        return value
    raise UserError(f"{where}: found {show(value)}, expected {_KIND_WORDS[kind]}")


def show(value: Any) -> str:
    """A value as JSON writes it, cut short where it is long."""
    try:
        text = json.dumps(value, ensure_ascii=False, default=repr)
    except (RecursionError, ValueError):
        text = f"a deeply nested {type(value).__name__}"
    return text if len(text) <= SHOWN else text[: SHOWN - 1] + "…"


def lone_surrogate(text: str) -> str:
    r"""The first lone surrogate in `text` as "\ud83d", "" if there is none.

    JSON can express it, but it is not a character: neither a UTF-8 file nor a tokenizer takes it.
    In a file name it stands for a byte that is not UTF-8, and is valid.
    """
    found = None if text.isascii() else _LONE_SURROGATE.search(text)
    return ascii(found[0])[1:-1] if found else ""
