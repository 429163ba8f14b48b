"""Opening every kind of image file, and the two transforms."""

import os
import sys

import numpy as np
import pytest
import torch
from PIL import EpsImagePlugin, Image, ImageFile

from smile.data.augment import v2
from smile.errors import UserError
from smile.model import images
from smile.model.images import MEAN, STD, EvalTransform, open_image, read_image
from smile.system import picture_files


def save(image, path, **options):
    image.save(path, **options)
    return path


# --- open_image -------------------------------------------------------------------------------


def test_exif_orientation_is_applied(tmp_path):
    image = Image.new("RGB", (8, 4))
    image.putpixel((0, 0), (255, 0, 0))
    exif = Image.Exif()
    exif[0x0112] = 6  # shown turned clockwise by 90 degrees
    opened = open_image(save(image, tmp_path / "turned.png", exif=exif))
    assert opened.size == (4, 8)
    assert opened.getpixel((3, 0)) == (255, 0, 0)


@pytest.mark.parametrize("suffix", ["jpg", "png", "webp"])
def test_damaged_exif_does_not_cost_the_picture(tmp_path, suffix):
    path = tmp_path / f"a.{suffix}"
    save(Image.new("RGB", (8, 4), "red"), path, exif=b"Exif\0\0nonsense")
    assert open_image(path).size == (8, 4)


@pytest.mark.parametrize("mode", ["1", "L", "P", "CMYK", "YCbCr"])
def test_opaque_modes_keep_their_colours(tmp_path, mode):
    half = Image.new("RGB", (16, 8), "white")
    half.paste("black", (8, 0, 16, 8))
    opened = open_image(save(half.convert(mode), tmp_path / "a.tif"))
    assert opened.mode == "RGB"
    assert opened.getpixel((0, 0)) == pytest.approx((255, 255, 255), abs=2)
    assert opened.getpixel((15, 7)) == pytest.approx((0, 0, 0), abs=2)


def test_palette_colours_survive(tmp_path):
    image = Image.new("RGB", (4, 4), (200, 30, 90)).convert("P", palette=Image.Palette.ADAPTIVE)
    assert open_image(save(image, tmp_path / "a.png")).getpixel((1, 1)) == (200, 30, 90)


@pytest.mark.parametrize(
    ("mode", "clear", "half"),
    [("RGBA", (255, 0, 0, 0), (255, 0, 0, 128)), ("LA", (76, 0), (76, 128))],
)
def test_alpha_is_laid_on_white(tmp_path, mode, clear, half):
    image = Image.new(mode, (2, 1), clear)
    image.putpixel((1, 0), half)
    opened = open_image(save(image, tmp_path / "a.png"))
    assert opened.getpixel((0, 0)) == (255, 255, 255)
    expected = (255, 127, 127) if mode == "RGBA" else (165, 165, 165)
    assert opened.getpixel((1, 0)) == pytest.approx(expected, abs=1)


def test_transparent_palette_entry_is_laid_on_white(tmp_path):
    image = Image.new("P", (2, 1), 0)
    image.putpalette([0, 0, 0, 10, 20, 30])
    image.putpixel((1, 0), 1)
    opened = open_image(save(image, tmp_path / "a.png", transparency=0))
    assert [opened.getpixel((x, 0)) for x in (0, 1)] == [(255, 255, 255), (10, 20, 30)]


@pytest.mark.parametrize("suffix", ["png", "tif", "pgm"])
def test_16_bit_grey_is_scaled_not_clipped(tmp_path, suffix):
    values = np.array([[0, 257, 32896, 65535]], dtype=np.uint16)
    opened = open_image(save(Image.fromarray(values), tmp_path / f"a.{suffix}"))
    assert opened.mode == "RGB"
    assert [opened.getpixel((x, 0))[0] for x in range(4)] == [0, 1, 128, 255]


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        (np.array([[0, 32896, 65535]], dtype=np.int32), [0, 128, 255]),
        (np.array([[0, 2**30, 2**31 - 1]], dtype=np.int32), [0, 128, 255]),
        (np.array([[0, 0.5, 1]], dtype=np.float32), [0, 128, 255]),
        (np.array([[0, 100, 255]], dtype=np.float32), [0, 100, 255]),
    ],
)
def test_wide_samples_are_scaled(tmp_path, values, expected):
    opened = open_image(save(Image.fromarray(values), tmp_path / "a.tif"))
    assert [opened.getpixel((x, 0))[1] for x in range(3)] == pytest.approx(expected, abs=1)


def test_an_animation_gives_its_first_frame(tmp_path):
    frames = [Image.new("RGB", (4, 4), colour) for colour in ("red", "blue")]
    path = save(frames[0], tmp_path / "a.gif", save_all=True, append_images=frames[1:])
    assert open_image(path).getpixel((0, 0)) == (255, 0, 0)


@pytest.mark.parametrize("suffix", ["jpg", "png", "tif"])
def test_bytes_are_read_as_their_file_is(tmp_path, picture, suffix):
    exif = Image.Exif()
    exif[0x0112] = 6
    path = save(picture, tmp_path / f"a.{suffix}", exif=exif)
    opened = open_image(path)
    data = path.read_bytes()
    assert read_image(data, "a") == read_image(data, "a", longest=max(picture.size)) == opened
    side = max(picture.size) // 3
    small = read_image(data, "a", longest=side)
    assert max(small.size) == side
    assert (small.width < small.height) == (opened.width < opened.height)
    thin = save(picture.resize((900, 2)), tmp_path / f"thin.{suffix}").read_bytes()
    assert read_image(thin, "a", longest=90).size == (90, 1)


def test_what_cannot_be_read_is_named_with_its_reason(tmp_path, picture, monkeypatch):
    whole = save(picture, tmp_path / "whole.jpg").read_bytes()
    (tmp_path / "cut.jpg").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "empty.jpg").write_bytes(b"")
    (tmp_path / "text.jpg").write_text("not a picture")
    (tmp_path / "folder.jpg").mkdir()
    png = save(picture, tmp_path / "whole.png").read_bytes()
    (tmp_path / "cut.png").write_bytes(png[:40])
    reasons = {
        "absent.jpg": "no such file",
        "empty.jpg": "empty",
        "text.jpg": "not an image",
        "cut.jpg": "truncated",
        "folder.jpg": "folder",
        "cut.png": "cannot read",
    }
    for name, reason in reasons.items():
        path = tmp_path / name
        with pytest.raises(UserError, match=reason) as caught:
            open_image(path)
        assert str(path) in str(caught.value)
        if path.is_file():
            with pytest.raises(UserError) as of_bytes:
                read_image(path.read_bytes(), str(path))
            assert str(of_bytes.value) == str(caught.value)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)
    with pytest.raises(UserError, match=r"whole\.jpg.*too many pixels"):
        open_image(tmp_path / "whole.jpg")


@pytest.mark.parametrize(
    ("suffix", "options", "most"),
    [
        ("png", {}, "MAX_PIXELS"),
        ("jpg", {"progressive": True}, "MAX_PIXELS"),
        ("jpg", {}, "JPEG"),
        ("webp", {}, "WEBP"),
        ("jp2", {}, "JPEG2000"),
    ],
)
def test_huge_pictures_are_refused(tmp_path, picture, monkeypatch, suffix, options, most):
    """The picture has 5400 pixels: 90 x 60."""
    path = save(picture, tmp_path / f"a.{suffix}", **options)
    for name, limit in (("MAX_PIXELS", 5400), *((form, 5400) for form in images.MAX_PIXELS_OF)):
        limit -= name == most
        if name == "MAX_PIXELS":
            monkeypatch.setattr(images, name, limit)
        else:
            monkeypatch.setitem(images.MAX_PIXELS_OF, name, limit)
    with pytest.raises(UserError, match=r"90 x 60 pixels may be a decompression bomb"):
        open_image(path)
    monkeypatch.undo()
    assert open_image(path).size == (90, 60)
    monkeypatch.setattr(images, "MAX_SIDE", 89)
    with pytest.raises(UserError, match="sides of 89"):
        open_image(path)


MODES = (
    *("1", "L", "P", "RGB", "RGBA", "CMYK", "YCbCr", "LAB", "HSV", "I", "F", "LA", "PA"),
    *("RGBX", "RGBa", "La", "I;16", "I;16L", "I;16B"),
)


@pytest.mark.parametrize("mode", MODES)
def test_every_mode_becomes_rgb_whole_or_halved(monkeypatch, mode):
    monkeypatch.setattr(images, "STRIP", 20)
    image = Image.new(mode, (9, 7))
    whole, half = images._to_rgb(image), images._halved(image)
    assert (whole.mode, whole.size) == ("RGB", (9, 7))
    assert (half.mode, half.size) == ("RGB", (5, 4))
    assert half.getpixel((4, 3)) == whole.getpixel((8, 6))


@pytest.mark.parametrize(
    ("suffix", "mode"),
    [
        *(("png", mode) for mode in ("RGB", "RGBA", "P", "I;16")),
        *(("tif", mode) for mode in ("F", "1")),
        *(("jpg", mode) for mode in ("RGB", "CMYK")),
        *(("webp", "RGB"), ("bmp", "L"), ("gif", "P")),
    ],
)
def test_large_pictures_are_read_at_half_their_size(tmp_path, picture, monkeypatch, suffix, mode):
    exif = Image.Exif()
    exif[0x0112] = 6
    image = picture.convert("I") if mode == "I;16" else picture
    options = {} if suffix in ("bmp", "gif") else {"exif": exif}
    path = save(image.convert(mode), tmp_path / f"a.{suffix}", **options)
    whole = open_image(path)
    monkeypatch.setattr(images, "LARGE", 5399)  # the picture has 5400
    monkeypatch.setattr(images, "STRIP", 90 * 8)
    half = open_image(path)
    assert half.size == (whole.width // 2, whole.height // 2)
    assert half.size == ((30, 45) if options else (45, 30))  # turned upright
    difference = np.asarray(half).astype(int) - np.asarray(whole.reduce(2))
    assert np.abs(difference).mean() < 2


def test_a_huge_picture_is_refused_before_it_is_decoded(tmp_path, monkeypatch):
    monkeypatch.setattr(images, "MAX_PIXELS", 5000)
    path = save(Image.new("RGB", (100, 100)), tmp_path / "a.png")
    monkeypatch.setattr(ImageFile.ImageFile, "load", lambda self: pytest.fail("was decoded"))
    with pytest.raises(UserError, match="bomb"):
        open_image(path)


HEIC = b"\0\0\0\x18ftypheic\0\0\0\0mif1heic"
PLUGIN = """
from PIL import Image, ImageFile

class Picture(ImageFile.ImageFile):
    format = "HEIF"

    def _open(self):
        if len(self.fp.read()) < {length}:
            raise SyntaxError
        self._mode = "RGB"
        self._size = {size}

    def load(self):
        self._im = Image.new("RGB", self.size, "red").im
        return Image.Image.load(self)

def register_heif_opener():
    Image.register_open("HEIF", Picture, lambda head: head[4:12] == b"ftypheic")
"""


@pytest.fixture
def heic(tmp_path, monkeypatch):
    """`heic(size)`: a HEIC file, and a plugin that takes it for a picture of that size."""
    monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])
    path = tmp_path / "a.heic"
    path.write_bytes(HEIC)

    def make(size: tuple[int, int] | None):
        plugin = f"heif_of_{size[0]}" if size else "absent_plugin"
        monkeypatch.setattr(picture_files, "HEIF_PLUGINS", (plugin,))
        picture_files.heif_plugin.cache_clear()
        if size:
            (tmp_path / f"{plugin}.py").write_text(PLUGIN.format(size=size, length=len(HEIC)))
        return path

    yield make
    Image.OPEN.pop("HEIF", None)
    picture_files.heif_plugin.cache_clear()


def test_heic_is_read_where_a_plugin_is_installed(heic):
    with pytest.raises(UserError, match=r"a HEIC picture: pip install pi-heif to read it"):
        open_image(heic(None))
    assert open_image(heic((8, 4))).getpixel((0, 0)) == (255, 0, 0)


def test_a_heic_cut_short_is_called_that(heic):
    path = heic((8, 4))
    path.write_bytes(HEIC[:-4])
    with pytest.raises(UserError, match="this HEIC picture is cut short or damaged"):
        open_image(path)


def test_a_huge_heic_is_refused_before_it_is_decoded(heic):
    with pytest.raises(UserError, match="9000 x 9000 pixels may be a decompression bomb"):
        open_image(heic((9000, 9000)))


def test_a_pipe_is_refused_and_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "a.jpg")
    with pytest.raises(UserError, match="not a regular file"):
        open_image(tmp_path / "a.jpg")


def test_nothing_starts_ghostscript(tmp_path, monkeypatch):
    path = save(Image.new("RGB", (4, 4)), tmp_path / "a.eps").rename(tmp_path / "a.jpg")
    monkeypatch.setattr(EpsImagePlugin, "Ghostscript", lambda *_, **__: pytest.fail("started"))
    with pytest.raises(UserError, match="not an image file"):
        open_image(path)


def test_what_is_odd_but_readable_warns_nobody(tmp_path, picture, recwarn):
    path = save(picture, tmp_path / "a.jpg", exif=b"Exif\0\0II*\0\x08\0\0\0\xff\xff")
    assert open_image(path).size == picture.size
    assert not list(recwarn)


def test_floats_that_are_no_numbers_are_read(tmp_path):
    values = np.array([[0, np.nan, 0.5, 1]], dtype=np.float32)
    opened = open_image(save(Image.fromarray(values), tmp_path / "a.tif"))
    assert [opened.getpixel((x, 0))[0] for x in range(4)] == [0, 0, 128, 255]


@pytest.mark.parametrize("large", [images.LARGE, 1])
def test_wide_samples_are_scaled_alike_in_every_strip(tmp_path, monkeypatch, large):
    monkeypatch.setattr(images, "LARGE", large)
    values = np.ones((1200, 1000), dtype=np.float32)
    values[1100:] = 200  # white is 255, which the first strip alone does not show
    opened = open_image(save(Image.fromarray(values), tmp_path / "a.tif"))
    scale = 2 if large == 1 else 1
    assert np.array_equal(np.asarray(opened)[..., 0], values[::scale, ::scale].astype(np.uint8))


# --- transforms -------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [32, 224])
def test_eval_transform_equals_torchvision(picture, size):
    reference = v2.Compose(
        [
            v2.Resize((size, size), interpolation=v2.InterpolationMode.BICUBIC),
            v2.PILToTensor(),
            v2.ToDtype(torch.float32, scale=True),
            v2.Normalize(MEAN, STD),
        ]
    )
    ours = EvalTransform(size)(picture)
    assert ours.shape == (3, size, size)
    assert ours.dtype == torch.float32
    torch.testing.assert_close(ours, reference(picture), rtol=0, atol=1e-6)


def test_pixels_are_normalised_as_for_clip():
    """BLIP's weights expect CLIP's mean and deviation, not ImageNet's."""
    pixels = EvalTransform(4)(Image.new("RGB", (8, 8), (51, 102, 204)))
    mean, std = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)
    expected = [(value - m) / s for value, m, s in zip((0.2, 0.4, 0.8), mean, std, strict=True)]
    assert pixels[:, 0, 0].tolist() == pytest.approx(expected, rel=1e-5)
