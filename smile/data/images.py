"""From an image file to the tensor the encoder reads.

Deliberately free of torchvision, whose import alone takes seconds: describing one photo needs only
Pillow and torch. Augmentation, which training alone needs, is in `augment.py`.
"""

import contextlib
import os
import stat
import warnings
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np
import torch
from PIL import Image, ImageOps, UnidentifiedImageError
from torch import Tensor

from smile.errors import UserError

# The statistics CLIP was trained with, which BLIP keeps.
MEAN = (0.48145466, 0.4578275, 0.40821073)
STD = (0.26862954, 0.26130258, 0.27577711)

# What people hand in from Python, and its description.
Picture = str | os.PathLike | Image.Image | np.ndarray
_PICTURE = "a path, a Pillow image, or an (H, W, 3) or (H, W) array of uint8"

# What is read, by content. Not all that Pillow knows: EPS, for one, would start Ghostscript.
FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "DIB", "TIFF", "PPM", "AVIF", "JPEG2000")

# With these, no picture takes 1 GB: a decoded one has 4 bytes a pixel, but WebP decodes by way of
# three copies, and flattening transparency takes a second and a third; resizing has a table of
# 32 bytes per pixel of a side.
MAX_PIXELS = 50_000_000
MAX_SIDE = 1_000_000


@dataclass(frozen=True)
class Photo:
    """An image file and its captions, cleaned and without the prompt."""

    path: str | os.PathLike[str]
    captions: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        """What to call the photo in front of people: its path."""
        return os.fspath(self.path)

    def read(self) -> Image.Image:
        """Return the RGB picture. Raises UserError with the path where it cannot be read."""
        return open_image(self.path)


def open_image(path: str | os.PathLike[str]) -> Image.Image:
    """Read an image file of one of `FORMATS` as an upright 8-bit RGB picture.

    EXIF orientation is applied, transparency is laid on white, 16-bit greys are scaled down to
    8 bit and an animation gives its first frame. A JPEG of more than `MAX_PIXELS` is read at half
    its size. Raises UserError, naming the path and the reason, for whatever cannot be read: a
    missing or empty file, not an image, truncated, absurdly large. Takes less than 1 GB of memory,
    whatever the file says.
    """
    try:
        _refuse_what_is_no_file(path)
        with warnings.catch_warnings():  # what is odd but can be read is nobody's concern
            warnings.simplefilter("ignore")
            # Given a path, Pillow maps some TIFF files, and then turns those on their side wrongly.
            with open(path, "rb") as file, Image.open(file, formats=_formats()) as image:
                _refuse_huge(image)
                image.load()
                return to_rgb(image, in_place=True)
    except Exception as error:  # decoders meet broken bytes with every type of exception there is
        raise UserError(
            f"{os.fspath(path)}: cannot read this image: {_reason(path, error)}"
        ) from error


@cache
def _formats() -> tuple[str, ...]:
    """Those of `FORMATS` that this Pillow was built with."""
    Image.init()
    return tuple(name for name in FORMATS if name in Image.OPEN)


def _refuse_what_is_no_file(path: str | os.PathLike[str]) -> None:
    """A pipe or a device might never end."""
    mode = os.stat(path).st_mode
    if stat.S_ISDIR(mode):
        raise IsADirectoryError
    if not stat.S_ISREG(mode):
        raise ValueError("not a regular file")


def _refuse_huge(image: Image.Image) -> None:
    """Raises before anything is decoded, on the strength of the size in the header."""
    if image.width * image.height > MAX_PIXELS:
        image.draft("RGB", (image.width // 2, image.height // 2))  # only JPEG can
    if image.width * image.height > MAX_PIXELS or max(image.size) > MAX_SIDE:
        raise ValueError(
            f"{image.width} x {image.height} pixels may be a decompression bomb; at most "
            f"{MAX_PIXELS / 1e6:.0f} million pixels and sides of {MAX_SIDE} are read"
        )


def _reason(path: str | os.PathLike[str], error: Exception) -> str:
    """Say in plain words why `path` could not be read."""
    if isinstance(error, FileNotFoundError):
        return "no such file"
    if isinstance(error, IsADirectoryError):
        return "it is a folder"
    if isinstance(error, UnidentifiedImageError):
        return "not an image file" if os.path.getsize(path) else "the file is empty"
    if isinstance(error, OSError) and error.strerror:
        return error.strerror.lower()
    return " ".join(str(error).split()) or type(error).__name__


def are_several(given: object) -> bool:
    """Whether somebody hands in a list of pictures rather than one."""
    return isinstance(given, Sequence) and not isinstance(given, str | bytes | bytearray)


def pictures_of(given: Iterable[Picture]) -> Iterator[Image.Image]:
    """`picture_of` each; a TypeError says which it is about."""
    for number, one in enumerate(given):
        try:
            yield picture_of(one)
        except TypeError as error:
            raise TypeError(f"picture {number}: {error}") from None


def picture_of(given: Picture) -> Image.Image:
    """What somebody calls a picture, as `open_image` would give it.

    Args:
        given: a path, a Pillow image of any mode, or an (H, W, 3) or (H, W) array of uint8.

    Raises:
        TypeError: it is none of these.
        UserError: its pixels cannot be read.
    """
    if isinstance(given, str | os.PathLike):
        return open_image(given)
    if isinstance(given, np.ndarray):
        given = _from_array(given)
    if not isinstance(given, Image.Image):
        raise TypeError(f"found a {type(given).__name__}, expected {_PICTURE}")
    name = getattr(given, "filename", "") or f"a picture of mode {given.mode}"
    try:
        if 0 in given.size:
            raise ValueError("it has no pixels")
        given.load()
        return to_rgb(given)
    except Exception as error:
        raise UserError(f"{name}: cannot read this image: {_reason(name, error)}") from error


def _from_array(array: np.ndarray) -> Image.Image:
    shape_fits = array.ndim == 2 or (array.ndim == 3 and array.shape[2] == 3)
    if not (shape_fits and array.size and array.dtype == np.uint8):
        raise TypeError(
            f"found an array of shape {array.shape} and type {array.dtype}, expected {_PICTURE}"
        )
    return Image.fromarray(array)


def to_rgb(image: Image.Image, *, in_place: bool = False) -> Image.Image:
    """An upright 8-bit RGB picture of a loaded one of any mode; `in_place` may turn the old one."""
    # Damaged metadata beside sound pixels: every viewer shows those as they are.
    with contextlib.suppress(Exception):
        image = ImageOps.exif_transpose(image, in_place=in_place) or image
    return _to_rgb(image)


def _to_rgb(image: Image.Image) -> Image.Image:
    """Bring a picture of any mode to 8-bit RGB, with at most one more copy at a time."""
    if image.mode == "La":  # premultiplied, and Pillow converts it to nothing else
        image = image.convert("LA")
    if image.mode == "F" or image.mode.startswith("I"):
        return _to_8_bit(image).convert("RGB")
    if image.has_transparency_data:
        image = image if image.mode == "RGBA" else image.convert("RGBA")
        white = Image.new("RGB", image.size, "white")
        white.paste(image, mask=image)
        return white
    return image.convert("RGB")


def _to_8_bit(image: Image.Image) -> Image.Image:
    """Scale a 16-bit, 32-bit or float grey to 8 bit; Pillow's own conversion clips it at 255.

    Integers are 16-bit samples unless their values say otherwise. Floats do not say which value is
    white, so it is the smallest customary one (1, 255 or 65535) that no sample exceeds. What is no
    number is black.
    """
    largest = max(strip.max() for _, strip in _strips(image))
    whites = (1.0, 255.0, 65535.0) if image.mode == "F" else (65535.0,)
    white = next((white for white in whites if largest <= white), largest)
    scaled = Image.new("L", image.size)
    for top, strip in _strips(image):
        grey = (strip / white * 255).round().clip(0, 255).astype(np.uint8)
        scaled.paste(Image.fromarray(grey), (0, top))
    return scaled


def _strips(image: Image.Image) -> Iterator[tuple[int, np.ndarray]]:
    """(top, float64 samples) of a million pixels at a time; of the whole they take much memory."""
    height = max(1, 1_000_000 // image.width)
    for top in range(0, image.height, height):
        strip = image.crop((0, top, image.width, min(top + height, image.height)))
        yield top, np.nan_to_num(np.asarray(strip, dtype=np.float64))


def to_pixels(image: Image.Image) -> Tensor:
    """RGB picture → (3, H, W) uint8."""
    return torch.from_numpy(np.array(image)).permute(2, 0, 1).contiguous()


def normalise(image: Image.Image) -> Tensor:
    """RGB picture → (3, H, W) float32 with CLIP's mean and standard deviation."""
    pixels = to_pixels(image).float().div_(255)
    return pixels.sub_(torch.tensor(MEAN).view(3, 1, 1)).div_(torch.tensor(STD).view(3, 1, 1))


class EvalTransform:
    """RGB picture → (3, size, size) float32: BLIP's bicubic resize to a square, then `normalise`.

    The resize is Pillow's, on 8-bit samples and with antialiasing, because the released weights
    were trained on that; resizing tensors gives slightly different pixels.
    """

    def __init__(self, size: int) -> None:
        self.size = size

    def __call__(self, image: Image.Image) -> Tensor:
        return normalise(image.resize((self.size, self.size), Image.Resampling.BICUBIC))
