"""Checks and messages that all layouts share: one pass over names, not pixels.

Each layout's function returns the photos of one split. Anything missing, empty or named twice
raises an error here, before training. Image files are never opened; each folder is listed once.
"""

import os
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from smile.data.caption_table import Row, text_of
from smile.data.captions import clean_words
from smile.data.notices import say_once
from smile.data.places import Places
from smile.errors import UserError, first_few
from smile.model.images import Photo
from smile.system.files import read_text, show

# Where the public data sets keep their images ("Flicker8k" is the archive's own spelling).
_IMAGE_FOLDERS = (
    *("images", "Images", "Flicker8k_Dataset", "Flickr8k_Dataset"),
    *("flickr30k_images", "flickr30k-images"),
)

KAGGLE_FLICKR8K = "https://www.kaggle.com/datasets/adityajn105/flickr8k"


class Layout(NamedTuple):
    """Texts about a layout for error messages: what is expected, and where to get it."""

    expected: str
    source: str


class Found(NamedTuple):
    """An image of a data set: its captions, and its file, "" if there is none."""

    captions: Sequence[str]
    path: str


def photos(
    images: Mapping[str, Found],
    *,
    split: str,
    folder: Path,
    annotations: Path,
    layout: Layout,
    places: Places,
    max_words: int,
) -> list[Photo]:
    """The photos of one split with cleaned captions; every image must have captions and a file.

    Args:
        images: by the name that messages use.
        folder: where the files were looked for, for messages.
        annotations: the file or folder that names the images, for messages.
    """
    words = {name: [clean_words(text) for text in image.captions] for name, image in images.items()}
    cleaned = {
        name: tuple(" ".join(text[:max_words]) for text in texts) for name, texts in words.items()
    }
    bare = [name for name, texts in cleaned.items() if not texts or not all(texts)]
    if bare:
        raise UserError(
            f"{annotations}: {len(bare)} of {len(images)} {split} images have no caption or an "
            f"empty one: {first_few(bare)}; expected {layout.expected}"
        )
    missing = [name for name, image in images.items() if not image.path]
    if missing:
        raise UserError(
            f"{annotations}: {len(missing)} of {len(images)} {split} images are not in {folder}: "
            f"{first_few(missing)}; expected {layout.expected}; get it from {layout.source}"
        )
    if cut := sum(len(text) > max_words for texts in words.values() for text in texts):
        say_once(
            f"{annotations}: {cut} {split} captions of more than data.max_words = {max_words} "
            "words are cut there",
            topic=f"cut {annotations} {split}",
        )
    found = [
        Photo(image.path, cleaned[name], outside=places.is_outside(image.path))
        for name, image in images.items()
    ]
    warn_outside(found, annotations)
    return found


def warn_outside(found: Iterable[Photo], annotations: str | Path) -> None:
    """Says, once per file of captions, that some of its pictures are outside its folder."""
    if first := next((photo for photo in found if photo.outside), None):
        say_once(
            f"{annotations}: some of its pictures are outside its folder, the first is "
            f"{first.name}",
            topic=f"outside {annotations}",
        )


def data_folder(root: str | os.PathLike[str], layout: Layout) -> Path:
    """The data folder; raises UserError if it is not set or does not exist."""
    if root and os.path.isdir(root):
        return Path(root)
    problem = (
        f"{root}: there is no such data folder (data.root)" if root else "data.root is not set"
    )
    raise UserError(
        f"{problem}; expected {layout.expected}; get it from {layout.source}; "
        "unpack it there, or name its folder with --set data.root=FOLDER"
    )


def image_folder(root: Path) -> Path:
    """The folder of images: a subfolder with a public data set's usual name, else `root`."""
    return next((root / name for name in _IMAGE_FOLDERS if os.path.isdir(root / name)), root)


def path_of(row: Row) -> str:
    """The path of the image in a table's row. Raises UserError if it is a number."""
    if isinstance(row.image, str):
        return row.image
    raise UserError(f"{row.where}: image: found {show(row.image)}, expected text: a file's path")


def refuse_duplicates(names: Iterable[str], *, where: str) -> None:
    twice = [name for name, count in Counter(names).items() if count > 1]
    if twice:
        raise UserError(f"{where}: {len(twice)} names occur more than once: {first_few(twice)}")


def lines(path: Path) -> list[str]:
    """The lines of a text file, stripped, without the blank ones."""
    return [line for raw in read_text(path).split("\n") if (line := raw.strip())]


def captions_of(path: Path) -> list[str]:
    """The captions in a text file, one on each line."""
    return [text_of(line, str(path)) for line in lines(path)]
