"""Karpathy's JSON files: COCO, Flickr8k and Flickr30k with the splits used in papers."""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from smile.data import sources
from smile.data.caption_table import text_of
from smile.data.layouts import (
    KAGGLE_FLICKR8K,
    Found,
    Layout,
    data_folder,
    image_folder,
    photos,
    refuse_duplicates,
)
from smile.data.places import Places
from smile.data.sources import FLICKR30K_FORM, JSON, find_file
from smile.data.splits import EmptySplit, split_of
from smile.errors import UserError, first_few
from smile.model.images import Photo
from smile.system.files import expect, lone_surrogate, parse_json, read_text, show
from smile.system.missing import Missing, refuse

LAYOUT = Layout(
    "dataset_NAME.json (data.annotations, or in data.root) and the images in data.root: "
    "images/NAME.jpg for Flickr, train2014/ and val2014/ for COCO",
    f"{JSON} (the JSON files), {KAGGLE_FLICKR8K} (Flickr8k images), "
    f"{FLICKR30K_FORM} (Flickr30k images), "
    "http://images.cocodataset.org/zips/train2014.zip and val2014.zip (COCO images)",
)


class _Entry(NamedTuple):
    """An image of the file. name: its path in the folder of images; number: its id in results."""

    name: str
    split: str
    captions: list[str]
    number: str | int | None


def load(
    root: str | os.PathLike[str],
    split: str,
    *,
    annotations: str | os.PathLike[str] = "",
    max_words: int = 50,
) -> list[Photo]:
    """dataset_flickr8k.json, dataset_flickr30k.json or dataset_coco.json, and their images.

    `annotations` is the path of the JSON file, from here or from `root`; "" finds the only
    dataset_*.json in `root`. "restval" images belong to train.

    Raises:
        UserError: anything is missing or wrong.
    """
    pieces = sources.missing(root, annotations)
    if not (os.path.isdir(root) and find_file(root, annotations)):
        _refuse(pieces, root)
    root = data_folder(root, LAYOUT)
    path = _file(root, annotations)
    entries = list(_entries(path))
    refuse_duplicates((entry.name for entry in entries), where=str(path))
    chosen = [entry for entry in entries if entry.split == split]
    if not chosen:
        raise EmptySplit(f"{path}: the {split} split is empty, of {len(entries)} images in all")
    images = image_folder(root)
    places = Places(root, images, *(root / f"{s}2014" for s in ("train", "val", "test")))
    found = {e.name: Found(e.captions, places.find(e.name, images) or "") for e in chosen}
    if not all(image.path for image in found.values()):
        _refuse(pieces, root)
    return photos(
        found,
        split=split,
        folder=images,
        annotations=path,
        layout=LAYOUT,
        places=places,
        max_words=max_words,
    )


def missing(
    root: str | os.PathLike[str], *, annotations: str | os.PathLike[str] = ""
) -> list[Missing]:
    """The published pieces of a data set that are not here, and that some of its images need.

    Raises:
        UserError: Karpathy's file is there, but damaged.
    """
    pieces, path = sources.missing(root, annotations), find_file(root, annotations)
    if pieces and path and os.path.isdir(root):  # its images may lie in other folders
        images, places = image_folder(Path(root)), Places(Path(root))
        if all(places.find(entry.name, images) for entry in _entries(path)):
            return []
    return pieces


def _refuse(pieces: list[Missing], root: str | os.PathLike[str]) -> None:
    refuse(pieces, f"{root}: not all of this data set is here")


def karpathy_ids(
    root: str | os.PathLike[str], *, annotations: str | os.PathLike[str] = ""
) -> dict[str | int, str]:
    """An image's id in result files → the name of its photo in `load`.

    The id is COCO's (`cocoid`) if the file has it, else Karpathy's `imgid`.
    """
    root = data_folder(root, LAYOUT)
    images = image_folder(root)
    places = Places(root)
    return {
        entry.number: places.find(entry.name, images) or os.path.join(images, entry.name)
        for entry in _entries(_file(root, annotations))
        if entry.number is not None
    }


def read_captions(path: Path) -> dict[str, list[str]]:
    """The captions of each image of one of the files, by its name there, in its order.

    Raises:
        UserError: the file is wrong.
    """
    entries = list(_entries(path))
    refuse_duplicates((entry.name for entry in entries), where=str(path))
    return {entry.name: entry.captions for entry in entries}


def _file(root: Path, annotations: str | os.PathLike[str]) -> Path:
    if path := find_file(root, annotations):
        return path
    if annotations:
        raise UserError(
            f"data.annotations: there is no {annotations}, nor one in {root}; "
            f"expected {LAYOUT.expected}; get it from {LAYOUT.source}"
        )
    names = sorted(path.name for path in root.glob("dataset_*.json"))
    found = f"{len(names)} of them ({first_few(names)})" if names else "none"
    raise UserError(
        f"{root}: expected one dataset_*.json, found {found}; "
        f"name the file with data.annotations, or get it from {LAYOUT.source}"
    )


def _entries(path: Path) -> Iterator[_Entry]:
    """Every image of one of the files, each with all its captions."""
    content = parse_json(read_text(path), str(path))
    items = content.get("images") if isinstance(content, dict) else None
    if not isinstance(items, list) or "annotations" in content:
        raise UserError(
            f"{path}: not one of Karpathy's files: expected "
            '{"images": [{"filename", "split", "sentences": [{"raw"}]}]}, '
            f"from {JSON}; data.format = folder reads COCO's annotations and lists of "
            '{"image", "caption"}'
        )
    for number, item in enumerate(items, start=1):
        where = f"{path}, images {number}"
        item = expect(item, dict, where=where)
        sentences = _need(item, "sentences", list, where)
        yield _Entry(
            name=_name(item, where),
            split=split_of(_need(item, "split", str, where), where=where),
            captions=[_raw(sentence, f"{where}, sentences") for sentence in sentences],
            number=_number(item, where),
        )


def _name(item: dict[str, Any], where: str) -> str:
    folder = expect(item.get("filepath", ""), str, where=f"{where}, filepath")
    name = os.path.join(folder, _need(item, "filename", str, where))
    if surrogate := lone_surrogate(name):
        raise UserError(f"{where}, filename: {surrogate} in {name!r} is not a character")
    return name


def _raw(sentence: Any, where: str) -> str:
    return text_of(_need(expect(sentence, dict, where=where), "raw", str, where), where)


def _number(item: dict[str, Any], where: str) -> str | int | None:
    number = item.get("cocoid", item.get("imgid"))
    if number is None or (isinstance(number, str | int) and not isinstance(number, bool)):
        return number
    raise UserError(f"{where}, cocoid: found {show(number)}, expected a whole number")


def _need(item: dict[str, Any], key: str, kind: type, where: str) -> Any:
    if key not in item:
        raise UserError(f"{where}: no {key}, so not one of Karpathy's files; get them from {JSON}")
    return expect(item[key], kind, where=f"{where}, {key}")
