"""Flickr8k as Kaggle gives it (captions.txt) or as its authors did (Flickr8k.token.txt)."""

import os
from pathlib import Path

from smile.data.images import Photo
from smile.data.layouts import (
    KAGGLE_FLICKR8K,
    Layout,
    csv_rows,
    data_folder,
    grouped,
    image_folder,
    lines,
    named,
    photos,
    refuse_duplicates,
)
from smile.data.splits import SPLITS, EmptySplit
from smile.errors import UserError

_LISTS = "https://github.com/jbrownlee/Datasets/releases/download/Flickr8k/Flickr8k_text.zip"
LAYOUT = Layout(
    "images/NAME.jpg, captions.txt (or Flickr8k.token.txt) and "
    "Flickr_8k.{train,dev,test}Images.txt in data.root",
    f"{KAGGLE_FLICKR8K} (images and captions.txt) and {_LISTS} (split lists)",
)


def load(root: str | os.PathLike[str], split: str, *, max_words: int = 50) -> list[Photo]:
    """Flickr8k in Kaggle's layout (captions.txt) or the original one (Flickr8k.token.txt).

    Both need the official split lists. Raises UserError where anything is amiss.
    """
    root = data_folder(root, LAYOUT)
    names = _flickr8k_split(root, split)
    if (annotations := root / "captions.txt").is_file():
        captions = grouped(named(row, where) for where, row in csv_rows(annotations))
    elif (annotations := root / "Flickr8k.token.txt").is_file():
        captions = grouped(_token_lines(annotations))
    else:
        raise UserError(
            f"{root}: neither captions.txt nor Flickr8k.token.txt is there; "
            f"expected {LAYOUT.expected}; get it from {LAYOUT.source}"
        )
    return photos(
        {name: captions.get(name, []) for name in names},
        split=split,
        images=image_folder(root),
        annotations=annotations,
        layout=LAYOUT,
        max_words=max_words,
    )


def _flickr8k_split(root: Path, split: str) -> list[str]:
    """The image names of one split, after checking that no name stands twice in the three lists."""
    lists = dict(
        zip(SPLITS, (f"Flickr_8k.{s}Images.txt" for s in ("train", "dev", "test")), strict=True)
    )
    absent = [name for name in lists.values() if not (root / name).is_file()]
    if absent:
        raise UserError(
            f"{root}: the official split lists are missing: {', '.join(absent)}; "
            f"put them there from {_LISTS}"
        )
    names = {key: lines(root / name) for key, name in lists.items()}
    refuse_duplicates(
        (name for split_names in names.values() for name in split_names),
        where=f"{root / 'Flickr_8k.*Images.txt'}",
    )
    if not names[split]:
        raise EmptySplit(f"{root / lists[split]}: the {split} split is empty")
    return names[split]


def _token_lines(path: Path) -> list[tuple[str, list[str]]]:
    """Read `NAME.jpg#0<tab>caption` lines into (name, [caption])."""
    rows = []
    for line in lines(path):
        key, tab, caption = line.partition("\t")
        name, hash_sign, _ = key.partition("#")
        if not tab or not hash_sign:
            raise UserError(f"{path}: expected NAME.jpg#0<tab>caption on each line, found {line!r}")
        rows.append((key, name, [caption]))
    refuse_duplicates((key for key, _, _ in rows), where=str(path))
    return [(name, caption) for _, name, caption in rows]
