"""Captions that experts rated as captions of a photo of Flickr8k, and the photos.

Most were written about another photo. The others are left out, because the photo's own captions are
the references.
"""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from smile.config import DataConfig
from smile.data.caption_ids import Captions, captions_by_id
from smile.data.expert_ratings import Rated, read_ratings
from smile.data.flickr8k_folder import RATINGS, USUAL
from smile.data.layouts import image_folder
from smile.data.places import Places
from smile.errors import UserError, brief
from smile.evaluation.image_set import ImageIndex, ImageSet
from smile.model.images import Photo
from smile.system.picture_files import is_image

__all__ = ["Ratings", "load_ratings"]


@dataclass(frozen=True, kw_only=True)
class Ratings:
    """Rated captions, and the photos that they are compared with.

    path, captions_path: the files of the ratings and of the captions.
    images: every photo that the ratings name, with its own captions as references.
    rated, captions: (L,) the lines that are scored, and their captions.
    photos: (L,) each line's photo, by its number in `images`.
    num_own: lines left out since the caption is the photo's own.
    num_elsewhere: lines left out since they name a photo that Flickr8k does not have.
    """

    path: Path
    captions_path: Path
    images: ImageSet
    rated: Sequence[Rated]
    captions: Sequence[str]
    photos: np.ndarray
    num_own: int
    num_elsewhere: int

    @property
    def ratings(self) -> np.ndarray:
        """(L, 3)"""
        return np.array([line.ratings for line in self.rated])


def load_ratings(given: str, data: DataConfig | None = None) -> Ratings:
    """The ratings in a file, of captions and photos of Flickr8k.

    Args:
        given: the file of ratings, or the folder that holds it; "" for the folder of Flickr8k.
        data: says where Flickr8k is; else it is with the ratings.

    Raises:
        UserError: a file is missing or wrong, a line names a photo or a caption that is not there,
            or there is nothing to score.
    """
    path, root = _places(given, data)
    lines = read_ratings(path)
    captions_path, captions = captions_by_id(root, annotations=data.annotations if data else "")
    known = [line for line in lines if not _is_elsewhere(line, captions)]
    _refuse_unknown(known, captions, captions_path)
    rated = [line for line in known if not line.is_own]
    if not rated:
        raise UserError(f"{path}: no caption of another photo is rated, so nothing can be scored")
    names = list(dict.fromkeys(line.photo for line in known))
    number_of = {name: number for number, name in enumerate(names)}
    return Ratings(
        path=path,
        captions_path=captions_path,
        images=_image_set(path, names, captions, root),
        rated=rated,
        captions=[captions[line.source][line.number] for line in rated],
        photos=np.array([number_of[line.photo] for line in rated]),
        num_own=len(known) - len(rated),
        num_elsewhere=len(lines) - len(known),
    )


def _places(given: str, data: DataConfig | None) -> tuple[Path, Path]:
    """The file of ratings, and the folder of Flickr8k."""
    file = Path(given)
    is_file = file.is_file() or file.suffix == ".txt"
    if data is not None and data.format not in ("flickr8k", "karpathy"):
        raise UserError(
            f"data.format: found {data.format}, expected flickr8k or karpathy: what the experts "
            "rated are Flickr8k's captions"
        )
    if data is not None:
        root = Path(data.root)
    elif given:
        root = file.parent if is_file else file
    else:
        root = Path(USUAL)
    return file if is_file else (file if given else root) / RATINGS, root


def _image_set(path: Path, names: Sequence[str], captions: Captions, root: Path) -> ImageSet:
    """The photos of these names, with their own captions as references."""
    folder = image_folder(root)
    places = Places(root, folder)
    photos = [
        Photo(
            places.find(name, folder) or os.path.join(folder, name), tuple(captions[name].values())
        )
        for name in names
    ]
    return ImageSet(
        title=str(path),
        examples=photos,
        numbers=range(len(photos)),
        index=ImageIndex(names),
        num_in_split=len(photos),
    )


def _is_elsewhere(line: Rated, captions: Captions) -> bool:
    """Whether a line names a photo that Flickr8k does not have.

    Its texts have captions of a "….jpg.1", and no such photo. Kaggle's file lacks them.
    """
    return not is_image(line.photo) or not (is_image(line.source) or line.source in captions)


def _refuse_unknown(lines: Sequence[Rated], captions: Captions, path: Path) -> None:
    """Raises UserError for lines whose photo or caption is not in the file of captions."""
    unknown = []
    for line in lines:
        if line.photo not in captions:
            unknown.append(f"{line.where}: {line.photo}")
        elif line.number not in captions.get(line.source, {}):
            unknown.append(f"{line.where}: {line.caption_id}")
    if unknown:
        raise UserError(
            f"{brief(unknown[0])} is not in {path} ({len(unknown)} of {len(lines)} lines name a "
            "photo or a caption that is not there); expected Flickr8k's captions, all of them: "
            "name their folder with --agreement FOLDER or --data CONFIG.toml"
        )
