"""Fetches what a folder lacks of Flickr8k, and unpacks it.

A process may be killed at any moment: the same call then finishes. What is fetched and unpacked
lies in a folder WORK until it is whole, and is then renamed; what is there already is left alone.
An archive that somebody put into the folder by hand is used, checked and kept.
"""

import os
import shutil
import sys
from pathlib import Path

from smile.config import DataConfig
from smile.data.flickr8k_archives import PHOTOS, TERMS, TEXT, Archive, Place
from smile.data.flickr8k_folder import (
    RATINGS,
    has_captions,
    has_lists,
    has_photos,
    holds_something_else,
)
from smile.data.flickr8k_install import (
    WORK,
    PartOnly,
    install_photos,
    install_text,
    remove_unpacked,
    work_folders,
)
from smile.data.unzip import BadArchive
from smile.errors import UserError
from smile.system.connection import shown
from smile.system.download import fetch, offline, only_process
from smile.system.files import digest, make_folder, reading, remove_empty, writing
from smile.system.missing import Missing, curl, refuse, shown_size

LOCK = ".download.lock"


def missing(data: DataConfig) -> list[Missing]:
    """What is still to be downloaded before the data can be loaded; nothing but for Flickr8k.

    Raises:
        UserError: the root is no folder, a file in it cannot be read, or the mirror is no address.
    """
    root = Path(data.root)
    if data.format != "flickr8k":
        return []
    _check_folder(root)
    if holds_something_else(root):
        return []
    if not data.download and has_captions(root) and has_photos(root):
        return []  # without the official lists, a hash of the names splits them
    lacking = _lacking(root, ratings=False, every_photo=_is_unfinished(root))
    return _missing(root, Place(), lacking, fetched=data.download)


def provide(data: DataConfig) -> None:
    """Downloads what is missing, if `data.download`; see `download`."""
    if data.format == "flickr8k" and data.download:
        root = Path(data.root)
        if not (has_captions(root) and holds_something_else(root)):
            download(root)


def download(root: Path, *, ratings: bool = False) -> None:
    """Fetches and unpacks what a folder lacks of Flickr8k; of several processes, one does.

    Args:
        ratings: also ExpertAnnotations.txt, which training does not need.

    Raises:
        UserError: the root is no folder or holds something else, the disk is too small, or an
            archive cannot be had or is not the published one. What came so far is kept for the next
            try.
    """
    _check_folder(root)
    if not _is_unfinished(root) and not _lacking(root, ratings=ratings, every_photo=False):
        return
    if holds_something_else(root):
        raise UserError(
            f"{root}: it holds files, and nothing of Flickr8k, so that is not downloaded to it: "
            'name a new folder, or set data.format = "folder" for photos of your own'
        )
    made: list[Path] = []
    try:
        with writing(root):
            made += make_folder(root)
            with only_process(root, root / LOCK):
                every_photo = _is_unfinished(root)
                remove_unpacked(root)  # of a killed process: the room is needed
                _complete(root, ratings=ratings, every_photo=every_photo)
    finally:
        if root.is_dir():
            remove_unpacked(root)
        remove_empty(made)


def _complete(root: Path, *, ratings: bool, every_photo: bool) -> None:
    """Does what `download` says, alone in the folder."""
    place, prepared = Place(), list[Archive]()
    for archive, install in ((TEXT, install_text), (PHOTOS, install_photos)):
        lacking = _lacking(root, ratings=ratings, every_photo=every_photo)
        if archive not in lacking:
            continue
        if archive not in prepared:  # the lists, once there, may name photos that are not
            prepared = lacking
            _prepare(root, place, lacking)
        file = _file(root, archive, place)
        try:
            install(file, root)
        except (BadArchive, PartOnly):  # nobody will use the archive
            if _is_ours(file):
                file.unlink()
            raise
        if archive in _lacking(root, ratings=ratings, every_photo=False):
            raise UserError(f"{root}: its split lists name photos that are not in {archive.name}")
        if _is_ours(file):
            file.unlink()
    for folder in work_folders(root):
        shutil.rmtree(folder, ignore_errors=True)


# What is lacking ----------------------------------------------------------------------------------


def _lacking(root: Path, *, ratings: bool, every_photo: bool) -> list[Archive]:
    """The archives whose contents are not all there, the small one first."""
    text = has_captions(root) and has_lists(root)
    text = text and (not ratings or os.path.isfile(root / RATINGS))
    photos = has_photos(root, every_one=every_photo)
    return [TEXT] * (not text) + [PHOTOS] * (not photos)


def _check_folder(root: Path) -> None:
    """Raises UserError for a file, or a link to nowhere, in the folder's place."""
    if os.path.lexists(root) and not root.is_dir():
        raise UserError(
            f"{root} is not a folder, nor a link to one that is there, so Flickr8k cannot be "
            "downloaded to it: remove it, or name another folder"
        )


def _is_unfinished(root: Path) -> bool:
    """Whether a process was killed, or is at work."""
    return (root / LOCK).exists() or any(folder.is_dir() for folder in work_folders(root))


def _what(root: Path, archive: Archive) -> str:
    """What of an archive is needed, in words."""
    if archive is PHOTOS:
        return "the photos of Flickr8k"
    kinds = {
        "captions": has_captions(root),
        "split lists": has_lists(root),
        "human ratings": os.path.isfile(root / RATINGS),
    }
    return f"the {', '.join(kind for kind, there in kinds.items() if not there)} of Flickr8k"


def _missing(
    root: Path, place: Place, lacking: list[Archive], *, fetched: bool = True
) -> list[Missing]:
    """The archives that are not on this disk either."""
    return [
        Missing(
            what=_what(root, archive),
            address=shown(place.url(archive)),
            place=str(root / archive.name if fetched else root),
            size=place.size(archive),
            fetched=fetched,
            command=curl(place.url(archive), root / archive.name) if fetched else "",
        )
        for archive in lacking
        if not _on_disk(root, archive)
    ]


# Fetching -----------------------------------------------------------------------------------------


def _prepare(root: Path, place: Place, lacking: list[Archive]) -> None:
    """Checks what can be checked before a download, and says what will be downloaded."""
    pieces = _missing(root, place, lacking)
    if why := offline():
        refuse(pieces, f"downloads are off ({why})")
    _check_room(root, lacking, place)
    words = [
        piece.what + (f" ({shown_size(piece.size)})" if piece.size else "") for piece in pieces
    ]
    if words:
        print(
            f"downloading {' and '.join(words)} from {shown(place.base)} to {root}; {TERMS}",
            file=sys.stderr,
        )


def _check_room(root: Path, lacking: list[Archive], place: Place) -> None:
    """Raises UserError if the archives, or what comes out of them, do not fit on the disk."""
    if place.is_this_machine:  # whose archives may be of any size
        return
    needed = sum(archive.unpacked for archive in lacking)
    for archive in lacking:
        if not _on_disk(root, archive):
            part = root / WORK / f"{archive.name}.part"
            needed += max(0, archive.size - (part.stat().st_size if part.exists() else 0))
    free = shutil.disk_usage(root).free
    if needed > free:
        raise UserError(
            f"{root}: {shown_size(needed)} are needed, for archives and what comes out of them, "
            f"and {shown_size(free)} are free: make room there, or choose another folder"
        )


def _on_disk(root: Path, archive: Archive) -> Path | None:
    """An archive that is there already: put there by hand, or by a process that was killed."""
    places = (root / archive.name, root / WORK / archive.name)
    return next((path for path in places if path.is_file()), None)


def _is_ours(archive: Path) -> bool:
    """Whether this module fetched an archive; else somebody put it there."""
    return archive.parent.name == WORK


def _file(root: Path, archive: Archive, place: Place) -> Path:
    """The archive, checked; it is downloaded unless it is on this disk."""
    md5, found = place.md5(archive), _on_disk(root, archive)
    if found is not None:
        with reading(found):
            actual = digest(found, "md5")
        if actual == md5:
            return found
        if not _is_ours(found):
            raise UserError(
                f"{found} has the md5 {actual}, expected {md5}: it is damaged or another file; "
                "remove it, and the published one is downloaded"
            )
        found.unlink()
    return fetch(
        place.url(archive),
        checksum=f"md5:{md5}",
        folder=root / WORK,
        by_hand=root / archive.name,
    )
