"""Pictures decoded once: a file of raw pixels that every process maps into memory.

Decoding and resizing a large photo takes longer than training on it takes a fast GPU. The file
holds every picture at the encoder's size, resized as for evaluation, 3 bytes a pixel:

    N pictures of S by S by 3 bytes │ JSON: key, size, unreadable pictures │ its length, 8 bytes

The key is a hash of the pictures' sources: a photo's path, length and modification time, or a
scene's description. A file with another key is made again. The mapped pages belong to the system's
file cache: all processes share them, and the system drops them if memory is short.
"""

import hashlib
import json
import os
import shutil
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from PIL import Image
from tqdm import tqdm

from smile.data.batches import Broken, read_picture
from smile.errors import UserError
from smile.model.images import Photo

FORMAT = 1
LENGTH = 8  # bytes at the end that say how long the JSON before them is


@dataclass(frozen=True)
class Decoded:
    """An example whose picture comes from a cache."""

    example: Any
    cache: "PictureCache"
    index: int

    @property
    def name(self) -> str:
        return self.example.name

    @property
    def captions(self) -> tuple[str, ...]:
        return self.example.captions

    def read(self) -> Image.Image:
        """The RGB picture at the cache's size. Raises UserError if it could not be decoded."""
        return self.cache.read(self.index)


class PictureCache:
    """The pictures of a cache file; can be sent to another process, which maps the file itself.

    Raises:
        UserError: the file is missing, or damaged.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)
        about = _about(self.path)
        if about is None:
            raise UserError(
                f"{path}: not a whole cache of pictures; remove it to have it made again"
            )
        self.key, self.size, self.count = about["key"], about["size"], about["count"]
        self.broken = {int(index): reason for index, reason in about["broken"].items()}
        self._pixels: np.ndarray | None = None

    def read(self, index: int) -> Image.Image:
        """Picture `index`, RGB. Raises UserError if the original could not be read."""
        if index in self.broken:
            raise UserError(self.broken[index])
        if self._pixels is None:
            shape = (self.count, self.size, self.size, 3)
            self._pixels = np.memmap(self.path, dtype=np.uint8, mode="r", shape=shape)
        return Image.fromarray(np.array(self._pixels[index]))

    def __getstate__(self) -> dict:
        return vars(self) | {"_pixels": None}  # pickling the map would copy all pixels


def cached(examples: Sequence, path: str | os.PathLike[str], *, size: int) -> list[Decoded]:
    """The examples with their pictures from the cache at `path`, which must hold exactly these.

    Raises:
        UserError: it holds others, or is missing or damaged.
    """
    cache = PictureCache(path)
    if cache.key != cache_key(examples, size=size):
        raise UserError(f"{path}: holds other pictures; remove it to have it made again")
    return [Decoded(example, cache, index) for index, example in enumerate(examples)]


def make_cache(
    examples: Sequence,
    path: str | os.PathLike[str],
    *,
    size: int,
    write: Callable[[Path, Callable[[Path], None]], None],
    skip_broken: bool = False,
    say: Callable[[str], None] = print,
) -> None:
    """Makes the cache at `path`, unless it is there and holds exactly these pictures.

    Args:
        size: side of the square pictures.
        write: `files.write_atomically`, so that the file is never half-written.
        skip_broken: record pictures that cannot be read, instead of stopping at the first.

    Raises:
        UserError: a picture cannot be read, or the disk has too little space.
    """
    path = Path(path)
    key = cache_key(examples, size=size)
    about = _about(path) if path.exists() else None
    if about is not None and about["key"] == key:
        return
    if path.exists() and about is None:
        raise UserError(f"data.cache = {path}: is not a cache of pictures; name another file")
    path.parent.mkdir(parents=True, exist_ok=True)
    needed, free = len(examples) * size * size * 3, shutil.disk_usage(path.parent).free
    if needed > free:
        raise UserError(
            f"data.cache = {path}: {len(examples)} pictures take {needed / 1e9:.1f} GB, but "
            f"{free / 1e9:.1f} GB are free; name a file on another disk, or unset data.cache"
        )
    say(f"{path}: decoding {len(examples)} pictures, {needed / 1e9:.2f} GB")

    def save(temporary: Path) -> None:
        with open(temporary, "wb") as file:
            broken = _write_pictures(file, examples, size=size, skip_broken=skip_broken)
            about = {"key": key, "size": size, "count": len(examples), "broken": broken}
            text = json.dumps(about).encode()
            file.write(text + len(text).to_bytes(LENGTH, "little"))

    write(path, save)


def cache_key(examples: Sequence, *, size: int) -> str:
    """A hash of the pictures' sources and their size."""
    digest = hashlib.sha256(f"{FORMAT} {size}".encode())
    for example in examples:
        digest.update(repr(_source(example)).encode())
    return digest.hexdigest()


def _source(example: Any) -> Any:
    """A picture's source: the state of a photo's file, or the example itself."""
    if not isinstance(example, Photo):
        return example
    try:
        status = os.stat(example.path)
    except OSError:
        return example.name, None
    return example.name, status.st_size, status.st_mtime_ns


def _write_pictures(
    file: BinaryIO, examples: Sequence, *, size: int, skip_broken: bool
) -> dict[int, str]:
    """Writes the pictures in order; returns index → reason of those unreadable, left black."""
    broken = {}
    pictures = _decode(examples, size, skip_broken=skip_broken)
    bar = tqdm(pictures, total=len(examples), desc="decoding", unit=" images",
               leave=False, disable=None)  # fmt: skip
    for index, picture in enumerate(bar):
        if isinstance(picture, Broken):
            broken[index] = picture.reason
            picture = bytes(size * size * 3)
        file.write(picture)
    return broken


def _decode(examples: Sequence, size: int, *, skip_broken: bool) -> Iterator[bytes | Broken]:
    """The pixels of each, by threads (decoders release the GIL), a few pictures ahead."""

    def pixels(example: Any) -> bytes | Broken:
        picture = read_picture(example, skip_broken=skip_broken)
        if isinstance(picture, Broken):
            return picture
        return picture.resize((size, size), Image.Resampling.BICUBIC).tobytes()

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        for start in range(0, len(examples), 64):
            yield from pool.map(pixels, examples[start : start + 64])


def _about(path: Path) -> dict[str, Any] | None:
    """The JSON of a cache file; None if the file is not whole."""
    try:
        with open(path, "rb") as file:
            end = file.seek(-LENGTH, os.SEEK_END)
            length = int.from_bytes(file.read(LENGTH), "little")
            file.seek(end - length)
            about = json.loads(file.read(length))
            whole = end - length == about["count"] * about["size"] ** 2 * 3
    except (OSError, ValueError, KeyError, TypeError, OverflowError):
        return None
    return about if whole else None
