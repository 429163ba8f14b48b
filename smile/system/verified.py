"""Files that had the right checksum once: to hash a gigabyte takes seconds, at every start.

A note in the cache holds the size and the time of change of such a file. Any write to the file
makes the note worthless, and the file is hashed again.
"""

import contextlib
import hashlib
import os
from pathlib import Path

from smile.errors import UserError
from smile.system.files import digest, read_text, write_text

AT_ONCE = 10_000_000  # bytes; a file up to this size is hashed each time, in a few milliseconds


def cache_folder() -> Path:
    """Where this project keeps what it downloads: `$SMILE_CACHE`, or else `~/.cache/smile`."""
    return Path(os.environ.get("SMILE_CACHE") or "~/.cache/smile").expanduser()


def has_checksum(path: Path, checksum: str) -> bool:
    """Whether a file has the checksum, "sha256:HEX" or "md5:HEX", now or when it was last hashed.

    Raises:
        OSError: the file cannot be read.
    """
    if path.stat().st_size > AT_ONCE:
        with contextlib.suppress(UserError):  # a note that cannot be read is no note
            if read_text(_note(path), largest=1000) == _state(path, checksum):
                return True
    state = _state(path, checksum)
    kind, _, expected = checksum.lower().partition(":")
    if digest(path, kind) != expected:
        return False
    remember(path, checksum, state)
    return True


def remember(path: Path, checksum: str, state: str | None = None) -> None:
    """Notes that a file has the checksum; `state` is the file's before it was hashed."""
    if path.stat().st_size <= AT_ONCE:
        return
    with contextlib.suppress(OSError):  # a cache that cannot be written costs time, no more
        _note(path).parent.mkdir(parents=True, exist_ok=True)
        write_text(_note(path), state or _state(path, checksum))


def _note(path: Path) -> Path:
    """Where the note about a file is kept; the file's own folder may not be ours to write to."""
    name = hashlib.sha256(os.fsencode(os.path.abspath(path))).hexdigest()
    return cache_folder() / "verified" / name


def _state(path: Path, checksum: str) -> str:
    """What a note says: the checksum, and how the file looks without reading it."""
    found = path.stat()
    return f"{checksum.lower()} {found.st_size} {found.st_mtime_ns}\n"
