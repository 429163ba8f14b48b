"""From an image file to the tensor the encoder reads.

Deliberately free of torchvision, whose import alone takes seconds: describing one photo needs only
Pillow and torch. Augmentation, which training alone needs, is in `augment.py`.
"""

import os
from dataclasses import dataclass

import numpy as np
import torch
from PIL import Image, ImageOps, UnidentifiedImageError
from torch import Tensor

from smile.errors import UserError

# The statistics CLIP was trained with, which BLIP keeps.
MEAN = (0.48145466, 0.4578275, 0.40821073)
STD = (0.26862954, 0.26130258, 0.27577711)

# What counts as an image when a folder is searched.
IMAGE_SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff"})


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
    """Read any image file as an upright 8-bit RGB picture.

    EXIF orientation is applied, transparency is laid on white, 16-bit greys are scaled down to
    8 bit and an animation gives its first frame. Raises UserError, naming the path and the reason,
    for whatever cannot be read: a missing or empty file, not an image, truncated, absurdly large.
    """
    try:
        with Image.open(path) as image:
            image.load()
            return _to_rgb(_upright(image))
    except Exception as error:  # decoders meet broken bytes with every type of exception there is
        raise UserError(
            f"{os.fspath(path)}: cannot read this image: {_reason(path, error)}"
        ) from error


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


def _upright(image: Image.Image) -> Image.Image:
    """Turn the picture the way its EXIF orientation says."""
    try:
        return ImageOps.exif_transpose(image)
    except Exception:  # damaged metadata beside sound pixels: every viewer shows those as they are
        return image


def _to_rgb(image: Image.Image) -> Image.Image:
    """Bring a loaded picture of any mode to 8-bit RGB."""
    if image.mode == "F" or image.mode.startswith("I"):
        return _to_8_bit(image).convert("RGB")
    if image.has_transparency_data:
        image = image.convert("RGBA")
        white = Image.new("RGBA", image.size, "white")
        return Image.alpha_composite(white, image).convert("RGB")
    return image.convert("RGB")


def _to_8_bit(image: Image.Image) -> Image.Image:
    """Scale a 16-bit, 32-bit or float grey to 8 bit; Pillow's own conversion clips it at 255.

    Integers are 16-bit samples unless their values say otherwise. Floats do not say which value is
    white, so it is the smallest customary one (1, 255 or 65535) that no sample exceeds.
    """
    values = np.asarray(image, dtype=np.float64)
    whites = (1.0, 255.0, 65535.0) if image.mode == "F" else (65535.0,)
    white = next((white for white in whites if values.max() <= white), values.max())
    return Image.fromarray((values / white * 255).round().clip(0, 255).astype(np.uint8))


def normalise(image: Image.Image) -> Tensor:
    """RGB picture → (3, H, W) float32 with CLIP's mean and standard deviation."""
    pixels = torch.from_numpy(np.array(image)).permute(2, 0, 1).contiguous().float().div_(255)
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
