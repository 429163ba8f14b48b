"""The images of a batch, in whatever form other libraries hand them over."""

import contextlib
import copy
import hashlib
import os
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from PIL import Image

from smile.errors import UserError, brief
from smile.model.images import open_image, picture_of, read_image

Column = Sequence[Any] | np.ndarray


def images_of(batch: Mapping[str, Any], name: str) -> Column:
    """A batch's column of images.

    `datasets` would decode the whole column to hand it over: a single broken image would end the
    job, and what was decoded would be encoded again. So its column is taken as it is stored.

    Raises:
        UserError: this is no batch, or it has no such column.
    """
    if not isinstance(batch, Mapping):
        raise UserError(
            f"smile.Describer: found a {type(batch).__name__}, expected a batch, a dict of "
            'columns: give map batched=True, or map_batches batch_format="numpy"'
        )
    if name not in batch:
        raise UserError(
            f"smile.Describer: the batch has no column {name!r}, but "
            f"{brief(', '.join(map(str, batch)))}: say with image=… which one has the images"
        )
    images = None
    if type(batch).__name__ == "LazyBatch":  # of `datasets`
        stored: Any = batch
        images = stored.pa_table[name].to_pylist()
    if images is None or any(map(_is_remote, images)):
        images = copy.copy(batch)[name]  # `datasets` encodes again what was read of the original
    is_one = isinstance(images, np.ndarray) and (
        images.ndim == 0 or (images.ndim == 3 and images.shape[2] == 3)
    )
    if is_one or not isinstance(images, list | tuple | np.ndarray):
        raise UserError(
            f"smile.Describer: column {name!r} is a {type(images).__name__}, expected a list or an "
            "array with an image for each row: give map batched=True, or use map_batches"
        )
    return images


def _is_remote(image: object) -> bool:
    """Whether only `datasets` can open it: it has an address and no bytes."""
    if not isinstance(image, Mapping) or image.get("bytes") is not None:
        return False
    return "://" in str(image.get("path"))


class BatchImage:
    """Row `row` of a column of images, as an `Example` to be described.

    With `named`, its name ends with that of its file, or else with a hash of its content, which
    decides on its seed. `row_of` finds the row from the name.
    """

    captions = ()

    def __init__(self, row: int, image: object, *, named: bool) -> None:
        self.image = image
        self.name = f"{row}/{_name(image) if named else ''}"

    def read(self) -> Image.Image:
        """The RGB picture. Raises UserError if it cannot be read."""
        image = self.image
        if isinstance(image, float | np.floating) and np.isnan(image):
            image = None  # which Ray Data makes a NaN where a column has nothing else
        if image is None:
            raise UserError("there is no image")
        if isinstance(image, Mapping) and ("bytes" in image or "path" in image):
            data, path = image.get("bytes"), image.get("path")
            image = path if data is None else data
            if image is None:
                raise UserError("there is no image: it has neither bytes nor a path")
        if isinstance(image, bytes | bytearray | memoryview):
            return read_image(bytes(image), self.name)
        try:
            return open_image(image) if isinstance(image, str) else picture_of(image)
        except TypeError as error:
            raise UserError(error) from error


def row_of(name: str) -> int:
    """The row of the `BatchImage` that has this name."""
    return int(name.partition("/")[0])


def _name(image: object) -> str:
    """What an image is told apart by: the path of its file, or a hash of its content."""
    if isinstance(image, Mapping):
        image = image.get("path") or image.get("bytes")
    if isinstance(image, str | os.PathLike):
        return os.fspath(image)
    content = b""
    with contextlib.suppress(Exception):  # Pillow's may be broken, which is told when it is read
        if isinstance(image, np.ndarray | Image.Image):
            content = image.tobytes()
        elif isinstance(image, bytes | bytearray | memoryview):
            content = bytes(image)
    return hashlib.blake2b(content, digest_size=16).hexdigest()
