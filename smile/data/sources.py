"""What Karpathy's data sets are made of, where each piece is published, and which are not here.

None of it is downloaded by training: COCO is 20 GB, and Flickr30k's photos are sent on request.
"""

import os
import re
import shlex
from pathlib import Path
from typing import NamedTuple

from smile.data import flickr8k_archives as flickr8k
from smile.data.layouts import image_folder
from smile.system.files import reading
from smile.system.missing import Missing, curl
from smile.system.picture_files import is_image

JSON = "https://cs.stanford.edu/people/karpathy/deepimagesent/caption_datasets.zip"
_COCO = "http://images.cocodataset.org/zips/"
FLICKR30K_FORM = "http://shannon.cs.illinois.edu/DenotationGraph/"


class _Photos(NamedTuple):
    """The photos of a data set, or a part of them.

    what: in words, with the published size.
    folder: where they belong in `data.root`.
    address: an archive that holds this folder, or a page that says how to get it.
    """

    what: str
    folder: str
    address: str


PHOTOS = {
    "coco": (
        _Photos("COCO's training photos (about 13 GB)", "train2014", f"{_COCO}train2014.zip"),
        _Photos("COCO's validation photos (about 6 GB)", "val2014", f"{_COCO}val2014.zip"),
    ),
    "flickr30k": (
        _Photos(
            "Flickr30k's photos (flickr30k-images.tar.gz, whose address is sent to anyone who "
            "fills in the form there)",
            "flickr30k-images",
            FLICKR30K_FORM,
        ),
    ),
    "flickr8k": (
        _Photos(
            "Flickr8k's photos (about 1 GB)",
            "Flicker8k_Dataset",  # the archive's own spelling
            f"{flickr8k.RELEASE}/{flickr8k.PHOTOS.name}",
        ),
    ),
}


def missing(root: str | os.PathLike[str], annotations: str | os.PathLike[str]) -> list[Missing]:
    """The pieces of a data set with Karpathy's splits that are not here.

    Which data set it is, the name of its file says (dataset_coco.json); of others nothing is known
    here, and the list is empty.

    Args:
        root: the folder of the data set (`data.root`).
        annotations: Karpathy's file (`data.annotations`), from here or from `root`; "" if it is the
            one in `root`.
    """
    folder, file = Path(root), find_file(root, annotations)
    name = re.fullmatch(r"dataset_(\w+)\.json", os.path.basename(file or annotations))
    if not root or name is None or name[1] not in PHOTOS:
        return []
    pieces = [] if file else [_annotations(folder, Path(annotations))]
    absent = (part for part in PHOTOS[name[1]] if not _is_there(folder, part))
    return pieces + [_photos(folder, part) for part in absent]


def find_file(root: str | os.PathLike[str], annotations: str | os.PathLike[str]) -> Path | None:
    """Karpathy's file; None if it is not there, or if `root` has several and none is named."""
    if annotations:
        paths = (Path(annotations), Path(root) / annotations)
        return next((path for path in paths if os.path.isfile(path)), None)
    candidates = sorted(Path(root).glob("dataset_*.json"))
    return candidates[0] if len(candidates) == 1 else None


def _is_there(root: Path, part: _Photos) -> bool:
    images = image_folder(root)
    if part.folder in ("train2014", "val2014"):
        return os.path.isdir(images / part.folder)
    with reading(root):
        return images != root or (os.path.isdir(root) and any(map(is_image, os.listdir(root))))


def _annotations(root: Path, file: Path) -> Missing:
    place = file if file.parent != Path() else root / file
    return Missing(
        what="the captions with Karpathy's splits",
        address=JSON,
        place=str(place),
        fetched=False,
        command=_unpacked(JSON, place.parent, only=place.name),
    )


def _photos(root: Path, part: _Photos) -> Missing:
    if part.address == FLICKR30K_FORM:
        place = shlex.quote(str(root))
        command = f"mkdir -p {place} && tar -xzf flickr30k-images.tar.gz -C {place}"
    else:
        command = _unpacked(part.address, root)
    return Missing(
        what=part.what,
        address=part.address,
        place=str(root / part.folder),
        fetched=False,
        command=command,
    )


def _unpacked(address: str, folder: Path, *, only: str = "") -> str:
    """The command that downloads an archive into a folder and unpacks it there, or one file of it.

    It may be given again after any failure.
    """
    archive = folder / address.rpartition("/")[2]
    file = f" {shlex.quote(only)}" if only else ""
    unzip = f"unzip -qo {shlex.quote(str(archive))}{file} -d {shlex.quote(str(folder))}"
    return f"{curl(address, archive)} && {unzip}"
