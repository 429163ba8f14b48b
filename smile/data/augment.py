"""BLIP's training augmentation: random resized crop, horizontal flip, RandAugment.

The only module that imports torchvision. All randomness comes from torch's default generator, so
its seed determines the result.
"""

import math
import sys
from types import ModuleType

import torch
from PIL import Image
from torch import Tensor

from smile.model.images import normalise


def _import_transforms() -> ModuleType:
    """Import torchvision's transforms, with a CPU-only torch too.

    PyPI's torchvision is built for CUDA. With a CPU-only torch its C++ library does not load, and
    the import fails with "operator torchvision::nms does not exist". Image transforms need none of
    its operators: declaring the two that are looked up, without an implementation, lets the import
    succeed. Where torchvision imports without help, nothing is changed.
    """
    try:
        from torchvision.transforms import v2
    except RuntimeError as error:
        if "operator torchvision::" not in str(error):
            raise
        _declare_missing_operators()
        for name in [name for name in sys.modules if name.split(".")[0] == "torchvision"]:
            del sys.modules[name]  # only half imported
        from torchvision.transforms import v2
    return v2


_operators: torch.library.Library | None = None  # what it declares lasts only as long as it does


def _declare_missing_operators() -> None:
    global _operators
    _operators = torch.library.Library("torchvision", "DEF")
    for name in ("nms", "qnms"):
        _operators.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")


v2 = _import_transforms()

GREY = (128, 128, 128)


class TrainTransform:
    """RGB picture → (3, size, size) float32, augmented as BLIP does in fine-tuning.

    Random crop of half to all of the picture's area, resized to a square (bicubic); horizontal flip
    with probability 0.5; `RandAugment`; then the normalisation that evaluation uses too.
    """

    def __init__(self, size: int) -> None:
        bicubic = v2.InterpolationMode.BICUBIC
        self.crop = v2.RandomResizedCrop(size, scale=(0.5, 1.0), interpolation=bicubic)
        self.flip = v2.RandomHorizontalFlip()
        self.augment = RandAugment()

    def __call__(self, image: Image.Image) -> Tensor:
        return normalise(self.augment(self.flip(self.crop(image))))


class RandAugment:
    """`num_ops` operations sampled with replacement, each applied with probability 0.5.

    Not torchvision's class of that name: BLIP has its own ten operations and its own scale of
    magnitudes (0 to 10). On that scale, magnitude 5 gives brightness and sharpness a factor of
    exactly 1, so they change nothing, here as in BLIP's training.
    """

    OPERATIONS = (
        *("identity", "autocontrast", "brightness", "sharpness", "equalize"),
        *("shear_x", "shear_y", "translate_x", "translate_y", "rotate"),
    )

    def __init__(self, *, num_ops: int = 2, magnitude: int = 5) -> None:
        self.num_ops = num_ops
        self.magnitude = magnitude

    def __call__(self, image: Image.Image) -> Image.Image:
        for index in torch.randint(len(self.OPERATIONS), (self.num_ops,)).tolist():
            applied, positive = (torch.rand(2) < 0.5).tolist()
            if applied:
                image = self.apply(image, self.OPERATIONS[index], sign=1 if positive else -1)
        return image

    def apply(self, image: Image.Image, operation: str, *, sign: int) -> Image.Image:
        """Apply one operation; `sign` is the direction of the geometric ones."""
        strength = self.magnitude / 10
        match operation:
            case "identity":
                return image
            case "autocontrast":
                return v2.functional.autocontrast(image)
            case "equalize":
                return v2.functional.equalize(image)
            case "brightness":
                return v2.functional.adjust_brightness(image, 0.1 + 1.8 * strength)
            case "sharpness":
                return v2.functional.adjust_sharpness(image, 0.1 + 1.8 * strength)
            case "shear_x":
                return _warp(image, shear=(sign * 0.3 * strength, 0))
            case "shear_y":
                return _warp(image, shear=(0, sign * 0.3 * strength))
            case "translate_x":  # in pixels, whatever the size of the picture
                return _warp(image, translate=(sign * 10 * strength, 0))
            case "translate_y":
                return _warp(image, translate=(0, sign * 10 * strength))
            case "rotate":
                return v2.functional.rotate(
                    image, sign * 30 * strength, v2.InterpolationMode.BILINEAR, fill=GREY
                )
        raise ValueError(f"{operation!r} is not one of {', '.join(self.OPERATIONS)}")


def _warp(
    image: Image.Image,
    *,
    shear: tuple[float, float] = (0, 0),
    translate: tuple[float, float] = (0, 0),
) -> Image.Image:
    """Shear (as slopes, fixed at the top left corner) or shift (in pixels), filling with grey."""
    return v2.functional.affine(
        image,
        angle=0,
        translate=translate,
        scale=1,
        shear=[math.degrees(math.atan(slope)) for slope in shear],
        interpolation=v2.InterpolationMode.BILINEAR,
        fill=GREY,
        center=(0, 0),
    )
