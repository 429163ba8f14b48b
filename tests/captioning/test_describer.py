"""Batches as other libraries hand them over; Ray itself is in scale/test_describer_ray.py."""

import io
import math
import os
import pickle
import shutil
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers import make_photos, make_run
from PIL import Image
from zygote import zygote

import smile
from smile.captioning import describer
from smile.captioning.describe import name_seed


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A folder with a captioner, `run`, and six `photos`."""
    folder = tmp_path_factory.mktemp("describer")
    make_run(folder / "run")
    make_photos(folder / "photos", 6)
    return folder


@pytest.fixture(scope="module")
def photos(place):
    return sorted((place / "photos").rglob("*.png"))


@pytest.fixture(scope="module")
def captioner(place):
    return smile.load(place / "run")


@pytest.fixture(autouse=True)
def forgotten(monkeypatch):
    """As in a process that has loaded nothing yet."""
    monkeypatch.setattr(describer, "_captioners", [])


@pytest.fixture
def loads(monkeypatch):
    """What is loaded, one after the other."""
    found, load = [], describer.load
    monkeypatch.setattr(
        describer, "load", lambda source, **how: found.append(source) or load(source, **how)
    )
    return found


def forms(path: Path) -> list[object]:
    """A picture in all forms."""
    data = path.read_bytes()
    picture = smile.open_image(path)
    return [
        *(str(path), path, data, bytearray(data), memoryview(data)),
        *(picture, Image.open(path), np.asarray(picture)),
        *({"bytes": data, "path": None}, {"bytes": data, "path": "elsewhere.png"}),
        *({"bytes": None, "path": str(path)}, {"path": str(path)}),
    ]


def test_captions_are_those_of_the_captioner(place, photos, captioner):
    describe = smile.Describer(place / "run", logprob="logprob", batch_size=4, num_beams=3)
    expected = [best for [best] in captioner.describe(photos, num_beams=3)]
    assert len({caption.text for caption in expected}) > 1
    found = describe({"image": photos})
    assert found["caption"] == [caption.text for caption in expected]
    assert np.allclose(found["logprob"], [caption.logprob for caption in expected], atol=1e-5)
    assert found["error"] == [""] * 6 and found["image"] is photos
    assert describe({"image": forms(photos[3])})["caption"] == [expected[3].text] * 12
    stacked = np.stack([np.asarray(smile.open_image(photo)) for photo in photos])
    assert describe({"image": stacked})["caption"] == found["caption"]


@pytest.mark.slow
def test_what_cannot_be_read_has_an_error_and_keeps_its_row(place, photos):
    cut = Image.open(io.BytesIO(photos[0].read_bytes()[:-400]))
    broken = {
        "there is no image": [None, math.nan, np.float32("nan")],
        "neither bytes nor a path": [{"bytes": None, "path": None}],
        "not an image file": [b"junk", {"bytes": b"junk", "path": str(photos[0])}],
        "the file is empty": [b""],
        "absent.png: cannot read this image: no such file": ["absent.png", {"path": "absent.png"}],
        "cut short": [cut],
        "found a int": [5],
        "found a dict": [{}],
        r"shape (3, 4, 5)": [np.zeros((3, 4, 5), np.uint8)],
    }
    given = [(words, image) for words, images in broken.items() for image in images]
    column = [one for _, image in given for one in (photos[1], image)]
    for settings in ({}, {"top_k": 1, "seed": 3}):  # by beams; by sampling, for which names count
        describe = smile.Describer(place / "run", logprob="p", batch_size=3, **settings)
        found = describe({"image": column})
        assert len(set(found["caption"][::2])) == 1 and found["caption"][0]
        assert set(found["error"][::2]) == {""} and not any(map(math.isnan, found["p"][::2]))
        assert set(found["caption"][1::2]) == {""} and all(map(math.isnan, found["p"][1::2]))
        for (words, image), error in zip(given, found["error"][1::2], strict=True):
            assert words in error, image
    found = smile.Describer(place / "run", logprob="p", num_return=2)({"image": [None, photos[1]]})
    assert found["caption"][0] == ["", ""] and len(set(found["caption"][1])) == 2
    assert list(map(len, found["p"])) == [2, 2] and found["error"][1] == ""


def test_the_other_columns_stay_and_none_is_overwritten(place, photos, loads):
    describe = smile.Describer(place / "run", image="jpg", caption="text", error="why")
    batch = {"jpg": np.array(photos, object), "caption": list("abcdef")}
    found = describe(batch)
    assert list(found) == ["jpg", "caption", "text", "why"] and list(batch) == ["jpg", "caption"]
    assert found["jpg"] is batch["jpg"] and found["caption"] == list("abcdef")
    assert loads == [str(place / "run")]
    with pytest.raises(smile.UserError, match="has a column 'text' already"):
        describe(found)
    empty = smile.Describer(place / "run", logprob="p", seed=9)({"image": []})
    assert empty == {"image": [], "caption": [], "error": [], "p": []} and len(loads) == 1


@pytest.mark.parametrize(
    ("batch", "words"),
    [
        ({"jpg": [], "txt": []}, "no column 'image', but jpg, txt: say with image="),
        (["a.jpg"], "found a list, expected a batch, a dict of columns"),
        ({"image": "a.jpg"}, "'image' is a str, expected a list or an array"),
        ({"image": {"bytes": b""}}, "'image' is a dict, expected a list"),
        ({"image": np.zeros((5, 4, 3), np.uint8)}, "'image' is a ndarray, expected a list"),
        ({"image": torch.zeros(2, 3, 16, 16)}, "'image' is a Tensor, expected a list"),
    ],
)
def test_what_is_no_batch_is_refused(place, loads, batch, words):
    with pytest.raises(smile.UserError, match=words):
        smile.Describer(place / "run")(batch)
    assert loads == []


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"model": "blip-bas"}, "blip-bas: no such file or folder.*did you mean blip-base"),
        ({"model": "runs/none.pth"}, "none.pth: no such file"),
        ({"model": 3}, "model = 3: expected a path, a known name or a hub id"),
        ({"model": ""}, "model = '': expected a path, a known name or a hub id"),
        ({"num_beam": 3}, "no setting generate.num_beam; did you mean generate.num_beams"),
        ({"num_beams": 0}, "num_beams = 0: expected a whole number from 1"),
        ({"num_beams": 2, "top_p": 0.5}, "num_beams = 2 is for beam search, but top_p = 0.5"),
        ({"num_beams": 2, "num_return": 3}, "num_return is 3, but num_beams only 2"),
        ({"max_length": 41}, "max_length = 41: expected .*at most decoder.max_positions"),
        ({"forbid": "dog"}, 'forbid = "dog": expected a list'),
        ({"image": ""}, "image = '': expected the name of a column"),
        ({"caption": None}, "caption = None: expected the name of a column"),
        ({"logprob": "error"}, "two columns are called 'error'"),
        ({"prompt": 3}, "prompt = 3: expected text"),
        ({"prefix": None}, "prefix = None: expected text"),
        ({"suffix": "\ud800"}, r"suffix: .* holds \\ud800"),
        ({"seed": "1"}, "seed = '1': expected a whole number"),
        ({"batch_size": 0}, "batch_size = 0: expected a whole number from 1 to 4096"),
        ({"device": "gpu"}, "device = 'gpu': expected auto, cpu, cuda"),
        ({"precision": "fp16"}, "precision = 'fp16': expected one of auto, float32, bfloat16"),
        ({"vocab": "absent.txt"}, "vocab = 'absent.txt': expected the path of a file"),
        ({"model_config": 3}, "model_config = 3: expected the path of a file"),
    ],
)
def test_wrong_settings_are_refused_when_it_is_made(place, loads, settings, words):
    with pytest.raises(smile.UserError, match=words):
        smile.Describer(**{"model": place / "run"} | settings)
    assert loads == []


def test_what_another_captioner_could_do_is_not_refused(monkeypatch):
    monkeypatch.setattr(describer, "load", lambda *_, **__: pytest.fail("loaded"))
    for settings in ({"max_length": 9}, {"max_length": 9000}, {"num_return": 20}, {"top_k": 5}):
        smile.Describer("blip-base", **settings)
    smile.Describer("owner/captioner", device="cuda:7", precision="bfloat16")


def test_the_seed_of_an_image_is_its_name_s_or_its_content_s(place, photos, captioner):
    settings = {"top_k": 4, "temperature": 3.0, "seed": 5}
    describe = smile.Describer(place / "run", **settings)
    settings.pop("seed")
    seeds = [name_seed(5, str(photo)) for photo in photos]
    expected = captioner.caption(photos, seeds=seeds, **settings)
    assert describe({"image": photos})["caption"] == expected
    assert describe({"image": photos[::-1]})["caption"] == expected[::-1]
    stored = [{"bytes": p.read_bytes(), "path": p.name} for p in photos]
    assert describe({"image": stored[4:]})["caption"] == expected[4:]
    for nameless in (photos[2].read_bytes(), np.asarray(smile.open_image(photos[2]))):
        [alone] = describe({"image": [nameless]})["caption"]
        assert describe({"image": [photos[0], nameless, photos[1]]})["caption"][1] == alone
    other = smile.Describer(place / "run", seed=6, **settings)
    assert other({"image": photos})["caption"] != expected


def test_it_pickles_as_its_settings_and_loads_once_in_a_process(place, photos, loads):
    describe = smile.Describer(place / "run", num_beams=1, forbid=["dog"])
    before = pickle.dumps(describe)
    first = describe({"image": photos})
    assert pickle.dumps(describe) == before and len(before) < 600
    for _ in range(3):  # as tasks of Ray get it
        assert pickle.loads(before)({"image": photos}) == first
    assert len(loads) == 1
    other = smile.Describer(place / "run", num_beams=2)
    for one in (other, describe, other, describe):
        one({"image": photos[:1]})
    assert len(loads) == 2 and len(describer._captioners) == 2


def test_a_fork_loads_its_own_and_uses_one_thread(place, photos, loads, monkeypatch):
    describe = smile.Describer(place / "run")
    describe({"image": photos})
    threads, pid = [], os.getpid()
    monkeypatch.setattr(torch, "set_num_threads", threads.append)
    monkeypatch.setattr(os, "getpid", lambda: pid + 1)
    describe({"image": photos}), describe({"image": photos})
    assert len(loads) == 2 and threads == [1]


def test_a_rank_chooses_the_gpu(place, monkeypatch):
    assert describer._device_name("auto", None) == describer._device_name("auto", 3) == "auto"
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 4)
    named = [describer._device_name(name, 6) for name in ("auto", "cuda", "cpu", "cuda:1")]
    assert named == ["cuda:2", "cuda:2", "cpu", "cuda:1"]
    assert describer._device_name("auto", None) == "auto"


@pytest.mark.parametrize("name", ["run", "blip-base"])
def test_it_works_in_another_folder(place, photos, monkeypatch, tmp_path, name):
    shutil.copytree(place / "run", tmp_path / name)
    monkeypatch.chdir(tmp_path)
    describe = smile.Describer(name, vocab=f"{name}/vocab.txt")
    monkeypatch.chdir(place / "photos")
    assert describe({"image": photos[:1]})["error"] == [""]


def test_too_little_memory_names_the_setting(place, photos, monkeypatch):
    def fail(*_: object) -> None:
        raise RuntimeError("DefaultCPUAllocator: can't allocate memory")

    monkeypatch.setattr(describer.Model, "describe", fail)
    with pytest.raises(smile.UserError, match="too little memory for batch_size=8: try 4"):
        smile.Describer(place / "run")({"image": photos})


# --- datasets -----------------------------------------------------------------------------------


@pytest.fixture
def dataset(photos):
    """Stored images, of which one is broken and one missing."""
    datasets = pytest.importorskip("datasets")
    stored = [{"bytes": photo.read_bytes(), "path": None} for photo in photos]
    stored[2]["bytes"] = b"junk"
    images = datasets.Dataset.from_dict({"image": [*stored, None], "n": range(7)})
    return images.cast_column("image", datasets.Image())


@pytest.mark.slow
def test_map_describes_and_leaves_the_images_as_they_are(place, photos, captioner, dataset):
    datasets = pytest.importorskip("datasets")
    expected = captioner.caption(photos)
    expected[2:3] = [""]
    describe = smile.Describer(place / "run", logprob="p")
    found = dataset.map(describe, batched=True, batch_size=3)
    assert found["caption"][:] == [*expected, ""]
    assert [bool(error) for error in found["error"]] == [False, False, True, *[False] * 3, True]
    assert found.column_names == ["image", "n", "caption", "error", "p"]
    plain = datasets.Image(decode=False)
    before, after = (one.cast_column("image", plain)["image"][:] for one in (dataset, found))
    assert before == after and isinstance(found[0]["image"], Image.Image)
    less = dataset.map(describe, batched=True, remove_columns=["image"])
    assert less.column_names == ["n", "caption", "error", "p"]
    stream = dataset.cast_column("image", plain).to_iterable_dataset()
    stream = stream.map(describe, batched=True, batch_size=2, remove_columns=["image"])
    assert [row["caption"] for row in stream] == found["caption"][:]
    two = dataset.map(describe, batched=True, batch_size=2, num_proc=2)
    assert two["caption"][:] == found["caption"][:]


def test_images_at_addresses_are_opened_by_datasets(place, photos, captioner, tmp_path):
    datasets = pytest.importorskip("datasets")
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        for photo in photos[4:]:
            archive.write(photo, photo.name)
    addresses = [f"zip://{photo.name}::{tmp_path}/a.zip" for photo in photos[4:]]
    stored = [{"bytes": None, "path": address} for address in addresses]
    images = datasets.Dataset.from_dict({"image": stored}).cast_column("image", datasets.Image())
    found = images.map(smile.Describer(place / "run"), batched=True)
    assert found["caption"][:] == captioner.caption(photos[4:])
    assert found.cast_column("image", datasets.Image(decode=False))["image"][:] == stored


def test_map_without_batches_is_refused(place, dataset):
    for how in ({}, {"batched": True, "input_columns": "image"}):
        with pytest.raises(smile.UserError, match="give map batched=True"):
            dataset.select([0]).map(smile.Describer(place / "run"), **how)


FINGERPRINT = """
import sys, smile
from datasets.fingerprint import Hasher
print(Hasher.hash(smile.Describer(sys.argv[1], forbid=["a b", "c"], num_beams=2, prefix="x")))
"""


@pytest.mark.slow
def test_its_fingerprint_is_that_of_its_settings_and_of_the_model_s_files(place, photos, tmp_path):
    hash_of = pytest.importorskip("datasets").fingerprint.Hasher.hash
    run = shutil.copytree(place / "run", tmp_path / "run")
    settings = {"num_beams": 2, "forbid": ("a b", "c"), "prefix": "".join(["x"])}
    describe = smile.Describer(str(run), **settings)
    expected = hash_of(describe)
    describe({"image": photos})
    again = zygote().run(["-c", FINGERPRINT, run], timeout=60)
    assert again.stdout.strip() == expected == hash_of(describe), again.stderr
    assert hash_of(pickle.loads(pickle.dumps(describe))) == expected
    assert hash_of(smile.Describer(run, **settings | {"num_beams": 3})) != expected
    make_run(run, seed=1)
    assert hash_of(smile.Describer(run, **settings)) != expected


def test_indices_are_no_rank(place, photos):
    """What `map(…, with_indices=True)` hands over."""
    with pytest.raises(smile.UserError, match=r"rank = \[0\]: expected the number of a process"):
        smile.Describer(place / "run")({"image": photos[:1]}, [0])
