"""The file of decoded pictures: the same pictures, made once, never a stale or half-made one."""

import os
import pickle
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from PIL import Image

from smile.data.batches import BatchRow, CaptionDataset
from smile.data.picture_cache import PictureCache, cached, make_cache
from smile.errors import UserError
from smile.model.images import EvalTransform, Photo
from smile.system.files import write_atomically


@pytest.fixture
def photos(tmp_path):
    """Four photos of odd sizes."""
    sizes = [(31, 17), (8, 40), (16, 16), (64, 50)]
    for number, size in enumerate(sizes):
        Image.effect_noise(size, 80).convert("RGB").save(tmp_path / f"{number}.png")
    return [Photo(tmp_path / f"{number}.png", ("a", "b")) for number in range(len(sizes))]


def make(examples, path, **options) -> list[str]:
    """Makes the cache and returns what was said: nothing where it was there already."""
    said: list[str] = []
    make_cache(examples, path, size=16, write=write_atomically, say=said.append, **options)
    return said


def batches(examples) -> list[torch.Tensor]:
    dataset = CaptionDataset(examples, EvalTransform(16))
    return [dataset[BatchRow(i, (0,), 0)][1] for i in range(len(examples))]


def test_cached_pictures_give_the_same_tensors(photos, tmp_path):
    path = tmp_path / "new" / "pictures"
    [line] = make(photos, path)
    assert "4 pictures" in line
    examples = cached(photos, path, size=16)
    assert [(e.name, e.captions) for e in examples] == [(p.name, p.captions) for p in photos]
    expected = batches(photos)
    for photo in photos:
        os.truncate(photo.path, 0)  # from now on they cannot be read themselves
    for found, tensor in zip(batches(examples), expected, strict=True):
        assert torch.equal(found, tensor)


def test_a_cache_is_made_once_and_anew_when_a_photo_changes(photos, tmp_path):
    path = tmp_path / "pictures"
    assert make(photos, path)
    assert not make(photos, path)
    Image.new("RGB", (16, 16), "red").save(photos[2].path)
    with pytest.raises(UserError, match="holds other pictures"):
        cached(photos, path, size=16)
    assert make(photos, path)
    assert cached(photos, path, size=16)[2].read().getpixel((3, 3)) == (255, 0, 0)
    assert make(photos[:3], path) and not make(photos[:3], path)


def test_broken_photos_stop_or_are_noted_down(photos, tmp_path):
    path = tmp_path / "pictures"
    Path(photos[1].path).write_text("no picture")
    with pytest.raises(UserError, match=r"1\.png: .*not an image file; .*data\.skip_broken = true"):
        make(photos, path)
    assert not path.exists() and not list(tmp_path.glob(".*"))
    make(photos, path, skip_broken=True)
    examples = cached(photos, path, size=16)
    with pytest.raises(UserError, match=r"1\.png: cannot read this image: not an image file"):
        examples[1].read()
    assert examples[2].read().size == (16, 16)


def test_other_files_are_left_alone(photos, tmp_path):
    path = tmp_path / "thesis.txt"
    path.write_text("years of work")
    with pytest.raises(UserError, match="is not a cache of pictures"):
        make(photos, path)
    assert path.read_text() == "years of work"
    with pytest.raises(UserError, match="not a whole cache"):
        PictureCache(path)


def test_a_full_disk_is_noticed_beforehand(photos, tmp_path, monkeypatch):
    monkeypatch.setattr("shutil.disk_usage", lambda path: SimpleNamespace(free=3000))
    with pytest.raises(UserError, match=r"4 pictures take 0\.0 GB, but 0\.0 GB are free"):
        make(photos, tmp_path / "pictures")


def test_another_process_maps_the_file_itself(photos, tmp_path):
    make(photos, tmp_path / "pictures")
    [example, *_] = cached(photos, tmp_path / "pictures", size=16)
    picture = example.read()
    text = pickle.dumps(example)
    assert len(text) < 2000
    assert pickle.loads(text).read().tobytes() == picture.tobytes()
