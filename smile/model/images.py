"""From an image file to the tensor the encoder reads.

This module does not import torchvision, which takes seconds: captioning one photo needs only Pillow
and torch. Augmentation, which only training needs, is in `augment.py`.
"""

import contextlib
import importlib
import io
import os
import stat
import warnings
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from typing import BinaryIO, TypeGuard

import numpy as np
import torch
from PIL import Image, ImageOps, UnidentifiedImageError
from torch import Tensor

from smile.errors import UserError, reason_of
from smile.system.picture_files import HEAD, heif_plugin, is_heif

# The statistics CLIP was trained with, which BLIP keeps.
MEAN = (0.48145466, 0.4578275, 0.40821073)
STD = (0.26862954, 0.26130258, 0.27577711)

# What the Python interface takes as a picture, and its description.
Picture = str | os.PathLike[str] | Image.Image | np.ndarray
_PICTURE = "a path, a Pillow image, or an (H, W, 3) or (H, W) array of uint8"

# The formats that are read, by content. Not all of Pillow's: EPS, for one, would start Ghostscript.
FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "DIB", "TIFF", "PPM", "AVIF", "JPEG2000")

# With these limits, no picture takes more than 1 GB of memory, measured for each format. Decoding
# takes up to 13 bytes a pixel (TIFF in one strip), WebP 16 and JPEG 2000 19. A large JPEG is
# decoded at half its size unless it is progressive. Resizing needs a table of 32 bytes per pixel of
# a side.
MAX_PIXELS = 75_000_000
MAX_PIXELS_OF = {"WEBP": 60_000_000, "JPEG2000": 50_000_000, "JPEG": 200_000_000}
MAX_SIDE = 1_000_000
LARGE = 50_000_000  # pixels; a larger picture is read at half its size
STRIP = 1_000_000  # pixels converted at a time, to save memory


@dataclass(frozen=True)
class Photo:
    """An image file and its captions, cleaned and without the prompt.

    outside: whether the file is outside the folder of the data set.
    """

    path: str | os.PathLike[str]
    captions: tuple[str, ...] = ()
    outside: bool = False

    @property
    def name(self) -> str:
        """The path, for messages."""
        return os.fspath(self.path)

    def read(self) -> Image.Image:
        """Returns the RGB picture. Raises UserError with the path if it cannot be read."""
        return open_image(self.path)


def open_image(path: str | os.PathLike[str]) -> Image.Image:
    """Reads an image file of one of `FORMATS` as an upright 8-bit RGB picture.

    EXIF orientation is applied, transparency becomes white, 16-bit greys are scaled to 8 bit, and
    an animation gives its first frame. A picture of more than `LARGE` pixels is read at half its
    size. HEIC is read if pi-heif or pillow-heif is installed. Takes less than 1 GB of memory,
    whatever the file holds.

    Raises:
        UserError: naming the path and the reason: a missing or empty file, not an image, truncated,
            too large.
    """
    with _saying_why(path):
        _require_regular_file(path)
        # Given a path, Pillow maps some TIFF files into memory and then rotates them wrongly.
        with open(path, "rb") as file:
            return _read(file)


def read_image(data: bytes, name: str, *, longest: int | None = None) -> Image.Image:
    """Reads the bytes of an image file as `open_image` does; errors name it `name`.

    Args:
        longest: most pixels that a side of the result may have. A JPEG much larger than that is
            decoded at a half, a quarter or an eighth of its size, which saves time and memory.

    Raises:
        UserError: naming `name` and the reason.
    """
    with _saying_why(name):
        return _read(io.BytesIO(data), longest)


@contextlib.contextmanager
def _saying_why(name: str | os.PathLike[str]) -> Iterator[None]:
    """Turns whatever goes wrong while a picture is read into a UserError."""
    try:
        yield
    except Exception as error:  # decoders raise any type of exception on broken bytes
        raise UserError(f"{os.fspath(name)}: cannot read this image: {_reason(error)}") from error


def _read(file: BinaryIO, longest: int | None = None) -> Image.Image:
    with warnings.catch_warnings():  # Pillow warns about unusual but readable files
        warnings.simplefilter("ignore")
        with _open(file) as image:
            _refuse_huge(image)
            if longest is not None:
                scale = min(1, longest / max(image.size))
                width, height = (max(1, int(side * scale)) for side in image.size)
                image.draft("RGB", (width, height))
            image.load()
            image = to_rgb(image, in_place=True)
    if longest is not None:
        image.thumbnail((longest, longest), Image.Resampling.LANCZOS)
    return image


def _open(file: BinaryIO) -> Image.Image:
    """Opens the picture, reading only its header; imports HEIC's plugin only if needed."""
    head = file.read(HEAD)
    file.seek(0)
    try:
        return Image.open(file, formats=_formats())
    except UnidentifiedImageError:
        if not head:
            raise ValueError("the file is empty") from None
        if not is_heif(head):
            raise
    plugin = heif_plugin()
    if plugin is None:
        raise ValueError("a HEIC picture: pip install pi-heif to read it, or convert it to JPEG")
    importlib.import_module(plugin).register_heif_opener()
    try:
        return Image.open(file, formats=("HEIF",))
    except UnidentifiedImageError:  # how the plugin refuses what it cannot read
        raise ValueError("this HEIC picture is cut short or damaged: copy it again") from None


@cache
def _formats() -> tuple[str, ...]:
    """Those of `FORMATS` that the installed Pillow supports."""
    Image.init()
    return tuple(name for name in FORMATS if name in Image.OPEN)


def _require_regular_file(path: str | os.PathLike[str]) -> None:
    """Raises for a folder, a pipe or a device: reading the last two might never end."""
    mode = os.stat(path).st_mode
    if stat.S_ISDIR(mode):
        raise IsADirectoryError
    if not stat.S_ISREG(mode):
        raise ValueError("not a regular file")


def _refuse_huge(image: Image.Image) -> None:
    """Raises, before decoding, if the size in the header is too large."""
    form = "JPEG" if image.format == "MPO" else image.format or ""
    most = MAX_PIXELS if image.info.get("progressive") else MAX_PIXELS_OF.get(form, MAX_PIXELS)
    if image.width * image.height > most or max(image.size) > MAX_SIDE:
        raise ValueError(
            f"{image.width} x {image.height} pixels may be a decompression bomb; at most "
            f"{most / 1e6:.0f} million pixels and sides of {MAX_SIDE} are read"
        )
    if image.width * image.height > LARGE:
        image.draft("RGB", (image.width // 2, image.height // 2))  # only JPEG can


def _reason(error: Exception) -> str:
    """Why a picture could not be read, in plain words."""
    if isinstance(error, FileNotFoundError):
        return "no such file"
    if isinstance(error, IsADirectoryError):
        return "it is a folder"
    if isinstance(error, UnidentifiedImageError):
        return "not an image file"
    if isinstance(error, Image.DecompressionBombError):  # Pillow's own limit, while opening
        return f"it has too many pixels; at most {MAX_PIXELS / 1e6:.0f} million are read"
    if isinstance(error, OSError) and error.strerror:
        return reason_of(error)
    reason = " ".join(str(error).split()) or type(error).__name__
    return f"the file is cut short ({reason})" if "truncated" in reason.lower() else reason


def are_several(given: object) -> TypeGuard[Sequence[Picture]]:
    """Whether `given` is a list of pictures rather than one."""
    return isinstance(given, Sequence) and not isinstance(given, str | bytes | bytearray)


def pictures_of(given: Iterable[object]) -> Iterator[Image.Image]:
    """`picture_of` each; a TypeError names the number of the picture."""
    for number, picture in enumerate(given):
        try:
            yield picture_of(picture)
        except TypeError as error:
            raise TypeError(f"picture {number}: {error}") from None


def picture_of(given: object) -> Image.Image:
    """A picture of any accepted type, converted as `open_image` does.

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
    with _saying_why(name):
        if 0 in given.size:
            raise ValueError("it has no pixels")
        given.load()
        return to_rgb(given)


def _from_array(array: np.ndarray) -> Image.Image:
    shape_fits = array.ndim == 2 or (array.ndim == 3 and array.shape[2] == 3)
    if not (shape_fits and array.size and array.dtype == np.uint8):
        raise TypeError(
            f"found an array of shape {array.shape} and type {array.dtype}, expected {_PICTURE}"
        )
    return Image.fromarray(array)


def to_rgb(image: Image.Image, *, in_place: bool = False) -> Image.Image:
    """A loaded picture of any mode → upright 8-bit RGB; `in_place` may rotate the given one.

    A picture of more than `LARGE` pixels is returned at half its size.
    """
    if image.width * image.height > LARGE:
        image, in_place = _halved(image), True
    # Metadata may be damaged while the pixels are sound; viewers show such a picture unrotated.
    with contextlib.suppress(Exception):
        if in_place:
            ImageOps.exif_transpose(image, in_place=True)
        else:
            image = ImageOps.exif_transpose(image)
    return _to_rgb(image)


def _halved(image: Image.Image) -> Image.Image:
    """A loaded picture at half its size, in RGB; EXIF is kept."""
    half = Image.new("RGB", (-(-image.width // 2), -(-image.height // 2)))
    white = _white(image) if _is_wide(image) else None
    for top, strip in _strips(image):
        half.paste(_to_rgb(strip, white=white).reduce(2), (0, top // 2))
    with contextlib.suppress(Exception):  # as in `to_rgb`
        half.info["exif"] = image.getexif().tobytes()
    return half


def _to_rgb(image: Image.Image, *, white: float | None = None) -> Image.Image:
    """A picture of any mode → 8-bit RGB, with at most one more copy in memory.

    `white` is the value of white in a wide grey, if it is known.
    """
    if image.mode == "La":  # premultiplied alpha: Pillow can convert it only to LA
        image = image.convert("LA")
    if _is_wide(image):
        return _to_8_bit(image, _white(image) if white is None else white).convert("RGB")
    if image.has_transparency_data:
        image = image if image.mode == "RGBA" else image.convert("RGBA")
        on_white = Image.new("RGB", image.size, "white")
        on_white.paste(image, mask=image)
        return on_white
    return image.convert("RGB")


def _is_wide(image: Image.Image) -> bool:
    """Whether it is a 16-bit, 32-bit or float grey, which Pillow's conversion clips at 255."""
    return image.mode == "F" or image.mode.startswith("I")


def _white(image: Image.Image) -> float:
    """The value of white in a wide grey.

    Integers are taken for 16-bit samples, so 65535. Floats have no fixed white: the smallest of 1,
    255 and 65535 that no sample exceeds. If a sample exceeds 65535, the largest one is white.
    """
    largest = max(_samples(strip).max() for _, strip in _strips(image))
    whites = (1.0, 255.0, 65535.0) if image.mode == "F" else (65535.0,)
    return next((white for white in whites if largest <= white), largest)


def _to_8_bit(image: Image.Image, white: float) -> Image.Image:
    """Scales a wide grey to 8 bit."""
    scaled = Image.new("L", image.size)
    for top, strip in _strips(image):
        grey = (_samples(strip) / white * 255).round().clip(0, 255).astype(np.uint8)
        scaled.paste(Image.fromarray(grey), (0, top))
    return scaled


def _samples(image: Image.Image) -> np.ndarray:
    """The pixel values in float64; NaN is black."""
    return np.nan_to_num(np.asarray(image, dtype=np.float64))


def _strips(image: Image.Image) -> Iterator[tuple[int, Image.Image]]:
    """(top, strip) from top to bottom; all heights but the last are even."""
    height = max(2, STRIP // image.width // 2 * 2)
    for top in range(0, image.height, height):
        yield top, image.crop((0, top, image.width, min(top + height, image.height)))


def to_pixels(image: Image.Image) -> Tensor:
    """RGB picture → (3, H, W) uint8."""
    return torch.from_numpy(np.array(image)).permute(2, 0, 1).contiguous()


def normalise(image: Image.Image) -> Tensor:
    """RGB picture → (3, H, W) float32, normalised by CLIP's mean and standard deviation."""
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
