"""A data set with Karpathy's splits that is not here: what is missing, and how to get it."""

import json
import shutil
import subprocess
import zipfile
from pathlib import Path

import pytest
from helpers import ROOT, Loopback

from smile.config import DataConfig, load_config
from smile.data import karpathy, sources
from smile.data.load import load_examples
from smile.errors import UserError

ZIPS = "http://images.cocodataset.org/zips"


@pytest.fixture
def data(tmp_path, monkeypatch):
    """The [data] of a config that is shipped, in an empty folder."""
    monkeypatch.chdir(tmp_path)
    return lambda name: load_config(ROOT / "configs" / f"{name}.toml").data


def karpathys(path: str, **photos: str) -> None:
    """Writes a file of Karpathy's: each photo's name and its split."""
    images = [
        {"filename": Path(name).name, "filepath": str(Path(name).parent), "split": split,
         "sentences": [{"raw": "a dog"}]}
        for name, split in photos.items()
    ]  # fmt: skip
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    Path(path).write_text(json.dumps({"images": images}))


def problem(data: DataConfig, split: str = "train") -> str:
    with pytest.raises(UserError) as caught:
        load_examples(data, split)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_all_that_coco_lacks_is_said_at_once_and_then_what_is_left(data):
    coco = data("coco")
    for piece in (
        f"the captions with Karpathy's splits from {sources.JSON} to data/coco/dataset_coco.json",
        f"COCO's training photos (about 13 GB) from {ZIPS}/train2014.zip to data/coco/train2014",
        f"COCO's validation photos (about 6 GB) from {ZIPS}/val2014.zip to data/coco/val2014",
    ):
        assert piece in problem(coco)
    Path("data/coco/train2014").mkdir(parents=True)
    assert "train2014" not in problem(coco) and "val2014.zip" in problem(coco)
    karpathys("data/coco/dataset_coco.json", **{"val2014/a.jpg": "train", "b/c.jpg": "test"})
    assert "dataset_coco" not in problem(coco) and "val2014.zip" in problem(coco)
    assert len(karpathy.missing(coco.root, annotations=coco.annotations)) == 1
    for part in ("train2014", "val2014"):
        Path("data/coco/images", part).mkdir(parents=True)
    assert "val2014/a.jpg" in problem(coco) and "curl" not in problem(coco)


def test_photos_of_another_layout_are_not_missing(data):
    """What a split needs is there, wherever its file says: nothing is asked for."""
    coco = data("coco")
    karpathys("data/coco/dataset_coco.json", **{"mine/a.jpg": "train", "other/b.jpg": "test"})
    Path("data/coco/mine").mkdir()
    Path("data/coco/mine/a.jpg").touch()
    assert len(load_examples(coco, "train")) == 1
    assert "train2014.zip" in problem(coco, "test")
    Path("data/coco/other").mkdir()
    Path("data/coco/other/b.jpg").touch()
    assert karpathy.missing(coco.root, annotations=coco.annotations) == []


def test_who_sends_flickr30k_is_said(data):
    flickr = data("flickr30k")
    said = problem(flickr)
    assert "fills in the form" in said and sources.FLICKR30K_FORM in said
    assert sources.JSON in said and "tar -xzf flickr30k-images.tar.gz -C data/flickr30k" in said
    Path("data/flickr30k/flickr30k-images").mkdir(parents=True)
    assert "form" not in problem(flickr) and sources.JSON in problem(flickr)


@pytest.mark.parametrize("photos", ["images/a.jpg", "a.jpg"])
def test_flickr_s_photos_may_lie_in_the_folder_itself(tmp_path, photos):
    assert len(sources.missing(tmp_path, "dataset_flickr8k.json")) == 2
    (tmp_path / photos).parent.mkdir(exist_ok=True)
    (tmp_path / photos).touch()
    (piece,) = sources.missing(tmp_path, "dataset_flickr8k.json")
    assert piece.place == str(tmp_path / "dataset_flickr8k.json")


def test_of_other_data_sets_nothing_is_known(data):
    mine = DataConfig(format="karpathy", root="mine", annotations="mine/dataset_mine.json")
    assert karpathy.missing(mine.root, annotations=mine.annotations) == []
    assert "mine: there is no such data folder" in problem(mine)


class Archives(Loopback):
    """Archives by the names of the published ones, each of which the client stops once."""

    def __init__(self, **files: list[str]) -> None:
        self.files, self.cut = files, set(files)
        super().__init__()

    def answer(self, handler) -> None:
        name = handler.path.rpartition("/")[2]
        with zipfile.ZipFile(name, "w") as archive:
            for entry in self.files[name]:
                archive.writestr(zipfile.ZipInfo(entry), "x" * 2000)
        whole, start = Path(name).read_bytes(), 0
        if asked := handler.headers.get("Range"):
            start = int(asked.removeprefix("bytes=").rstrip("-"))
            self.requests.append(start)
        handler.send_response(206 if start else 200)
        if start:
            handler.send_header("Content-Range", f"bytes {start}-{len(whole) - 1}/{len(whole)}")
        handler.send_header("Content-Length", str(len(whole) - start))
        handler.end_headers()
        end = len(whole) // 2 if name in self.cut else None
        self.cut.discard(name)
        handler.wfile.write(whole[start:end])
        handler.close_connection = True


@pytest.mark.skipif(not (shutil.which("curl") and shutil.which("unzip")), reason="needs curl")
def test_the_commands_put_everything_in_its_place(data):
    """Typed once more after each broken connection, in a folder with a space in its name."""
    server = Archives(**{
        "train2014.zip": ["train2014/a.jpg"],
        "val2014.zip": ["val2014/b.jpg"],
        "caption_datasets.zip": ["dataset_coco.json", "dataset_flickr8k.json"],
    })  # fmt: skip
    where = ("some where/coco", "some where/json/dataset_coco.json")
    tries = 0
    while pieces := sources.missing(*where):
        commands = " && ".join(piece.command for piece in pieces)
        commands = commands.replace("https://", "http://").replace("curl ", "curl --silent ")
        proxy = {"http_proxy": server.address, "PATH": "/usr/bin:/bin:/usr/local/bin"}
        subprocess.run(commands, shell=True, env=proxy)
        assert (tries := tries + 1) <= 4
    server.close()
    assert tries == 4 and len(server.requests) == 3, "each download goes on where it stopped"
    assert {str(path) for path in Path("some where").rglob("*.j*")} == {
        "some where/coco/train2014/a.jpg",
        "some where/coco/val2014/b.jpg",
        "some where/json/dataset_coco.json",
    }
