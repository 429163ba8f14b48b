"""Augmentation of one picture: BLIP's operations, each where and as often as it should be."""

import sys

import numpy as np
import pytest
import torch
from helpers import crop_shares, ramp
from PIL import Image

from smile.data import augment
from smile.data.augment import GREY, RandAugment, TrainTransform, v2
from smile.model.images import EvalTransform


def test_only_torchvisions_missing_operators_are_forgiven(monkeypatch):
    class Refuse:
        def find_spec(self, name, *_):
            if name.startswith("torchvision"):
                raise RuntimeError("compiled for another CUDA")

    assert augment._import_transforms() is v2
    for name in [name for name in sys.modules if name.split(".")[0] == "torchvision"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setattr(sys, "meta_path", [Refuse(), *sys.meta_path])
    with pytest.raises(RuntimeError, match="another CUDA"):
        augment._import_transforms()


@pytest.mark.slow
def test_train_transform_varies_and_repeats_with_the_seed(picture):
    transform = TrainTransform(40)
    results = []
    for seed in (0, 0, 1):
        torch.manual_seed(seed)
        results.append(transform(picture))
    assert results[0].shape == (3, 40, 40)
    assert torch.equal(results[0], results[1])
    assert not torch.equal(results[0], results[2])


def shifted(image, operation, sign, magnitude=5):
    operations = RandAugment(magnitude=magnitude)
    return np.asarray(operations.apply(image, operation, sign=sign)).astype(int)


def test_translation_shifts_by_five_pixels_and_fills_with_grey(picture):
    pixels = np.asarray(picture).astype(int)
    right = shifted(picture, "translate_x", 1)
    assert np.array_equal(right[:, 5:], pixels[:, :-5])
    assert np.array_equal(right[0, 0], GREY)
    up = shifted(picture, "translate_y", -1)
    assert np.array_equal(up[:-5], pixels[5:])
    assert np.array_equal(up[-1, -1], GREY)


def test_shear_keeps_the_first_row_and_has_slope_015():
    line = Image.new("RGB", (80, 61))
    line.paste("white", (40, 0, 42, 61))  # upright
    sheared = shifted(line, "shear_x", 1)[..., 0]
    assert abs(sheared[0].argmax() - 40) <= 1
    assert abs(abs(sheared[60].argmax() - sheared[0].argmax()) - 0.15 * 60) <= 1
    level = line.rotate(90, expand=True)
    sheared = shifted(level, "shear_y", 1)[..., 0]
    assert abs(abs(sheared[:, 60].argmax() - sheared[:, 0].argmax()) - 0.15 * 60) <= 1


def test_rotation_is_by_fifteen_degrees_either_way(picture):
    bilinear = Image.Resampling.BILINEAR
    for sign in (1, -1):
        turned = np.asarray(picture.rotate(sign * 15, bilinear, fillcolor=GREY)).astype(int)
        assert np.array_equal(shifted(picture, "rotate", sign), turned)


def test_colour_operations_follow_blips_scale(picture):
    pixels = np.asarray(picture).astype(int)
    for operation in ("identity", "brightness", "sharpness"):  # factor 1 at magnitude 5
        assert np.array_equal(shifted(picture, operation, 1), pixels)
    assert shifted(picture, "brightness", 1, magnitude=0) == pytest.approx(pixels * 0.1, abs=1)
    assert not np.array_equal(shifted(picture, "sharpness", 1, magnitude=9), pixels)
    dull = Image.eval(picture, lambda value: 60 + value // 4)
    for operation in ("autocontrast", "equalize"):
        assert np.ptp(shifted(dull, operation, 1)) == 255
    with pytest.raises(ValueError, match="solarize"):
        shifted(picture, "solarize", 1)


def test_each_operation_is_carried_out_half_of_the_time(picture, monkeypatch):
    seen = []
    monkeypatch.setattr(
        RandAugment, "apply", lambda self, image, op, sign: seen.append((op, sign)) or image
    )
    torch.manual_seed(0)
    operations = RandAugment()
    for _ in range(2000):
        operations(picture)
    assert len(seen) == pytest.approx(2000, rel=0.05)  # 2 drawn each time, half carried out
    for operation in RandAugment.OPERATIONS:
        signs = [sign for op, sign in seen if op == operation]
        assert len(signs) == pytest.approx(200, rel=0.3)
        assert abs(sum(signs)) < 60


@pytest.mark.parametrize("part", ["crop", "flip", "augment"])
def test_training_crops_mirrors_and_augments(part, picture):
    """Each does something to a picture where the two others are left out."""
    picture, transform = picture.resize((16, 16)), TrainTransform(16)
    for other in {"crop", "flip", "augment"} - {part}:
        setattr(transform, other, lambda image: image)
    torch.manual_seed(0)
    made = [transform(picture) for _ in range(8)]
    assert any(not torch.equal(pixels, EvalTransform(16)(picture)) for pixels in made)


@pytest.mark.slow
def test_a_crop_keeps_half_to_all_of_the_area():
    """Of 3:4 to 4:3 in shape, and mirrored half of the time."""
    picture, transform = ramp(64), TrainTransform(32)
    transform.augment = lambda image: image
    torch.manual_seed(0)
    crops = torch.stack([transform(picture) for _ in range(200)])
    widths, heights = crop_shares(crops, EvalTransform(32)(picture))
    areas, shapes = widths.abs() * heights, widths.abs() / heights
    assert 0.48 < areas.min() < 0.56 and 0.94 < areas.max() < 1.02
    assert 0.72 < shapes.min() < 0.8 and 1.25 < shapes.max() < 1.38
    assert 0.4 < (widths < 0).float().mean() < 0.6


def test_a_crop_is_resized_bicubically():
    """Which overshoots beside an edge, as no bilinear resizing does."""
    edge = Image.new("L", (16, 16), 100)
    edge.paste(150, (8, 0, 16, 16))
    torch.manual_seed(0)
    crops = [TrainTransform(40).crop(edge).getextrema() for _ in range(4)]
    assert all(low < 98 and high > 152 for low, high in crops)
