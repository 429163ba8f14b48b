"""Captions made elsewhere: read, and laid beside the images they belong to.

Any of these forms, told by what stands in them:

    [{"image_id": 391895, "caption": "..."}, ...]          the COCO results format
    {"image": "a.jpg", "caption": "..."}                   a line per image
    {"image": "a.jpg", "captions": [{"text": "..."}, ...]} what sample.py --json and --out write
    image,caption,logprob                                  what sample.py --out captions.csv writes
"""

import csv
import io
import json
from pathlib import Path
from typing import Any

from smile.errors import UserError, first_few
from smile.evaluation.image_set import ImageSet

__all__ = ["is_caption_file", "read_captions"]

SUFFIXES = (".json", ".jsonl", ".csv")
FORM = (
    '{"image": "a.jpg", "caption": "..."} on each line, sample.py\'s own lines, or a list of '
    '{"image_id": 1, "caption": "..."}'
)


def is_caption_file(source: str | Path) -> bool:
    """Whether a source is a file of captions rather than a model."""
    return str(source).lower().endswith(SUFFIXES)


def read_captions(path: str | Path, images: ImageSet) -> list[str]:
    """One caption for each image of the set, in its order; captions may be empty.

    Captions of further images of the split, beyond a set's limit, are left out.

    Raises:
        UserError: the file is of the wrong form, names an image that is not in the split or one
            twice, or lacks one.
    """
    rows = _rows(Path(path))
    found: dict[int, str] = {}
    unknown, twice = [], []
    for key, caption in rows:
        number = images.index.find(key)
        if number is None:
            unknown.append(str(key))
        elif number in found:
            twice.append(str(key))
        else:
            found[number] = caption
    if unknown:
        raise UserError(
            f"{path}: {len(unknown)} of {len(rows)} captions are of images that are not in "
            f"{images.title}: {first_few(unknown)}; is it another split or data set?"
        )
    if twice:
        raise UserError(
            f"{path}: {len(twice)} of {len(rows)} captions are of images that had one before: "
            f"{first_few(twice)}; keep one for each"
        )
    missing = [name for number, name in enumerate(images.names) if number not in found]
    if missing:
        raise UserError(
            f"{path}: {len(missing)} of {len(images.names)} images of {images.title} have no "
            f"caption: {first_few(missing)}; add them, empty ones if there is nothing to say"
        )
    return [found[number] for number in range(len(images.names))]


def _rows(path: Path) -> list[tuple[str | int, str]]:
    """(image, caption) of every row of a file."""
    try:
        text = path.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise UserError(f"{path}: cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: not UTF-8 text ({error})") from error
    if path.suffix.lower() == ".csv":
        rows = list(csv.DictReader(io.StringIO(text)))
    elif text.lstrip().startswith("["):
        rows = _json(text, f"{path}")
    else:
        lines = enumerate(text.split("\n"), start=1)
        rows = [_json(line, f"{path}, line {number}") for number, line in lines if line.strip()]
    if not rows:
        raise UserError(f"{path}: no captions in it; expected {FORM}")
    return [_row(row, f"{path}, caption {number}") for number, row in enumerate(rows, start=1)]


def _json(text: str, where: str) -> Any:
    try:
        return json.loads(text)
    except ValueError as error:
        raise UserError(f"{where}: not JSON ({error}); expected {FORM}") from error


def _row(row: Any, where: str) -> tuple[str | int, str]:
    """The image and the caption of one record."""
    try:
        key = row["image"] if "image" in row else row["image_id"]
        caption = row["caption"] if "caption" in row else _best(row["captions"], where)
    except (KeyError, TypeError, IndexError):
        key = caption = None
    if not isinstance(key, str | int) or isinstance(key, bool) or not isinstance(caption, str):
        found = json.dumps(row, ensure_ascii=False)[:80]
        raise UserError(f"{where}: found {found}, expected {FORM}")
    return key, caption


def _best(captions: list[dict], where: str) -> str:
    """The best caption of a record of sample.py's."""
    models = sorted({caption["model"] for caption in captions if "model" in caption})
    if len(models) > 1:
        raise UserError(f"{where}: captions of several models ({', '.join(models)}): keep one's")
    return captions[0]["text"]
