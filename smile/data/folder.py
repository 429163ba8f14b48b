"""Anyone's own folder of pictures: a table of captions in it, or a text beside each picture."""

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from smile.data.images import Photo
from smile.data.layouts import Layout, csv_rows, data_folder, few, json_rows, lines, named, photos
from smile.data.picture_files import IMAGE_SUFFIXES
from smile.data.splits import SPLIT_OF, SPLITS, EmptySplit, hash_splits, split_of
from smile.errors import UserError

LAYOUT = Layout(
    'captions.jsonl with {"image": "a.jpg", "caption": "..."} on each line, or captions.csv with '
    "the header image,caption, or a.txt beside each a.jpg with one caption per line",
    "your own images and captions",
)


@dataclass
class _Entry:
    """What a folder says of one image; `split` is None where it does not say."""

    captions: list[str] = field(default_factory=list)
    split: str | None = None


def load(
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
    root = data_folder(root, LAYOUT)
    places = _split_folders(root)
    tables = [table for place in (root, *places) if (table := _table(place))]
    entries = _table_entries(root, tables) if tables else _text_entries(root)
    splits = _splits_of(entries, places, root, val_fraction, test_fraction)
    chosen = {name: entries[name].captions for name in sorted(entries) if splits[name] == split}
    if not chosen:
        raise EmptySplit(
            f"{root}: the {split} split is empty, of {len(entries)} images in all; name it in a "
            f'"split" field, make a {split}/ subfolder, or change data.val_fraction and '
            f"data.test_fraction; expected {LAYOUT.expected}"
        )
    return photos(
        chosen,
        split=split,
        images=root,
        annotations=tables[0] if len(tables) == 1 else root,
        layout=LAYOUT,
        max_words=max_words,
    )


def _split_folders(root: Path) -> dict[Path, str]:
    """The train, val and test subfolders; none unless there are at least two of them."""
    folders = {
        path: SPLIT_OF[path.name]
        for path in sorted(root.iterdir())
        if path.name in SPLIT_OF and path.is_dir()
    }
    return folders if len(set(folders.values())) > 1 else {}


def _table(place: Path) -> Path | None:
    """The annotation file of a folder, if it has one."""
    names = [f"{stem}.{kind}" for stem in ("captions", "metadata") for kind in ("jsonl", "csv")]
    found = [place / name for name in names if (place / name).is_file()]
    if len(found) > 1:
        raise UserError(
            f"{place}: several annotation files, {few([path.name for path in found])}; keep one"
        )
    return found[0] if found else None


def _table_entries(root: Path, tables: list[Path]) -> dict[str, _Entry]:
    """Gather the rows of all annotation files by image name, relative to `root`."""
    entries: dict[str, _Entry] = {}
    for table in tables:
        inside = table.parent.relative_to(root)
        rows = json_rows(table) if table.suffix == ".jsonl" else csv_rows(table)
        for where, row in rows:
            name, captions = named(row, where)
            split = split_of(row["split"], where=where) if row.get("split") else None
            entry = entries.setdefault((inside / name).as_posix(), _Entry(split=split))
            if entry.split != split:
                raise UserError(f"{where}: {name} is in {split} here and in {entry.split} before")
            entry.captions += captions
    return entries


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
        raise UserError(f"{root}: {found}; expected {LAYOUT.expected}")
    if bare:
        raise UserError(
            f"{root}: {len(bare)} of {len(images)} images have no .txt beside them: "
            f"{few([path.relative_to(root).as_posix() for path in bare])}; add it or move them out"
        )
    stray = texts - {path.with_suffix(".txt") for path in images}
    if stray:
        raise UserError(
            f"{root}: {len(stray)} of {len(texts)} .txt files have no image beside them: "
            f"{few(sorted(path.relative_to(root).as_posix() for path in stray))}"
        )
    return {
        path.relative_to(root).as_posix(): _Entry(lines(path.with_suffix(".txt")))
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
                f"{few(unsaid)}; give every row one of {', '.join(SPLITS)}, or none"
            )
        return {name: entry.split for name, entry in entries.items()}
    if not places:
        return hash_splits(entries, val_fraction, test_fraction)
    folder_splits = {place.name: split for place, split in places.items()}
    outside = [name for name in entries if name.partition("/")[0] not in folder_splits]
    if outside:
        raise UserError(
            f"{root}: {len(outside)} of {len(entries)} images lie outside "
            f"{', '.join(f'{name}/' for name in folder_splits)}: {few(outside)}"
        )
    return {name: folder_splits[name.partition("/")[0]] for name in entries}
