"""A user's folder of pictures, with a table of captions in it or a text beside each picture."""

import os
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from smile.data.batches import Broken
from smile.data.caption_table import is_csv, read_table
from smile.data.layouts import (
    Found,
    Layout,
    captions_of,
    data_folder,
    image_folder,
    path_of,
    photos,
)
from smile.data.notices import say_once
from smile.data.places import Places, nfc
from smile.data.splits import SPLIT_OF, SPLITS, EmptySplit, hash_splits, split_of
from smile.data.walk import walk
from smile.errors import UserError, brief, first_few
from smile.model.images import Photo
from smile.system.files import reading
from smile.system.picture_files import is_image

LAYOUT = Layout(
    'captions.jsonl with {"image": "a.jpg", "caption": "..."} on each line, or captions.json with '
    "a list of those or COCO's annotations, or captions.csv with the header image,caption (or any "
    "of them by the name in data.annotations), or a.txt or a.caption beside each a.jpg",
    "your own images and captions",
)

_TABLES = tuple(
    f"{stem}.{kind}"
    for stem in ("captions", "metadata")
    for kind in ("jsonl", "json", "csv", "tsv")
)
_KAGGLE_TABLE = "captions.txt"  # a CSV, unless it is the text beside a captions.jpg
_TABLE_SUFFIXES = (".json", ".jsonl", ".csv", ".tsv")
# Names of other JSON files beside tables: BLIP's references for scoring, and sample.py's records.
_NO_TABLE = {"gt", "run", "errors"}
_TEXT_SUFFIXES = (".txt", ".caption")
_ABOUT = ("readme", "license", "licence")  # texts that are no captions
# Where COCO's pictures are; its annotations give only their names.
_COCO_FOLDERS = tuple(f"{split}{year}" for year in (2014, 2017) for split in SPLITS)


@dataclass
class _Entry:
    """One image of a folder.

    key: its name below the folder in NFC, which is sorted and hashed: order and splits are the same
        on every machine.
    path: its file; "" if there is none. split: "" if the folder does not say.
    """

    key: str
    path: str
    captions: list[str]
    split: str = ""


def load(
    root: str | os.PathLike[str],
    split: str,
    *,
    annotations: str | os.PathLike[str] = "",
    val_fraction: float = 0.05,
    test_fraction: float = 0.05,
    max_words: int = 50,
) -> list[Photo]:
    """A folder with a table of captions, or with a .txt or .caption beside each image.

    The table is the one that `annotations` names, else captions.* or metadata.* in the folder or in
    its split subfolders, else all tables with a split in their names (captions_train2014.json,
    coco_karpathy_val.json). Image names are looked for beside the table, then in `root`, then in
    the current folder. An image's split is the one in its `split` field, else in the table's name,
    else its subfolder (train/, val/ or test/), else one that a hash of its name decides.

    Raises:
        UserError: anything is missing or wrong.
    """
    root = data_folder(root, LAYOUT)
    subfolders = _split_folders(root)
    tables = _tables(root, subfolders, annotations)
    places = Places(root, image_folder(root), *subfolders, *(root / f for f in _COCO_FOLDERS))
    entries: dict[str, _Entry] = {}
    for entry in _table_entries(root, tables, places) if tables else _text_entries(root):
        while entry.key in entries:  # two files whose names differ only in their Unicode form
            entry.key += " "
        entries[entry.key] = entry
    splits = _splits_of(entries, subfolders, root, val_fraction, test_fraction)
    chosen = [entries[key] for key in sorted(entries) if splits[key] == split]
    if not chosen:
        raise EmptySplit(
            f"{root}: the {split} split is empty, of {len(entries)} images in all; name it in a "
            f'"split" field, make a {split}/ subfolder, or change data.val_fraction and '
            "data.test_fraction"
        )
    return photos(
        {entry.key: Found(entry.captions, entry.path) for entry in chosen},
        split=split,
        folder=root,
        annotations=next(iter(tables)) if len(tables) == 1 else root,
        layout=LAYOUT,
        places=places,
        max_words=max_words,
    )


def _split_folders(root: Path) -> dict[Path, str]:
    """The train, val and test subfolders; none unless there are at least two of them."""
    folders = {
        root / name: SPLIT_OF[name.lower()]
        for name in _listing(root)
        if name.lower() in SPLIT_OF and os.path.isdir(root / name)
    }
    return folders if len(set(folders.values())) > 1 else {}


def _listing(place: Path) -> list[str]:
    with reading(place):
        return sorted(os.listdir(place))


# Tables -------------------------------------------------------------------------------------------


def _tables(
    root: Path, subfolders: Iterable[Path], annotations: str | os.PathLike[str]
) -> dict[Path, str]:
    """The tables of captions, each with the split in its name, "" if there is none."""
    if annotations:
        for path in (Path(annotations), root / annotations):
            if os.path.isfile(path):
                return {path: ""}
        raise UserError(f"data.annotations: there is no {annotations}, nor one in {root}")
    tables = [table for place in (root, *subfolders) if (table := _table(place))]
    if tables:
        return dict.fromkeys(tables, "")
    return _tables_by_split(root) or _tables_by_split(root / "annotations")


def _table(place: Path) -> Path | None:
    """The table of a folder that is called captions or metadata, if there is one."""
    found = [place / name for name in _TABLES if os.path.isfile(place / name)]
    if is_csv(place / _KAGGLE_TABLE):
        found.append(place / _KAGGLE_TABLE)
    if len(found) > 1:
        names = first_few([path.name for path in found])
        raise UserError(
            f"{place}: several annotation files, {names}; keep one, or name it in data.annotations"
        )
    return found[0] if found else None


def _tables_by_split(place: Path) -> dict[Path, str]:
    """The tables of a folder with a split in their names, as in public data sets.

    A single one does not define the splits, and only counts as a table if it is called captions.
    """
    found = {}
    for name in _listing(place) if os.path.isdir(place) else ():
        path = place / name
        words = re.findall("[a-z]+", path.stem.lower())
        splits = {SPLIT_OF[word] for word in words if word in SPLIT_OF}
        if path.suffix.lower() in _TABLE_SUFFIXES and len(splits) == 1 and not _NO_TABLE & {*words}:
            found[path] = splits.pop()
    captions = {path: split for path, split in found.items() if "caption" in path.stem.lower()}
    chosen = captions or found  # COCO has instances, keypoints, … beside its captions
    if len(set(chosen.values())) > 1:
        return chosen
    return dict.fromkeys(captions, "")


def _table_entries(root: Path, tables: Mapping[Path, str], places: Places) -> Iterator[_Entry]:
    """The images of all tables, each once, with the captions of all its rows."""
    entries: dict[str, _Entry] = {}
    for table, split in tables.items():
        finder = _Finder(root, table, places)
        for row in read_table(table):
            key, path = finder.find(path_of(row))
            split_here = split_of(row.split, where=row.where) if row.split else split
            known_as = places.identity(path) if path else key
            entry = entries.setdefault(known_as, _Entry(key, path, [], split_here))
            if entry.split != split_here:
                raise UserError(
                    f"{row.where}: {brief(path_of(row))} is in {split_here or 'no split'} here and "
                    f"in {entry.split or 'no split'} before"
                )
            entry.captions += row.captions or [""]
    return iter(entries.values())


class _Finder:
    """Finds the image of a table's row, and its key below the root."""

    def __init__(self, root: Path, table: Path, places: Places) -> None:
        self.root = os.path.join(os.path.abspath(root), "")
        self.inside = ""
        if table.parent.is_relative_to(root):
            self.inside = table.parent.relative_to(root).as_posix()
        self.table_folder = table.parent
        self.folders = [root, image_folder(root), *(root / name for name in _COCO_FOLDERS)]
        self.places = places
        self.known: dict[str, tuple[str, str]] = {}

    def find(self, name: str) -> tuple[str, str]:
        """(key, path); the path is "" if there is no such file."""
        if name not in self.known:
            self.known[name] = self._find(name)
        return self.known[name]

    def _find(self, name: str) -> tuple[str, str]:
        beside_table = _key(self.inside, name)
        if path := self.places.find(name, self.table_folder):
            return beside_table, path
        if path := self.places.find(name, *self.folders):
            return _key("", name), path
        if path := self.places.find(name, ""):  # as sample.py writes it
            below = os.path.abspath(path)
            if below.startswith(self.root):
                return _key("", below.removeprefix(self.root)), path
            return _key("", name), path
        return beside_table, ""


def _key(inside: str, name: str) -> str:
    return nfc((PurePosixPath(inside) / name.replace(os.sep, "/")).as_posix())


# Texts beside the images --------------------------------------------------------------------------


def _text_entries(root: Path) -> Iterator[_Entry]:
    """Pair each image under `root` with the text of the same stem; both must exist."""
    images: list[str] = []
    texts: dict[str, str] = {}  # by path without suffix
    others: list[str] = []
    repeated: list[str] = []
    for path in walk(str(root), repeated=repeated):
        if isinstance(path, Broken):
            say_once(f"{path.name}: {path.reason}", topic=f"walk {path.name}")
            continue
        stem, suffix = os.path.splitext(path)
        if is_image(path):
            images.append(path)
        elif suffix.lower() not in _TEXT_SUFFIXES:
            others.append(path)
        elif os.path.basename(stem).lower() not in _ABOUT:
            if stem in texts:
                raise UserError(f"{texts[stem]} and {path}: two texts for one image: keep one")
            texts[stem] = path
    for path in repeated:
        say_once(f"{path}: leads to a folder that was already read", topic=f"walk {path}")
    _check_pairs(root, images, texts, others)
    for path in images:
        key = _key("", os.path.relpath(path, root))
        yield _Entry(key, path, captions_of(Path(texts[os.path.splitext(path)[0]])))


def _check_pairs(
    root: Path, images: list[str], texts: Mapping[str, str], others: list[str]
) -> None:
    def below(paths: Iterable[str]) -> str:
        return first_few([os.path.relpath(path, root) for path in paths])

    bare = [path for path in images if os.path.splitext(path)[0] not in texts]
    if not images or len(bare) == len(images):
        found = f"{len(images)} images and no captions" if images else "no images"
        left = [*others, *texts.values()]
        beside = f"; unknown files: {below(left)}" if left else ""
        raise UserError(f"{root}: {found}{beside}; expected {LAYOUT.expected}")
    if bare:
        raise UserError(
            f"{root}: {len(bare)} of {len(images)} images have no .txt or .caption beside them: "
            f"{below(bare)}; add it or move them out"
        )
    stems = {os.path.splitext(path)[0] for path in images}
    if stray := [text for stem, text in texts.items() if stem not in stems]:
        raise UserError(
            f"{root}: {len(stray)} of {len(texts)} texts have no image beside them: {below(stray)}"
        )


# Splits -------------------------------------------------------------------------------------------


def _splits_of(
    entries: Mapping[str, _Entry],
    subfolders: Mapping[Path, str],
    root: Path,
    val_fraction: float,
    test_fraction: float,
) -> dict[str, str]:
    """Each image's split: from its table, else its subfolder, else a hash of its name."""
    undecided = [key for key, entry in entries.items() if not entry.split]
    if len(undecided) < len(entries):
        if undecided:
            raise UserError(
                f"{root}: {len(undecided)} of {len(entries)} images have no split where others do: "
                f"{first_few(undecided)}; give every row one of {', '.join(SPLITS)}, or none"
            )
        return {key: entry.split for key, entry in entries.items()}
    if not subfolders:
        return hash_splits(entries, val_fraction, test_fraction)
    folder_splits = {place.name: split for place, split in subfolders.items()}
    outside = [key for key in entries if key.partition("/")[0] not in folder_splits]
    if outside:
        raise UserError(
            f"{root}: {len(outside)} of {len(entries)} images lie outside "
            f"{', '.join(f'{name}/' for name in folder_splits)}: {first_few(outside)}"
        )
    return {key: folder_splits[key.partition("/")[0]] for key in entries}
