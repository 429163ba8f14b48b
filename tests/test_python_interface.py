"""`import smile` as people use it: whatever they call a picture, and the pixels they get."""

import re
import runpy
import sys
import tomllib
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers import ROOT, make_run
from PIL import Image

import evaluate
import sample
import smile
import train
from smile.data import __main__ as drawing
from smile.metrics.retrieval import log_likelihoods
from smile.model.images import picture_of, to_rgb
from smile.version import find_version

ORIENTATION = 0x0112
TURNS = {
    1: None,
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
LOSSLESS = {
    "png": ("1", "L", "LA", "P", "RGB", "RGBA", "I;16"),
    "tiff": ("1", "L", "P", "RGB", "RGBA", "CMYK", "LAB", "I;16", "I", "F"),
}


def noise(mode: str) -> Image.Image:
    """A picture of 5 x 3 pixels, all different, in any of Pillow's modes."""
    rng = np.random.default_rng(0)
    colours = Image.fromarray(rng.integers(0, 256, (3, 5, 4), dtype=np.uint8), "RGBA")
    if mode in ("I", "F") or mode.startswith("I;"):
        samples = rng.integers(0, 65536, 15).astype({"I": "<i4", "F": "<f4"}.get(mode, "<u2"))
        samples = samples.astype(">u2") if mode == "I;16B" else samples
        return Image.frombytes(mode, (5, 3), samples.tobytes())
    if mode in ("La", "LA"):
        return colours.convert("LA").convert(mode)
    if mode == "PA":
        return colours.convert("P").convert("PA")
    if mode == "LAB":
        return Image.frombytes("LAB", (5, 3), rng.bytes(45))
    return colours.convert(mode) if mode == "RGBa" else colours.convert("RGB").convert(mode)


def same(one: Image.Image, other: Image.Image) -> bool:
    return one.mode == other.mode == "RGB" and np.array_equal(np.asarray(one), np.asarray(other))


@pytest.mark.slow
@pytest.mark.parametrize("mode", Image.MODES)
def test_every_mode_in_every_orientation_is_read_as_from_a_file(tmp_path, mode):
    upright = to_rgb(noise(mode))
    for orientation, turn in TURNS.items():
        image = noise(mode)
        image.getexif()[ORIENTATION] = orientation
        given = image.tobytes()
        expected = upright if turn is None else upright.transpose(turn)
        assert same(picture_of(image), expected)
        assert same(picture_of(expected), expected)  # no picture is turned twice
        assert image.tobytes() == given and image.getexif()[ORIENTATION] == orientation
        for suffix in (suffix for suffix, modes in LOSSLESS.items() if mode in modes):
            path = tmp_path / f"{orientation}.{suffix}"
            image.save(path, exif=image.getexif())
            assert same(smile.open_image(path), expected)
            with open(path, "rb") as file, Image.open(file) as opened:
                assert same(picture_of(opened), expected)


@pytest.fixture(scope="module")
def captioner(tmp_path_factory):
    return smile.load(make_run(tmp_path_factory.mktemp("work") / "run"))


@pytest.fixture
def photo(tmp_path):
    """A picture on its side, and its path."""
    image = Image.fromarray(np.random.default_rng(1).integers(0, 256, (20, 30, 3), dtype=np.uint8))
    exif = Image.Exif()
    exif[ORIENTATION] = 6
    image.save(tmp_path / "photo.png", exif=exif)
    return tmp_path / "photo.png"


@pytest.mark.slow
def test_whatever_the_picture_is_handed_in_as_its_caption_is_the_same(captioner, photo):
    upright = smile.open_image(photo)
    transformed = captioner.transform(upright)[None]
    [[expected]] = captioner.describe(transformed)
    given = [str(photo), photo, Image.open(photo), upright, np.asarray(upright)]
    for one in given:
        assert captioner.caption(one) == expected.text
        assert captioner.describe(one) == [expected]
    assert captioner.caption(given) == captioner.caption(tuple(given)) == [expected.text] * 5
    assert [found[0].text for found in captioner.describe(given)] == [expected.text] * 5
    grey = np.asarray(upright)[..., 0]
    assert captioner.caption(grey) == captioner.caption(Image.fromarray(grey))


def test_several_captions_are_lists(captioner, photo):
    two = captioner.caption(photo, num_return=2)
    assert len(set(two)) == 2 and two[0] == captioner.caption(photo)
    assert captioner.caption([photo, photo], num_return=2) == [two, two]
    assert [found.text for found in captioner.describe(photo, num_return=2)] == two
    assert captioner.caption([]) == captioner.describe([]) == []
    with pytest.raises(smile.UserError, match="num_beam"):
        captioner.caption([], num_beam=2)


def test_text_around_captions_and_words_in_none(captioner, photo, tmp_path):
    plain, around = captioner.caption(photo), {"prefix": "ohwx, ", "suffix": "."}
    assert captioner.caption(photo, **around) == f"ohwx, {plain}."
    assert captioner.caption([photo], **around) == [f"ohwx, {plain}."]
    [caption] = captioner.describe(photo, **around)
    assert caption.text == f"ohwx, {plain}." and plain.startswith(caption.tokens[0][0])
    assert smile.explain(captioner, photo, tmp_path / "words.png", **around) == caption
    word = plain.split()[0]
    assert word not in captioner.caption(photo, forbid=[word.upper()]).split()
    for forbid in ((word,), [word, "zebra"]):
        assert captioner.caption([photo], forbid=forbid) != [plain]


@pytest.mark.parametrize(
    ("given", "words"),
    [
        (None, "found a NoneType, expected a path, a Pillow image"),
        (b"photo.jpg", "found a bytes"),
        (5.0, "found a float"),
        (torch.zeros(3, 16, 16), "found a Tensor|found pixels of shape"),
        ({"image": 1}, "found a dict"),
        (np.zeros((3, 4, 5), np.uint8), r"shape \(3, 4, 5\) and type uint8"),
        (np.zeros((3, 4, 3), np.float32), "type float32"),
        (np.zeros((0, 4, 3), np.uint8), r"shape \(0, 4, 3\)"),
    ],
)
def test_what_is_no_picture_is_a_type_error_in_words(captioner, photo, given, words):
    for ask in (captioner.caption, captioner.describe):
        with pytest.raises(TypeError, match=words):
            ask(given)
        with pytest.raises(TypeError, match=f"picture 1: .*({words})"):
            ask([photo, given])


@pytest.mark.parametrize(
    ("name", "wrong"),
    [("seeds", 5), ("seeds", [1]), ("seeds", [1, 2, 3]), ("seeds", ["a", "b"]), ("seeds", "ab"),
     ("prompts", 5), ("prompts", ["a"]), ("prompts", [1, 2]), ("prompts", [b"a", b"b"])],
)  # fmt: skip
def test_prompts_and_seeds_are_one_for_each_picture(captioner, photo, name, wrong):
    for pictures in ([photo, photo], torch.zeros(2, 3, 16, 16)):
        with pytest.raises(
            TypeError, match=f"{name}: found .*, expected .* for each of 2 pictures"
        ):
            captioner.describe(pictures, **{name: wrong})
    if name == "seeds":
        captioner.caption([photo, photo], seeds=np.arange(2), top_k=2)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"num_beams": 3, "top_p": 0.9}, "num_beams = 3 is for beam search, but top_p = 0.9 is"),
        ({"early_stopping": True, "do_sample": True}, "early_stopping is for .*, but do_sample is"),
        ({"do_sample": False, "top_k": 5}, "do_sample = false is for .*, but top_k = 5 is"),
        ({"num_beams": 1, "num_return": 2}, "num_return is 2, but num_beams only 1"),
        (
            {"forbid": "dog"},
            r'forbid = "dog": expected a list of texts in quotes, such as \["a", "b"\]',
        ),
        ({"prompt": "a \ud83d"}, r"\\ud83d, half of a pair"),
    ],
)
def test_what_would_be_ignored_or_cannot_be_said_is_refused(captioner, photo, settings, words):
    with pytest.raises(smile.UserError, match=words):
        captioner.caption(photo, **settings)


def test_pictures_that_cannot_be_read_are_named(captioner, photo, tmp_path):
    cut = tmp_path / "cut.png"
    cut.write_bytes(photo.read_bytes()[:-400])
    for given in (cut, Image.open(cut), tmp_path / "absent.jpg"):
        with pytest.raises(smile.UserError, match=r"(cut\.png|absent\.jpg): cannot read"):
            captioner.caption(given)
    with pytest.raises(smile.UserError, match="no pixels"):
        captioner.caption(Image.new("RGB", (0, 5)))


def test_explain_takes_the_same_pictures(captioner, photo, tmp_path):
    caption = smile.explain(captioner, photo, tmp_path / "words.png")
    assert caption == captioner.describe(photo)[0]
    assert Image.open(tmp_path / "words.png").width > 300


def test_the_package_shows_what_it_offers():
    shown = [name for name in dir(smile) if not name.startswith("__")]
    expected = [
        "Captioner",
        "Describer",
        "UserError",
        "explain",
        "load",
        "open_image",
        "smile_loss",
    ]
    assert shown == expected
    assert all(getattr(smile, name) for name in dir(smile) if name != "__cached__")
    with pytest.raises(AttributeError, match="no attribute 'lod'"):
        _ = smile.lod


def test_the_version_is_that_of_the_clone_or_of_the_package(tmp_path, monkeypatch):
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    assert smile.__version__ == project["version"]
    monkeypatch.setattr("smile.version.version", lambda name: f"{name} 9")
    assert find_version(ROOT) == project["version"]
    assert find_version(tmp_path) == "smile-captioning 9"
    (tmp_path / "pyproject.toml").write_text("[project]\nname = 'else'\nversion = '3'\n")
    assert find_version(tmp_path) == "smile-captioning 9"
    monkeypatch.undo()
    monkeypatch.setattr("smile.version.NAME", "no-such-package")
    assert find_version(tmp_path / "nowhere") == "unknown"


def test_the_package_as_a_command_says_what_to_run_instead(capsys):
    with pytest.raises(SystemExit, match="2"):
        runpy.run_module("smile", run_name="__main__")
    said = capsys.readouterr().err
    for script in ("train.py", "sample.py", "evaluate.py"):
        assert f"python {script}" in said and Path(ROOT, script).is_file()


@pytest.mark.parametrize("script", [sample, evaluate, train, drawing])
def test_every_script_tells_its_version(script, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", [script.__name__, "--version"])
    with pytest.raises(SystemExit, match="0"):
        script.main()
    assert capsys.readouterr().out.endswith(f" {smile.__version__}\n")


def test_nobody_is_told_to_install_a_package_of_our_name():
    """There is none: whoever registered the name would own those who follow."""
    files = [*ROOT.glob("*.md"), *ROOT.glob("*.py"), *ROOT.glob("smile/**/*.py")]
    told = re.compile(r"install\s[^\n]*smile-captioning")
    assert [path for path in files if told.search(path.read_text("utf-8"))] == []


@pytest.mark.parametrize(
    ("around", "error", "message"),
    [
        ({"prefix": None}, TypeError, "prefix: found None, expected text"),
        ({"suffix": 3}, TypeError, "suffix: found 3, expected text"),
        ({"suffix": "\ud800"}, smile.UserError, r"suffix: .* holds \\ud800, half of a pair"),
        ({"forbid": ["\ud800"]}, smile.UserError, r"forbid: .* holds \\ud800, half of a pair"),
    ],
)
def test_what_goes_around_a_caption_is_text(captioner, photo, around, error, message):
    with pytest.raises(error, match=message):
        captioner.caption(photo, **around)


def test_a_prompt_that_the_vocabulary_cannot_spell_is_refused(captioner, photo):
    with pytest.raises(smile.UserError, match=r"prompt 'a 一': .* cannot spell 一; write it"):
        captioner.caption(photo, prompt="a 一")


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_a_captioner_of_any_float_type_captions(tmp_path, dtype):
    captioner = smile.load(make_run(tmp_path / "run")).to(dtype)
    picture = noise("RGB")
    assert isinstance(captioner.caption(picture, max_length=6, min_length=0), str)
    smile.explain(captioner, picture, tmp_path / "words.png", max_length=6, min_length=0)
    assert log_likelihoods(captioner, [picture], ["a b"]).shape == (1, 1)
