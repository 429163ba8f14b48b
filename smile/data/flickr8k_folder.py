"""What of Flickr8k a folder lacks, and whether it holds something else.

Nothing may be added to a folder of somebody's own data: its lists and photos would get mixed up
with Flickr8k's. The names tell: Flickr8k's photos are called by their numbers and secrets.
"""

import os
import re
from pathlib import Path

from smile.data.flickr8k import CAPTIONS, LISTS
from smile.data.flickr8k_archives import PHOTOS, TEXT
from smile.data.layouts import image_folder, lines
from smile.system.files import reading
from smile.system.picture_files import is_image

USUAL = "data/flickr8k"  # the folder, unless somebody names another one
RATINGS = "ExpertAnnotations.txt"
HEAD = 1 << 16  # bytes of a text file that tell whose it is
FEW = 0.01  # share of the photos
_PHOTO = re.compile(r"[0-9]{5,}_[0-9a-f]{6,}(?:_[a-z])?\.jpg")


def has_captions(root: Path) -> bool:
    return any(os.path.isfile(root / name) for name in CAPTIONS)


def has_lists(root: Path) -> bool:
    return all(os.path.isfile(root / name) for name in LISTS.values())


def has_photos(root: Path, *, every_one: bool = False) -> bool:
    """Whether the photos are there that the split lists name; without lists, any picture.

    Args:
        every_one: else a few may be lacking, perhaps on purpose: no reason to fetch a gigabyte.

    Raises:
        UserError: a list or folder cannot be read.
    """
    there = _names(image_folder(root))
    listed = [name for n in LISTS.values() if os.path.isfile(root / n) for name in lines(root / n)]
    if not listed:
        return any(map(is_image, there))
    lacking = sum(name not in there and _PHOTO.fullmatch(name) is not None for name in listed)
    return lacking <= (0 if every_one else FEW * len(listed))


def holds_something_else(root: Path) -> bool:
    """Whether there are data in a folder, and none of them is Flickr8k's.

    Raises:
        UserError: a file or folder cannot be read.
    """
    for name in (*CAPTIONS, *LISTS.values()):
        if os.path.isfile(root / name):
            with reading(root / name), open(root / name, "rb") as file:
                return _PHOTO.search(file.read(HEAD).decode("latin-1")) is None
    if pictures := [name for name in _names(image_folder(root)) if is_image(name)]:
        return not any(map(_PHOTO.fullmatch, pictures))
    ours = {RATINGS, TEXT.name, PHOTOS.name}
    others = (root / name for name in _names(root) - ours if not name.startswith("."))
    return any(not path.is_dir() or _names(path) for path in others)


def _names(folder: Path) -> set[str]:
    """The names in a folder; none if there is no such folder."""
    with reading(folder):
        return set(os.listdir(folder)) if folder.is_dir() else set()
