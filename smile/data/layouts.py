"""What the layouts share: one pass over names, not pixels, and its checks and messages.

Each layout's function returns the photos of one split. Whatever is missing, empty or named twice
stops here, before training, with an error that says what and where. An image file is never touched;
each folder is listed once.
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
    """What the error messages say of a layout: what was expected, and where to get it."""

    expected: str
    source: str


class Found(NamedTuple):
    """An image as a data set has it: its captions, and its file, "" where there is none."""

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
    """The photos of one split, their captions cleaned; every image must have some, and a file.

    Args:
        images: by the name that messages use.
        folder: where the files were looked for, for messages.
        annotations: what names them, for messages.
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
            f"{first_few(missing)}; expected {layout.expected}; they come from {layout.source}"
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
    remark_outside(found, annotations)
    return found


def remark_outside(found: Iterable[Photo], annotations: str | Path) -> None:
    """Says once of a file of captions that it names pictures that lie elsewhere."""
    if first := next((photo for photo in found if photo.outside), None):
        say_once(
            f"{annotations}: some of its pictures lie outside its folder, the first of them is "
            f"{first.name}",
            topic=f"outside {annotations}",
        )


def data_folder(root: str | os.PathLike[str], layout: Layout) -> Path:
    """Check that the data folder is named and there."""
    if root and os.path.isdir(root):
        return Path(root)
    problem = (
        f"{root}: there is no such data folder (data.root)" if root else "data.root is not set"
    )
    raise UserError(
        f"{problem}; expected {layout.expected}; it takes {layout.source}; "
        "unpack there, or point at it with --set data.root=FOLDER"
    )


def image_folder(root: Path) -> Path:
    """Where under `root` a public data set keeps its images: a folder known by name, or `root`."""
    return next((root / name for name in _IMAGE_FOLDERS if os.path.isdir(root / name)), root)


def path_of(row: Row) -> str:
    """The path that a row of a data set's table gives its image."""
    if isinstance(row.image, str):
        return row.image
    raise UserError(f"{row.where}: image: found {show(row.image)}, expected text: a file's path")


def refuse_duplicates(names: Iterable[str], *, where: str) -> None:
    twice = [name for name, count in Counter(names).items() if count > 1]
    if twice:
        raise UserError(
            f"{where}: {len(twice)} names stand there more than once: {first_few(twice)}"
        )


def lines(path: Path) -> list[str]:
    """The lines of a text file, stripped, without the blank ones."""
    return [line for raw in read_text(path).split("\n") if (line := raw.strip())]


def captions_of(path: Path) -> list[str]:
    """The captions in a text file, one on each line."""
    return [text_of(line, str(path)) for line in lines(path)]
