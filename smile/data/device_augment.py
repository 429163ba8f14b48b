"""Augmentation of a whole batch on the training device: crop, rotate, flip, recolour.

BLIP's recipe (`augment.py`) takes a CPU core about 3 ms a picture, while a GPU that trains a small
captioner needs thousands of pictures a second. With `data.augment_on = "device"` the loader gives
out bytes, a quarter of the memory to copy, and a few operations augment the whole batch.
"""

import math

import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from smile.model.images import MEAN, STD, to_pixels

AREA = (0.35, 1.0)  # share of the picture's area that a crop keeps
RATIO = (3 / 4, 4 / 3)  # aspect ratio of a crop
ANGLE = math.radians(10)  # largest rotation, both ways
COLOUR = (0.6, 1.4)  # range of the factors of brightness, contrast and saturation
GREY = (0.299, 0.587, 0.114)


class Pixels:
    """RGB picture → (3, size, size) uint8, for `augment_batch`."""

    def __init__(self, size: int) -> None:
        self.size = (size, size)

    def __call__(self, image: Image.Image) -> Tensor:
        if image.size != self.size:
            image = image.resize(self.size, Image.Resampling.BICUBIC)
        return to_pixels(image)


def augment_batch(pixels: Tensor) -> Tensor:
    """(B, 3, S, S) uint8 → (B, 3, S, S) float32, augmented, and normalised for the encoder.

    All randomness comes from the device's generator, as for dropout.
    """
    images = _recolour(_crop(pixels.float() / 255))
    mean, std = (torch.tensor(values, device=pixels.device) for values in (MEAN, STD))
    return (images - mean.view(3, 1, 1)) / std.view(3, 1, 1)


def _crop(images: Tensor) -> Tensor:
    """Random crops, rotated, flipped with probability 0.5, and resized to the full picture."""

    def draw(low: float, high: float) -> Tensor:
        return torch.empty(len(images), device=images.device).uniform_(low, high)

    area, ratio = draw(*AREA), draw(*map(math.log, RATIO)).exp()
    width, height = ((area * r).sqrt().clamp(max=1) for r in (ratio, 1 / ratio))
    angle, mirrored = draw(-ANGLE, ANGLE), draw(-1, 1).sign()
    # Maps a position in the crop to one in the picture; both range from -1 to 1.
    across = [mirrored * width * angle.cos(), -width * angle.sin(), (1 - width) * draw(-1, 1)]
    down = [mirrored * height * angle.sin(), height * angle.cos(), (1 - height) * draw(-1, 1)]
    theta = torch.stack([*across, *down], dim=1).view(-1, 2, 3)
    places = F.affine_grid(theta, list(images.shape), align_corners=False)
    return F.grid_sample(images, places, padding_mode="reflection", align_corners=False)


def _recolour(images: Tensor) -> Tensor:
    """Random brightness, contrast and saturation for each picture; values stay in 0 to 1."""
    factors = torch.empty(3, len(images), 1, 1, 1, device=images.device).uniform_(*COLOUR)
    brightness, contrast, saturation = factors
    weights = torch.tensor(GREY, device=images.device).view(3, 1, 1)
    images = images * brightness
    grey = (images * weights).sum(dim=1, keepdim=True)
    middle = grey.mean(dim=(2, 3), keepdim=True)
    images, grey = (middle + contrast * (part - middle) for part in (images, grey))
    return (grey + saturation * (images - grey)).clamp(0, 1)
