"""Karpathy's JSON files: COCO, Flickr8k and Flickr30k with the splits that papers use."""

import json
import os
from pathlib import Path

from smile.data.images import Photo
from smile.data.layouts import (
    KAGGLE_FLICKR8K,
    Layout,
    data_folder,
    few,
    image_folder,
    photos,
    read,
    refuse_duplicates,
)
from smile.data.splits import EmptySplit, split_of
from smile.errors import UserError

_JSON = "https://cs.stanford.edu/people/karpathy/deepimagesent/caption_datasets.zip"
LAYOUT = Layout(
    "dataset_NAME.json (data.annotations, or in data.root) and the images in data.root: "
    "images/NAME.jpg for Flickr, train2014/ and val2014/ for COCO",
    f"{_JSON} (the JSON files), {KAGGLE_FLICKR8K} (Flickr8k images), "
    "https://www.kaggle.com/datasets/hsankesara/flickr-image-dataset (Flickr30k images), "
    "http://images.cocodataset.org/zips/train2014.zip and val2014.zip (COCO images)",
)


def load(
    root: str | os.PathLike[str],
    split: str,
    *,
    annotations: str | os.PathLike[str] = "",
    max_words: int = 50,
) -> list[Photo]:
    """dataset_flickr8k.json, dataset_flickr30k.json or dataset_coco.json, and their images.

    `annotations` names the JSON file, as it stands or inside `root`; "" finds the only
    dataset_*.json in `root`. "restval" images join train. Raises UserError where anything is amiss.
    """
    root = data_folder(root, LAYOUT)
    path = _karpathy_file(root, annotations)
    try:
        entries = json.loads(read(path))["images"]
        found = [
            (
                os.path.join(entry.get("filepath", ""), entry["filename"]),
                split_of(entry["split"], where=str(path)),
                [sentence["raw"] for sentence in entry["sentences"]],
            )
            for entry in entries
        ]
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(
            f"{path}: not one of Karpathy's files ({type(error).__name__}: {error}); expected "
            '{"images": [{"filename", "split", "sentences": [{"raw"}]}]}; '
            f"get it from {_JSON}"
        ) from error
    refuse_duplicates((name for name, _, _ in found), where=str(path))
    chosen = {name: captions for name, home, captions in found if home == split}
    if not chosen:
        raise EmptySplit(f"{path}: the {split} split is empty, of {len(found)} images in all")
    return photos(
        chosen,
        split=split,
        images=image_folder(root),
        annotations=path,
        layout=LAYOUT,
        max_words=max_words,
    )


def karpathy_ids(
    root: str | os.PathLike[str], *, annotations: str | os.PathLike[str] = ""
) -> dict[int, str]:
    """The number by which result files call an image → the name of its photo in `load`.

    That is COCO's own (`cocoid`) where the file has it, else Karpathy's `imgid`.
    """
    root = data_folder(root, LAYOUT)
    images = image_folder(root)
    entries = json.loads(read(_karpathy_file(root, annotations)))["images"]
    return {
        entry["cocoid" if "cocoid" in entry else "imgid"]: os.path.join(
            images, entry.get("filepath", ""), entry["filename"]
        )
        for entry in entries
        if "cocoid" in entry or "imgid" in entry
    }


def _karpathy_file(root: Path, annotations: str | os.PathLike[str]) -> Path:
    if annotations:
        for path in (Path(annotations), root / annotations):
            if path.is_file():
                return path
        raise UserError(
            f"data.annotations: there is no {annotations}, nor one in {root}; "
            f"expected {LAYOUT.expected}; get it from {LAYOUT.source}"
        )
    candidates = sorted(root.glob("dataset_*.json"))
    if len(candidates) == 1:
        return candidates[0]
    found = f"{len(candidates)} of them ({few([path.name for path in candidates])})"
    raise UserError(
        f"{root}: expected one dataset_*.json, found {found if candidates else 'none'}; "
        f"name the file with data.annotations, or get it from {LAYOUT.source}"
    )
