"""Augmentation of whole batches: what it may change and what not."""

import pytest
import torch
from helpers import crop_shares, ramp
from PIL import Image

from smile.config import Config, DataConfig, DecoderConfig, ViTConfig
from smile.data import device_augment
from smile.data.device_augment import Pixels, augment_batch
from smile.model.captioner import Captioner
from smile.model.images import EvalTransform
from smile.system.distributed import World
from smile.training.loader import make_loader


@pytest.fixture
def still(monkeypatch):
    """No crop but the whole, no turn, no new colours; mirrored at most."""
    for name, value in {"AREA": (1, 1), "RATIO": (1, 1), "ANGLE": 0.0, "COLOUR": (1, 1)}.items():
        monkeypatch.setattr(device_augment, name, value)


def picture(size: int = 16) -> Image.Image:
    torch.manual_seed(0)
    return Image.fromarray(torch.randint(256, (size, size, 3), dtype=torch.uint8).numpy())


def test_where_nothing_is_drawn_a_picture_is_evaluation_s_or_its_mirror_image(still):
    batch = Pixels(16)(picture()).expand(40, -1, -1, -1)
    expected = EvalTransform(16)(picture())
    kinds = {False: expected, True: expected.flip(2)}
    seen = set()
    for image in augment_batch(batch):
        (kind,) = [k for k, one in kinds.items() if torch.allclose(image, one, atol=1e-4)]
        seen.add(kind)
    assert seen == {False, True}


def test_each_picture_is_augmented_its_own_way_and_stays_in_range():
    batch = Pixels(16)(picture()).expand(8, -1, -1, -1)
    torch.manual_seed(1)
    images = augment_batch(batch)
    assert images.shape == (8, 3, 16, 16) and images.dtype == torch.float32
    assert len({image.sum().item() for image in images}) == 8
    white, black = (EvalTransform(1)(Image.new("RGB", (1, 1), c)) for c in ("white", "black"))
    assert (images <= white + 1e-4).all() and (images >= black - 1e-4).all()
    torch.manual_seed(1)
    assert torch.equal(augment_batch(batch), images)


def test_each_crop_has_an_area_and_a_shape_of_its_own(monkeypatch):
    for name, value in {"ANGLE": 0.0, "COLOUR": (1, 1)}.items():
        monkeypatch.setattr(device_augment, name, value)
    torch.manual_seed(0)
    crops = augment_batch(Pixels(32)(ramp(32)).expand(200, -1, -1, -1))
    widths, heights = crop_shares(crops, EvalTransform(32)(ramp(32)))
    areas, shapes = widths.abs() * heights, widths.abs() / heights
    assert 0.3 < areas.min() < 0.4 and 0.9 < areas.max() < 1.02
    assert 0.72 < shapes.min() < 0.8 and 1.25 < shapes.max() < 1.38
    assert 0.4 < (widths < 0).float().mean() < 0.6


@pytest.mark.parametrize("part", ["ANGLE", "COLOUR"])
def test_each_picture_has_a_turn_and_colours_of_its_own(still, part, monkeypatch):
    own = {"ANGLE": 0.2, "COLOUR": (0.6, 1.4)}
    monkeypatch.setattr(device_augment, part, own[part])
    torch.manual_seed(0)
    images = augment_batch(Pixels(16)(picture()).expand(8, -1, -1, -1))
    whole = EvalTransform(16)(picture())
    distances = [min((image - one).norm() for one in (whole, whole.flip(2))) for image in images]
    assert len({round(distance.item(), 3) for distance in distances}) == 8  # mirrored or not


def test_a_plain_picture_keeps_its_colour_wherever_it_is_cropped(monkeypatch):
    monkeypatch.setattr(device_augment, "COLOUR", (1, 1))
    red = Image.new("RGB", (20, 30), "red")
    images = augment_batch(torch.stack([Pixels(16)(red)] * 4))
    assert torch.allclose(images, EvalTransform(16)(red).expand(4, -1, -1, -1), atol=1e-3)


class Example:
    name, captions = "a", ("one caption",)

    def read(self):
        return picture(20)


@pytest.mark.parametrize(("training", "dtype"), [(True, torch.uint8), (False, torch.float32)])
def test_the_loader_hands_out_bytes_for_training_alone(training, dtype):
    from smile.model.tokenizer import Tokenizer

    tokenizer = Tokenizer.train(["one caption"], vocab_size=60)
    size = {"dim": 8, "depth": 1, "num_heads": 1, "mlp_dim": 8}
    config = Config(
        vit=ViTConfig(image_size=16, **size),
        decoder=DecoderConfig(vocab_size=tokenizer.vocab_size, features_dim=8, **size),
        data=DataConfig(augment_on="device"),
    )
    captioner = Captioner(config=config, tokenizer=tokenizer)
    loader = make_loader(
        captioner, [Example()] * 2, training=training, pin_memory=False, world=World()
    )
    (batch,) = loader
    assert batch.images.shape == (2, 3, 16, 16) and batch.images.dtype == dtype
