"""Captioned photos as they lie on disk: Flickr8k, Karpathy's JSON files, anyone's own folder.

Each function returns the photos of one split after one pass over names, not pixels: whatever is
missing, empty or named twice stops here, before training, with an error that says what and where.
An image file is never touched; each folder is listed once.
"""

import csv
import hashlib
import io
import json
import os
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from smile.data.captions import clean_caption
from smile.data.images import Photo
from smile.data.picture_files import IMAGE_SUFFIXES
from smile.errors import UserError

SPLITS = ("train", "val", "test")
# What people call the splits. "restval" is Karpathy's: COCO validation images used for training.
_SPLIT_OF = {
    **{"train": "train", "training": "train", "restval": "train"},
    **{"val": "val", "valid": "val", "validation": "val", "dev": "val", "test": "test"},
}
# Where the public data sets keep their images ("Flicker8k" is the archive's own spelling).
_IMAGE_FOLDERS = (
    *("images", "Images", "Flicker8k_Dataset", "Flickr8k_Dataset"),
    *("flickr30k_images", "flickr30k-images"),
)

_KAGGLE_FLICKR8K = "https://www.kaggle.com/datasets/adityajn105/flickr8k"
_FLICKR8K_LISTS = (
    "https://github.com/jbrownlee/Datasets/releases/download/Flickr8k/Flickr8k_text.zip"
)
_KARPATHY_JSON = "https://cs.stanford.edu/people/karpathy/deepimagesent/caption_datasets.zip"


class EmptySplit(UserError):
    """A split has no images; the data are there, and right otherwise."""


class _Layout(NamedTuple):
    """What the error messages say of a layout: what was expected, and where to get it."""

    expected: str
    source: str


_FLICKR8K = _Layout(
    "images/NAME.jpg, captions.txt (or Flickr8k.token.txt) and "
    "Flickr_8k.{train,dev,test}Images.txt in data.root",
    f"{_KAGGLE_FLICKR8K} (images and captions.txt) and {_FLICKR8K_LISTS} (split lists)",
)
_KARPATHY = _Layout(
    "dataset_NAME.json (data.annotations, or in data.root) and the images in data.root: "
    "images/NAME.jpg for Flickr, train2014/ and val2014/ for COCO",
    f"{_KARPATHY_JSON} (the JSON files), {_KAGGLE_FLICKR8K} (Flickr8k images), "
    "https://www.kaggle.com/datasets/hsankesara/flickr-image-dataset (Flickr30k images), "
    "http://images.cocodataset.org/zips/train2014.zip and val2014.zip (COCO images)",
)
_FOLDER = _Layout(
    'captions.jsonl with {"image": "a.jpg", "caption": "..."} on each line, or captions.csv with '
    "the header image,caption, or a.txt beside each a.jpg with one caption per line",
    "your own images and captions",
)


# --- Flickr8k ---------------------------------------------------------------------------------


def flickr8k(root: str | os.PathLike[str], split: str, *, max_words: int = 50) -> list[Photo]:
    """Flickr8k in Kaggle's layout (captions.txt) or the original one (Flickr8k.token.txt).

    Both need the official split lists. Raises UserError where anything is amiss.
    """
    root = _root(root, _FLICKR8K)
    names = _flickr8k_split(root, split)
    if (annotations := root / "captions.txt").is_file():
        captions = _grouped(_named(row, where) for where, row in _csv_rows(annotations))
    elif (annotations := root / "Flickr8k.token.txt").is_file():
        captions = _grouped(_token_lines(annotations))
    else:
        raise UserError(
            f"{root}: neither captions.txt nor Flickr8k.token.txt is there; "
            f"expected {_FLICKR8K.expected}; get it from {_FLICKR8K.source}"
        )
    return _photos(
        {name: captions.get(name, []) for name in names},
        split=split,
        images=_image_folder(root),
        annotations=annotations,
        layout=_FLICKR8K,
        max_words=max_words,
    )


def _flickr8k_split(root: Path, split: str) -> list[str]:
    """The image names of one split, after checking that no name stands twice in the three lists."""
    lists = dict(
        zip(SPLITS, (f"Flickr_8k.{s}Images.txt" for s in ("train", "dev", "test")), strict=True)
    )
    absent = [name for name in lists.values() if not (root / name).is_file()]
    if absent:
        raise UserError(
            f"{root}: the official split lists are missing: {', '.join(absent)}; "
            f"put them there from {_FLICKR8K_LISTS}"
        )
    names = {key: _lines(root / name) for key, name in lists.items()}
    _refuse_duplicates(
        (name for split_names in names.values() for name in split_names),
        where=f"{root / 'Flickr_8k.*Images.txt'}",
    )
    if not names[split]:
        raise EmptySplit(f"{root / lists[split]}: the {split} split is empty")
    return names[split]


def _token_lines(path: Path) -> list[tuple[str, list[str]]]:
    """Read `NAME.jpg#0<tab>caption` lines into (name, [caption])."""
    rows = []
    for line in _lines(path):
        key, tab, caption = line.partition("\t")
        name, hash_sign, _ = key.partition("#")
        if not tab or not hash_sign:
            raise UserError(f"{path}: expected NAME.jpg#0<tab>caption on each line, found {line!r}")
        rows.append((key, name, [caption]))
    _refuse_duplicates((key for key, _, _ in rows), where=str(path))
    return [(name, caption) for _, name, caption in rows]


# --- Karpathy's JSON --------------------------------------------------------------------------


def karpathy(
    root: str | os.PathLike[str],
    split: str,
    *,
    annotations: str | os.PathLike[str] = "",
    max_words: int = 50,
) -> list[Photo]:
    """dataset_flickr8k.json, dataset_flickr30k.json or dataset_coco.json, and their images.

    `annotations` names the JSON file, as it stands or inside `root`; "" finds the only
    dataset_*.json in `root`. "restval" images join train. Raises UserError where anything is amiss.
    """
    root = _root(root, _KARPATHY)
    path = _karpathy_file(root, annotations)
    try:
        entries = json.loads(_read(path))["images"]
        found = [
            (
                os.path.join(entry.get("filepath", ""), entry["filename"]),
                _split_of(entry["split"], where=str(path)),
                [sentence["raw"] for sentence in entry["sentences"]],
            )
            for entry in entries
        ]
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(
            f"{path}: not one of Karpathy's files ({type(error).__name__}: {error}); expected "
            '{"images": [{"filename", "split", "sentences": [{"raw"}]}]}; '
            f"get it from {_KARPATHY_JSON}"
        ) from error
    _refuse_duplicates((name for name, _, _ in found), where=str(path))
    chosen = {name: captions for name, home, captions in found if home == split}
    if not chosen:
        raise EmptySplit(f"{path}: the {split} split is empty, of {len(found)} images in all")
    return _photos(
        chosen,
        split=split,
        images=_image_folder(root),
        annotations=path,
        layout=_KARPATHY,
        max_words=max_words,
    )


def karpathy_ids(
    root: str | os.PathLike[str], *, annotations: str | os.PathLike[str] = ""
) -> dict[int, str]:
    """The number by which result files call an image → the name of its photo in `karpathy`.

    That is COCO's own (`cocoid`) where the file has it, else Karpathy's `imgid`.
    """
    root = _root(root, _KARPATHY)
    images = _image_folder(root)
    entries = json.loads(_read(_karpathy_file(root, annotations)))["images"]
    return {
        entry["cocoid" if "cocoid" in entry else "imgid"]: os.path.join(
            images, entry.get("filepath", ""), entry["filename"]
        )
        for entry in entries
        if "cocoid" in entry or "imgid" in entry
    }


def _karpathy_file(root: Path, annotations: str | os.PathLike[str]) -> Path:
    if annotations:
        for path in (Path(annotations), root / annotations):
            if path.is_file():
                return path
        raise UserError(
            f"data.annotations: there is no {annotations}, nor one in {root}; "
            f"expected {_KARPATHY.expected}; get it from {_KARPATHY.source}"
        )
    candidates = sorted(root.glob("dataset_*.json"))
    if len(candidates) == 1:
        return candidates[0]
    found = f"{len(candidates)} of them ({_few([path.name for path in candidates])})"
    raise UserError(
        f"{root}: expected one dataset_*.json, found {found if candidates else 'none'}; "
        f"name the file with data.annotations, or get it from {_KARPATHY.source}"
    )


# --- Anyone's own folder ----------------------------------------------------------------------


@dataclass
class _Entry:
    """What a folder says of one image; `split` is None where it does not say."""

    captions: list[str] = field(default_factory=list)
    split: str | None = None


def folder(
    root: str | os.PathLike[str],
    split: str,
    *,
    val_fraction: float = 0.05,
    test_fraction: float = 0.05,
    max_words: int = 50,
) -> list[Photo]:
    """A folder with captions.jsonl, captions.csv, or one .txt beside each image.

    Names are relative to the file that gives them. The Hugging Face hub's form works too
    (metadata.jsonl or .csv, `file_name`, `text`). An image belongs to the split its `split` field
    names, else to the train/, val/ or test/ subfolder it lies in, else to one that a hash of its
    name decides. Raises UserError where anything is amiss.
    """
    root = _root(root, _FOLDER)
    places = _split_folders(root)
    tables = [table for place in (root, *places) if (table := _table(place))]
    entries = _table_entries(root, tables) if tables else _text_entries(root)
    splits = _splits_of(entries, places, root, val_fraction, test_fraction)
    chosen = {name: entries[name].captions for name in sorted(entries) if splits[name] == split}
    if not chosen:
        raise EmptySplit(
            f"{root}: the {split} split is empty, of {len(entries)} images in all; name it in a "
            f'"split" field, make a {split}/ subfolder, or change data.val_fraction and '
            f"data.test_fraction; expected {_FOLDER.expected}"
        )
    return _photos(
        chosen,
        split=split,
        images=root,
        annotations=tables[0] if len(tables) == 1 else root,
        layout=_FOLDER,
        max_words=max_words,
    )


def _split_folders(root: Path) -> dict[Path, str]:
    """The train, val and test subfolders; none unless there are at least two of them."""
    folders = {
        path: _SPLIT_OF[path.name]
        for path in sorted(root.iterdir())
        if path.name in _SPLIT_OF and path.is_dir()
    }
    return folders if len(set(folders.values())) > 1 else {}


def _table(place: Path) -> Path | None:
    """The annotation file of a folder, if it has one."""
    names = [f"{stem}.{kind}" for stem in ("captions", "metadata") for kind in ("jsonl", "csv")]
    found = [place / name for name in names if (place / name).is_file()]
    if len(found) > 1:
        raise UserError(
            f"{place}: several annotation files, {_few([path.name for path in found])}; keep one"
        )
    return found[0] if found else None


def _table_entries(root: Path, tables: list[Path]) -> dict[str, _Entry]:
    """Gather the rows of all annotation files by image name, relative to `root`."""
    entries: dict[str, _Entry] = {}
    for table in tables:
        inside = table.parent.relative_to(root)
        rows = _json_rows(table) if table.suffix == ".jsonl" else _csv_rows(table)
        for where, row in rows:
            name, captions = _named(row, where)
            split = _split_of(row["split"], where=where) if row.get("split") else None
            entry = entries.setdefault((inside / name).as_posix(), _Entry(split=split))
            if entry.split != split:
                raise UserError(f"{where}: {name} is in {split} here and in {entry.split} before")
            entry.captions += captions
    return entries


def _named(row: Mapping[str, object], where: str) -> tuple[str, list[str]]:
    """The image and the captions (a text or a list) of one row; none counts as an empty one."""
    name = _first_of(row, "image", "file_name")
    if not isinstance(name, str) or not name:
        raise UserError(f"{where}: no image named; expected {_FOLDER.expected}")
    given = _first_of(row, "caption", "captions", "text")
    captions = given if isinstance(given, list) else [given or ""]
    if not all(isinstance(caption, str) for caption in captions):
        raise UserError(f"{where}: a caption must be text or a list of texts, not {given!r}")
    return name, captions


def _first_of(row: Mapping[str, object], *keys: str) -> object:
    return next((row[key] for key in keys if key in row), None)


def _text_entries(root: Path) -> dict[str, _Entry]:
    """Pair each image under `root` with the .txt of its stem; neither may stand alone."""
    images: list[Path] = []
    texts: set[Path] = set()
    for place, folders, files in os.walk(root):
        folders[:] = sorted(f for f in folders if not f.startswith("."))
        for path in (Path(place, name) for name in sorted(files) if not name.startswith(".")):
            if path.suffix.lower() in IMAGE_SUFFIXES:
                images.append(path)
            elif path.suffix.lower() == ".txt" and path.stem.lower() not in ("readme", "license"):
                texts.add(path)
    bare = [path for path in images if path.with_suffix(".txt") not in texts]
    if not images or len(bare) == len(images):
        found = f"{len(images)} images and no captions" if images else "no images"
        raise UserError(f"{root}: {found}; expected {_FOLDER.expected}")
    if bare:
        raise UserError(
            f"{root}: {len(bare)} of {len(images)} images have no .txt beside them: "
            f"{_few([path.relative_to(root).as_posix() for path in bare])}; add it or move them out"
        )
    stray = texts - {path.with_suffix(".txt") for path in images}
    if stray:
        raise UserError(
            f"{root}: {len(stray)} of {len(texts)} .txt files have no image beside them: "
            f"{_few(sorted(path.relative_to(root).as_posix() for path in stray))}"
        )
    return {
        path.relative_to(root).as_posix(): _Entry(_lines(path.with_suffix(".txt")))
        for path in images
    }


def _splits_of(
    entries: Mapping[str, _Entry],
    places: Mapping[Path, str],
    root: Path,
    val_fraction: float,
    test_fraction: float,
) -> dict[str, str]:
    """Give each image its split: its own field, else its subfolder, else a hash of its name."""
    unsaid = [name for name, entry in entries.items() if entry.split is None]
    if len(unsaid) < len(entries):
        if unsaid:
            raise UserError(
                f"{root}: {len(unsaid)} of {len(entries)} images have no split where others do: "
                f"{_few(unsaid)}; give every row one of {', '.join(SPLITS)}, or none"
            )
        return {name: entry.split for name, entry in entries.items()}
    if not places:
        return _hash_splits(entries, val_fraction, test_fraction)
    folder_splits = {place.name: split for place, split in places.items()}
    outside = [name for name in entries if name.partition("/")[0] not in folder_splits]
    if outside:
        raise UserError(
            f"{root}: {len(outside)} of {len(entries)} images lie outside "
            f"{', '.join(f'{name}/' for name in folder_splits)}: {_few(outside)}"
        )
    return {name: folder_splits[name.partition("/")[0]] for name in entries}


def _hash_splits(names: Iterable[str], val_fraction: float, test_fraction: float) -> dict[str, str]:
    """Split by a hash of the name, so that adding images moves no other from its split.

    A small folder may have no name below a fraction; the nearest one is then taken, so that a split
    with a fraction above 0 is never empty.
    """
    place = {
        name: int.from_bytes(hashlib.blake2b(name.encode(), digest_size=8).digest()) / 2**64
        for name in names
    }
    order = sorted(place, key=place.__getitem__)
    num_val = sum(x < val_fraction for x in place.values()) or int(val_fraction > 0)
    num_test = sum(val_fraction <= x < val_fraction + test_fraction for x in place.values())
    num_test = num_test or int(test_fraction > 0)
    train = len(order) - num_val - num_test
    return dict(
        zip(order, ["val"] * num_val + ["test"] * num_test + ["train"] * train, strict=False)
    )


# --- Shared: files, checks, messages ----------------------------------------------------------


def _photos(
    captions: Mapping[str, list[str]],
    *,
    split: str,
    images: Path,
    annotations: Path,
    layout: _Layout,
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
            f"empty one: {_few(bare)}; expected {layout.expected}"
        )
    missing = _missing(images, captions)
    if missing:
        raise UserError(
            f"{annotations}: {len(missing)} of {len(captions)} {split} images are not in {images}: "
            f"{_few(missing)}; expected {layout.expected}; they come from {layout.source}"
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


def _root(root: str | os.PathLike[str], layout: _Layout) -> Path:
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


def _image_folder(root: Path) -> Path:
    """Where under `root` a public data set keeps its images: a folder known by name, or `root`."""
    return next((root / name for name in _IMAGE_FOLDERS if (root / name).is_dir()), root)


def _split_of(name: object, *, where: str) -> str:
    """Translate a split's name as written in a file to train, val or test."""
    split = _SPLIT_OF.get(name.strip().lower()) if isinstance(name, str) else None
    if split is None:
        raise UserError(f"{where}: unknown split {name!r}; expected one of {', '.join(_SPLIT_OF)}")
    return split


def _grouped(rows: Iterable[tuple[str, list[str]]]) -> dict[str, list[str]]:
    """Rows of a name and some captions → name: all its captions, in the order of the file."""
    grouped: dict[str, list[str]] = {}
    for name, captions in rows:
        grouped.setdefault(name, []).extend(captions)
    return grouped


def _refuse_duplicates(names: Iterable[str], *, where: str) -> None:
    twice = [name for name, count in Counter(names).items() if count > 1]
    if twice:
        raise UserError(f"{where}: {len(twice)} names stand there more than once: {_few(twice)}")


def _few(names: list[str], most: int = 3) -> str:
    """The first few of many, for a message."""
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more


def _read(path: Path) -> str:
    """The text of a UTF-8 file, with or without byte order mark, line ends as newlines."""
    try:
        return path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: not UTF-8 text ({error}); save it as UTF-8") from error
    except OSError as error:
        raise UserError(f"{path}: cannot be read: {error.strerror}") from error


def _lines(path: Path) -> list[str]:
    """The lines of a text file, stripped, without the blank ones."""
    return [line for raw in _read(path).split("\n") if (line := raw.strip())]


def _json_rows(path: Path) -> Iterator[tuple[str, dict[str, object]]]:
    """Yield ("FILE, line N", object) for each line of a JSON Lines file."""
    for number, line in enumerate(_read(path).split("\n"), start=1):
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


def _csv_rows(path: Path) -> Iterator[tuple[str, dict[str, str]]]:
    """Yield ("FILE, line N", row by column name) for each row of a CSV with a header.

    Quotes are CSV's: a caption with a comma stands in quotes, a quote inside it is doubled.
    """
    reader = csv.DictReader(io.StringIO(_read(path)), strict=True)
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
