"""The images in a tar, one after another as they come: nothing is unpacked, nothing held whole.

`tarfile` reads the headers, from a file that can only go forward and that refuses to give a header
more than a header needs. (WebDataset's own library rests on `tarfile` too, and takes any size.)
"""

import bz2
import gzip
import lzma
import re
import tarfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import IO, Any, Protocol, cast

from PIL import Image

from smile.data.batches import Broken
from smile.errors import UserError
from smile.model.images import read_image
from smile.system.missing import shown_size
from smile.system.picture_files import is_image, other_picture

LARGEST_IMAGE = 2**27  # bytes
LARGEST_HEADER = 2**20  # bytes, with the long names and such that come before an entry
STEP = 2**20  # bytes skipped at a time
# Everything before the first dot of the base name, and the rest: WebDataset's own pattern.
_KEY = re.compile(r"((?:.*/|)[^.]+)[.]([^/]*)", re.DOTALL)
_COMPRESSED: dict[bytes, Callable[[Any], Any]] = {
    b"\x1f\x8b": lambda file: gzip.GzipFile(fileobj=file),
    b"BZh": bz2.BZ2File,
    b"\xfd7zXZ": lzma.LZMAFile,
}


class Readable(Protocol):
    def read(self, size: int = -1, /) -> bytes: ...


@dataclass(frozen=True)
class TarImage:
    """An image of a tar as `read_batches` takes it: its name, and the bytes of the file."""

    name: str
    data: bytes
    captions: tuple[str, ...] = ()

    def read(self) -> Image.Image:
        return read_image(self.data, self.name)


def key_of(name: str) -> str | None:
    """WebDataset's key of a file: "a/b" of "a/b.seg.png"; None if it has none."""
    match = _KEY.fullmatch(name)
    return match[1] if match else None


class TarImages:
    """Iterates over a tar, compressed or not: a `TarImage`, or a `Broken`, for each image in it.

    `num_others` counts what else was passed by: the .json and .txt beside an image, and so on.

    Raises:
        UserError: (when iterated) it is no tar, or damaged from somewhere on.
    """

    def __init__(self, file: Readable) -> None:
        self._file = file
        self.num_others = 0

    def __iter__(self) -> Iterator[TarImage | Broken]:
        last = ""
        try:
            for found in self._images():
                last = f", after {found.name}"
                yield found
        except UserError:
            raise
        except Exception as error:  # damaged bytes raise any type of exception
            words = " ".join(str(error).split()) or type(error).__name__
            raise UserError(f"not a whole tar: {words}{last}") from error

    def _images(self) -> Iterator[TarImage | Broken]:
        names: set[int] = set()  # hashes: a tar may have a million entries
        stream = _Forward(_decompressed(self._file))
        archive = tarfile.TarFile(
            fileobj=cast(IO[bytes], stream), mode="r"
        )  # reads the first header
        while (entry := stream.next_entry(archive)) is not None:
            if not _is_picture(entry):
                self.num_others += not entry.isdir()
                continue
            if reason := _refusal(entry, names):
                yield Broken(entry.name, reason)
                continue
            names.add(hash(entry.name))
            stream.seek(entry.offset_data)
            data = stream.read(entry.size)
            if len(data) < entry.size:
                raise ValueError(f"{entry.name} is cut off after {len(data)} bytes")
            yield TarImage(entry.name, data)


def _is_picture(entry: tarfile.TarInfo) -> bool:
    """Whether an entry is for an image: one that is not read is not passed by in silence."""
    return (
        not entry.isdir()
        and key_of(entry.name) is not None
        and (is_image(entry.name) or _unread_kind(entry.name) is not None)
    )


def _unread_kind(name: str) -> str | None:
    suffix = PurePosixPath(name).suffix
    return other_picture(f"x{suffix}") if suffix else None


def _refusal(entry: tarfile.TarInfo, names: set[int]) -> str:
    """Why an entry is not read, "" if it is; `names` has the hashes of those before it."""
    path = PurePosixPath(entry.name)
    if path.is_absolute() or ".." in path.parts:
        return "its name leads out of the tar (it is absolute, or has ..): not read"
    if hash(entry.name) in names:
        return "a second entry of this name: only the first is read"
    if not entry.isreg() or entry.issparse():
        return "not a regular file (a link, a device or a sparse file): not read"
    if entry.size > LARGEST_IMAGE:
        return f"{shown_size(entry.size)}, of at most {shown_size(LARGEST_IMAGE)} that are read"
    if kind := _unread_kind(entry.name):
        return f"{kind} is a kind of picture that is not read"
    return ""


class _Forward:
    """What `tarfile` needs of a file, for one that can only be read from beginning to end."""

    def __init__(self, file: Readable) -> None:
        self._file = file
        self._position = 0
        self._left: int | None = LARGEST_HEADER  # bytes that may be read for a header
        self._last = b""

    def next_entry(self, archive: tarfile.TarFile) -> tarfile.TarInfo | None:
        """The next header of `archive`, which reads this file; None at the end mark."""
        self._left = LARGEST_HEADER
        entry = archive.next()
        self._left = None
        archive.members = []  # type: ignore[attr-defined]  # or it would remember every entry
        if len(archive.pax_headers) > 1000:
            raise ValueError("its global header grows without end")
        if entry is None and self._last != bytes(tarfile.BLOCKSIZE):
            found = "a damaged header" if self._last.strip(b"\0") else "nothing"
            raise ValueError(f"{found} where the next entry or the end mark should be")
        return entry

    def tell(self) -> int:
        return self._position

    def seek(self, position: int, whence: int = 0) -> int:
        if whence or position < self._position:
            raise ValueError("an entry begins before the end of the one before it")
        while self._position < position and self._take(min(STEP, position - self._position)):
            pass
        return self._position

    def read(self, size: int) -> bytes:
        """`size` bytes, fewer at the end; memory grows with what is there, not with `size`."""
        if self._left is not None:
            self._left -= size
            if self._left < 0:
                raise ValueError(f"a header of more than {shown_size(LARGEST_HEADER)}")
        pieces = []
        while size > 0 and (piece := self._take(size)):
            pieces.append(piece)
            size -= len(piece)
        self._last = b"".join(pieces)
        return self._last

    def _take(self, size: int) -> bytes:
        data = self._file.read(min(size, STEP))
        self._position += len(data)
        return data


class _Peeked:
    """A file whose first bytes were read already."""

    def __init__(self, head: bytes, file: Readable) -> None:
        self._head, self._file = head, file

    def read(self, size: int = -1) -> bytes:
        if not self._head:
            return self._file.read(size)
        size = len(self._head) if size < 0 else size
        data, self._head = self._head[:size], self._head[size:]
        return data


def _decompressed(file: Readable) -> Readable:
    """The tar itself, by the first bytes of the file."""
    head = b""
    while len(head) < 6 and (more := file.read(6 - len(head))):
        head += more
    peeked = _Peeked(head, file)
    for magic, reader in _COMPRESSED.items():
        if head.startswith(magic):
            return reader(peeked)
    return peeked
