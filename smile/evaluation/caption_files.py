"""Reads captions from a file and matches them to the images.

The forms are those of `smile.data.caption_table`. If an image has several captions, the first is
scored. They must then have log-probabilities, as in `sample.py`'s files, which have the best first.
"""

from pathlib import Path

from smile.data.caption_table import read_table
from smile.errors import UserError, first_few
from smile.evaluation.image_set import ImageSet

__all__ = ["is_caption_file", "read_captions"]

SUFFIXES = (".json", ".jsonl", ".csv", ".tsv")


def is_caption_file(source: str | Path) -> bool:
    """Whether a source is a file of captions rather than a model."""
    return str(source).lower().endswith(SUFFIXES)


def read_captions(
    path: str | Path, images: ImageSet, *, allow_missing: bool = False
) -> dict[int, str]:
    """A caption for each image of the set, by the image's number; captions may be empty.

    Captions of other images of the split, beyond the set's limit, are ignored.

    Raises:
        UserError: the file has the wrong form, names an image that is not in the split, has
            several captions of one image without log-probabilities, or has none for an image
            (unless `allow_missing`).
    """
    found = _find_captions(path, images)
    names = dict(zip(images.numbers, images.names, strict=True))
    missing = [name for number, name in names.items() if number not in found]
    if missing and not allow_missing:
        raise UserError(
            f"{path}: {len(missing)} of {len(names)} images of {images.title} have no caption: "
            f"{first_few(missing)}; add them (they may be empty), or score only the others with "
            "--only-captioned"
        )
    return {number: found[number] for number in names if number in found}


def _find_captions(path: str | Path, images: ImageSet) -> dict[int, str]:
    """The captions of a file: the image's number in the whole split → caption."""
    rows = read_table(path)
    found: dict[int, str] = {}
    scored: set[int] = set()
    unknown, several = [], []
    for row in rows:
        number = images.index.find(row.image)
        if not row.captions:
            raise UserError(f"{row.where}: no caption; for an empty one write an empty text")
        if number is None:
            unknown.append(str(row.image))
            continue
        if number in found:
            if not (row.scored and number in scored):
                several.append(str(row.image))
            continue
        if row.scored:
            scored.add(number)
        elif len(row.captions) > 1:
            several.append(str(row.image))
        found[number] = row.captions[0]
    if unknown:
        raise UserError(
            f"{path}: {len(unknown)} of {len(rows)} captions are of images that are not in "
            f"{images.title}: {first_few(unknown)}; is it another split or data set?"
        )
    if several:
        raise UserError(
            f"{path}: {len(several)} of {len(rows)} captions are of images that already have one: "
            f"{first_few(several)}; keep one for each (or give their logprob, the best first)"
        )
    return found
