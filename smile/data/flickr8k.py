"""Flickr8k in Kaggle's layout (captions.txt) or its authors' (Flickr8k.token.txt)."""

import os
from pathlib import Path

from smile.data.caption_table import read_table, text_of
from smile.data.flickr8k_archives import RELEASE, TEXT
from smile.data.layouts import (
    KAGGLE_FLICKR8K,
    Found,
    Layout,
    data_folder,
    image_folder,
    lines,
    path_of,
    photos,
    refuse_duplicates,
)
from smile.data.notices import say_once
from smile.data.places import Places, nfc
from smile.data.splits import SPLITS, EmptySplit, hash_splits
from smile.errors import UserError, first_few
from smile.model.images import Photo
from smile.system.picture_files import is_image

CAPTIONS = ("captions.txt", "Flickr8k.token.txt")  # the first that is there is read
LISTS = dict(
    zip(SPLITS, (f"Flickr_8k.{s}Images.txt" for s in ("train", "dev", "test")), strict=True)
)
_LISTS = f"{RELEASE}/{TEXT.name}"
LAYOUT = Layout(
    "images/NAME.jpg, captions.txt (or Flickr8k.token.txt) and "
    "Flickr_8k.{train,dev,test}Images.txt in data.root",
    f"{KAGGLE_FLICKR8K} (images and captions.txt) and {_LISTS} (split lists)",
)


def load(
    root: str | os.PathLike[str],
    split: str,
    *,
    val_fraction: float = 0.05,
    test_fraction: float = 0.05,
    max_words: int = 50,
) -> list[Photo]:
    """Flickr8k in Kaggle's layout (captions.txt) or the original one (Flickr8k.token.txt).

    The official lists decide an image's split; without them a hash of its name does.

    Raises:
        UserError: anything is missing or wrong.
    """
    root = data_folder(root, LAYOUT)
    names = _listed(root, split)  # before the captions, because the lists are short
    annotations, captions = read_captions(root)
    if names is None:
        names = _hashed(root, captions, split, val_fraction, test_fraction)
    images = image_folder(root)
    places = Places(root, images)
    return photos(
        {
            name: Found(captions.get(nfc(name), []), places.find(name, images) or "")
            for name in names
        },
        split=split,
        folder=images,
        annotations=annotations,
        layout=LAYOUT,
        places=places,
        max_words=max_words,
    )


def read_captions(root: Path) -> tuple[Path, dict[str, list[str]]]:
    """The file of captions, and the captions of each image in its order.

    Raises:
        UserError: there is none, or it is wrong.
    """
    captions: dict[str, list[str]] = {}
    table, tokens = CAPTIONS
    if os.path.isfile(annotations := root / table):
        for row in read_table(annotations):
            captions.setdefault(nfc(path_of(row)), []).extend(row.captions or [""])
    elif os.path.isfile(annotations := root / tokens):
        for key, caption in token_lines(annotations):
            captions.setdefault(nfc(key.partition("#")[0]), []).append(caption)
    else:
        raise UserError(
            f"{root}: neither {table} nor {tokens} is there; "
            f"expected {LAYOUT.expected}; get it from {LAYOUT.source}"
        )
    return annotations, captions


def _listed(root: Path, split: str) -> list[str] | None:
    """The image names of one split; None where there are no split lists.

    No name may stand twice in the three lists.
    """
    absent = [name for name in LISTS.values() if not os.path.isfile(root / name)]
    if len(absent) == len(LISTS):
        return None
    if absent:
        raise UserError(
            f"{root}: the official split lists are missing: {', '.join(absent)}; "
            f"put them there from {_LISTS}, or remove all three to split by a hash of the names"
        )
    names = {key: lines(root / name) for key, name in LISTS.items()}
    refuse_duplicates(
        (name for split_names in names.values() for name in split_names),
        where=f"{root / 'Flickr_8k.*Images.txt'}",
    )
    if not names[split]:
        raise EmptySplit(f"{root / LISTS[split]}: the {split} split is empty")
    return names[split]


def _hashed(
    root: Path, captions: dict[str, list[str]], split: str, val: float, test: float
) -> list[str]:
    """The image names of one split by their hash, in the order of the file."""
    # Flickr8k.token.txt has captions of a "….jpg.1" that does not exist.
    strange = [name for name in captions if not is_image(name)]
    splits = hash_splits(captions.keys() - {*strange}, val, test)
    left_out = f"; skipped, since not an image's name: {first_few(strange)}" if strange else ""
    say_once(
        f"{root}: no official split lists ({_LISTS} has them): split by a hash of the names, "
        f"data.val_fraction {val:g}, data.test_fraction {test:g}{left_out}",
        topic=f"hash {root}",
    )
    names = [name for name in captions if splits.get(name) == split]
    if not names:
        raise EmptySplit(
            f"{root}: the {split} split is empty, of {len(splits)} images in all; change "
            "data.val_fraction and data.test_fraction, or add the official split lists"
        )
    return names


def token_lines(path: Path) -> list[tuple[str, str]]:
    """`NAME.jpg#0<tab>caption` lines as ("NAME.jpg#0", caption).

    Raises:
        UserError: a line is another one, or two have the same id.
    """
    rows = []
    for line in lines(path):
        key, tab, caption = line.partition("\t")
        if not tab or "#" not in key:
            raise UserError(
                f"{path}: expected NAME.jpg#0<tab>caption on each line, found {line[:80]!r}"
            )
        rows.append((key, text_of(caption, f"{path}, {key}")))
    refuse_duplicates((key for key, _ in rows), where=str(path))
    return rows
