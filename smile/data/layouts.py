"""What the layouts share: one pass over names, not pixels, and its checks and messages.

Each layout's function returns the photos of one split. Whatever is missing, empty or named twice
stops here, before training, with an error that says what and where. An image file is never touched;
each folder is listed once.
"""

import csv
import io
import json
import os
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

from smile.data.captions import clean_caption
from smile.data.images import Photo
from smile.errors import UserError

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


def photos(
    captions: Mapping[str, list[str]],
    *,
    split: str,
    images: Path,
    annotations: Path,
    layout: Layout,
    max_words: int,
) -> list[Photo]:
    """Clean the captions of one split and check that every image has some and a file."""
    cleaned = {
        name: tuple(clean_caption(text, max_words) for text in texts)
        for name, texts in captions.items()
    }
    bare = [name for name, texts in cleaned.items() if not texts or not all(texts)]
    if bare:
        raise UserError(
            f"{annotations}: {len(bare)} of {len(captions)} {split} images have no caption or an "
            f"empty one: {few(bare)}; expected {layout.expected}"
        )
    missing = _missing(images, captions)
    if missing:
        raise UserError(
            f"{annotations}: {len(missing)} of {len(captions)} {split} images are not in {images}: "
            f"{few(missing)}; expected {layout.expected}; they come from {layout.source}"
        )
    return [Photo(os.path.join(images, name), texts) for name, texts in cleaned.items()]


def _missing(images: Path, names: Iterable[str]) -> list[str]:
    """The names that are no files, told from one listing per folder: COCO has 123 000 images."""
    listings: dict[str, set[str]] = {}
    missing = []
    for name in names:
        place, file = os.path.split(name)
        if place not in listings:
            listings[place] = _listing(os.path.join(images, place))
        if file not in listings[place]:
            missing.append(name)
    return missing


def _listing(place: str) -> set[str]:
    try:
        with os.scandir(place) as entries:
            return {entry.name for entry in entries}
    except (FileNotFoundError, NotADirectoryError):
        return set()
    except OSError as error:
        raise UserError(f"{place}: cannot be listed: {error.strerror}") from error


def data_folder(root: str | os.PathLike[str], layout: Layout) -> Path:
    """Check that the data folder is named and there."""
    if root and Path(root).is_dir():
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
    return next((root / name for name in _IMAGE_FOLDERS if (root / name).is_dir()), root)


def grouped(rows: Iterable[tuple[str, list[str]]]) -> dict[str, list[str]]:
    """Rows of a name and some captions → name: all its captions, in the order of the file."""
    grouped: dict[str, list[str]] = {}
    for name, captions in rows:
        grouped.setdefault(name, []).extend(captions)
    return grouped


def refuse_duplicates(names: Iterable[str], *, where: str) -> None:
    twice = [name for name, count in Counter(names).items() if count > 1]
    if twice:
        raise UserError(f"{where}: {len(twice)} names stand there more than once: {few(twice)}")


def few(names: list[str], most: int = 3) -> str:
    """The first few of many, for a message."""
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more


def read(path: Path) -> str:
    """The text of a UTF-8 file, with or without byte order mark, line ends as newlines."""
    try:
        return path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: not UTF-8 text ({error}); save it as UTF-8") from error
    except OSError as error:
        raise UserError(f"{path}: cannot be read: {error.strerror}") from error


def lines(path: Path) -> list[str]:
    """The lines of a text file, stripped, without the blank ones."""
    return [line for raw in read(path).split("\n") if (line := raw.strip())]


def json_rows(path: Path) -> Iterator[tuple[str, dict[str, object]]]:
    """Yield ("FILE, line N", object) for each line of a JSON Lines file."""
    for number, line in enumerate(read(path).split("\n"), start=1):
        if not line.strip():
            continue
        where = f"{path}, line {number}"
        try:
            row = json.loads(line)
        except json.JSONDecodeError as error:
            raise UserError(f"{where}: not JSON ({error}); expected one object per line") from error
        if not isinstance(row, dict):
            raise UserError(f"{where}: expected an object, found {line.strip()[:60]!r}")
        yield where, row


def csv_rows(path: Path) -> Iterator[tuple[str, dict[str, str]]]:
    """Yield ("FILE, line N", row by column name) for each row of a CSV with a header.

    Quotes are CSV's: a caption with a comma stands in quotes, a quote inside it is doubled.
    """
    reader = csv.DictReader(io.StringIO(read(path)), strict=True)
    try:
        columns = [column.strip() for column in reader.fieldnames or []]
        reader.fieldnames = columns
        if not {"image", "file_name"} & {*columns} or not {"caption", "text"} & {*columns}:
            raise UserError(
                f"{path}: expected the header image,caption, found {','.join(columns)!r}"
            )
        for row in reader:
            where = f"{path}, line {reader.line_num}"
            if None in row:
                raise UserError(
                    f"{where}: more fields than the header has; put a caption with commas in quotes"
                )
            yield where, row
    except csv.Error as error:
        raise UserError(f"{path}, line {reader.line_num}: not CSV ({error})") from error


def named(row: Mapping[str, object], where: str) -> tuple[str, list[str]]:
    """The image and the captions (a text or a list) of one row; none counts as an empty one."""
    name = _first_of(row, "image", "file_name")
    if not isinstance(name, str) or not name:
        raise UserError(f"{where}: no image named; expected the columns image and caption")
    given = _first_of(row, "caption", "captions", "text")
    captions = given if isinstance(given, list) else [given or ""]
    if not all(isinstance(caption, str) for caption in captions):
        raise UserError(f"{where}: a caption must be text or a list of texts, not {given!r}")
    return name, captions


def _first_of(row: Mapping[str, object], *keys: str) -> object:
    return next((row[key] for key in keys if key in row), None)
