"""Puts what Flickr8k's archives hold into a folder that lacks some of it.

An archive is unpacked to a folder of unfinished work, and what is lacking is renamed from there, so
that nothing is ever half there. What is there already is left alone.
"""

import contextlib
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

from smile.data.flickr8k import CAPTIONS, LISTS, read_captions
from smile.data.flickr8k_archives import PHOTOS, TEXT
from smile.data.flickr8k_folder import RATINGS, has_captions
from smile.data.layouts import image_folder, lines
from smile.data.places import nfc
from smile.data.unzip import BadArchive, unpack
from smile.errors import UserError, first_few
from smile.system.files import flush

WORK = ".download"  # the name of the folders of unfinished work
UNPACKED = "unpacked"  # a folder in such a folder
PHOTO_FOLDER = "Flicker8k_Dataset"  # as in the archive


class PartOnly(UserError):
    """The captions that are there are of a part of Flickr8k."""


def work_folders(root: Path) -> set[Path]:
    """Where unfinished work lies: beside what it becomes, which may be on another disk."""
    return {root / WORK, image_folder(root) / WORK}


def remove_unpacked(root: Path) -> None:
    """Removes what was unpacked and not renamed, which nobody will use."""
    for folder in work_folders(root):
        shutil.rmtree(folder / UNPACKED, ignore_errors=True)
        with contextlib.suppress(OSError):
            folder.rmdir()  # unless it has an archive or a part of one


@contextlib.contextmanager
def _unpacked(
    archive: Path, folder: Path, *, wanted: Callable[[str], bool], most_bytes: int
) -> Iterator[tuple[Path, list[str]]]:
    """A folder below `folder` with the wanted files, and their names, until it is left."""
    place = folder / WORK / UNPACKED
    try:
        yield place, unpack(archive, place, wanted=wanted, most_bytes=most_bytes)
    finally:
        shutil.rmtree(place, ignore_errors=True)


def install_text(archive: Path, root: Path) -> None:
    """Puts the lists, captions and ratings there that are not; captions never beside others.

    Raises:
        BadArchive: the archive is damaged, not safe, or lacks a file.
        PartOnly: the lists name images without captions, and so they are not put there.
        UserError: the disk is too small.
    """
    # The lists come last: as long as one is lacking, the archive is unpacked again.
    needed = [RATINGS, *([] if has_captions(root) else CAPTIONS[1:]), *LISTS.values()]
    with _unpacked(
        archive, root, wanted=lambda name: name in needed, most_bytes=TEXT.most_unpacked
    ) as (unpacked, names):
        if absent := set(needed) - set(names):
            raise BadArchive(f"{archive}: {first_few([*absent])} is not in it")
        if has_captions(root):
            _check_lists_fit(root, unpacked)
        for name in needed:
            _put(unpacked / name, root)
        flush(root)


def install_photos(archive: Path, root: Path) -> None:
    """Puts the photos there that are not, where the layout looks for them.

    Raises:
        BadArchive: the archive is damaged, not safe, or has no photos.
        UserError: the disk is too small.
    """
    folder = image_folder(root)
    folder = folder if folder != root else root / PHOTO_FOLDER
    with _unpacked(
        archive,
        folder if folder.is_dir() else root,
        wanted=lambda name: name.endswith(".jpg"),
        most_bytes=PHOTOS.most_unpacked,
    ) as (unpacked, names):
        if not names:
            raise BadArchive(f"{archive}: no photo (.jpg) is in it")
        if folder.is_dir():
            for name in names:
                _put(unpacked / name, folder)
            flush(folder)
        else:
            unpacked.rename(folder)
            flush(root)


def _check_lists_fit(root: Path, unpacked: Path) -> None:
    """Refuses the official lists for captions of only a part of Flickr8k."""
    annotations, captions = read_captions(root)
    listed = [name for file in LISTS.values() for name in lines(unpacked / file)]
    if bare := [name for name in listed if nfc(name) not in captions]:
        raise PartOnly(
            f"{annotations}: {len(bare)} of the {len(listed)} images in Flickr8k's split lists "
            f"have no captions in it: {first_few(bare)}; so the lists are not put there; "
            "to split the images by a hash of their names, set data.download = false"
        )


def _put(file: Path, folder: Path) -> None:
    """Moves a file into a folder that has none of that name."""
    if not os.path.lexists(folder / file.name):
        file.rename(folder / file.name)
