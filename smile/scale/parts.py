"""A folder of images cut into parts, so that it is captioned as shards are.

`_parts.parquet` is written once and fixes which name lies in which part: a part is one row group.
Names that come later go into further parts, in `_parts-00012.parquet`, which begins with part 12.
A list that is there is never replaced, so that all processes work by the same lists.
"""

import contextlib
import os
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from smile.data.batches import Broken, batches_of
from smile.errors import UserError, counted
from smile.scale.store import Folder, open_folder, require
from smile.system.files import writing

_LIST = re.compile(r"_parts(?:-(\d+))?\.parquet")


@dataclass(frozen=True)
class Part:
    """Some images of a folder, as a unit of work.

    folder: the address of the output, whose file `list_name` has their names in row group `group`.
    """

    folder: str
    list_name: str
    group: int
    number: int

    @property
    def name(self) -> str:
        return part_name(self.number)

    @property
    def source(self) -> str:
        return f"part {self.number}"

    @contextlib.contextmanager
    def open(self) -> Iterator["_Names"]:
        names = open_folder(self.folder).read(
            self.list_name, lambda file: _names(_opened(file), self.group)
        )
        yield _Names(names)


class _Names(list[str]):
    """The images of a part, as `smile.scale.tar.TarImages` are those of a shard."""

    num_others = 0


@dataclass(frozen=True)
class Cut:
    """What became of a folder's names.

    parts: all parts, in order.
    num_new: names that came after the first list was made. num_gone: names that went since.
    broken: arguments and folders without images.
    """

    parts: list[Part]
    num_new: int
    num_gone: int
    broken: list[Broken]

    def words(self) -> list[str]:
        """What happened since the first time, for people."""
        said = []
        if self.num_new:
            said.append(f"{counted(self.num_new, 'image')} came since: in further parts")
        if self.num_gone:
            said.append(f"{counted(self.num_gone, 'image')} of _parts.parquet no longer named")
        return said


def part_name(number: int) -> str:
    return f"{number:05}"


def cut(address: str, names: Iterable[str | Broken], *, size: int) -> Cut:
    """Cuts names into parts of `size`, in their order, where they are in none yet.

    Several processes may do so at once: the list of the first one counts.

    Args:
        address: of the output.

    Raises:
        UserError: the lists cannot be read or written.
    """
    require("pyarrow", "tables")
    folder = open_folder(address)
    before = find_parts(address)
    known = _all_names(folder, before)
    broken: list[Broken] = []
    num_new = _write_list(folder, _new(names, known, broken), first=len(before), size=size)
    return Cut(
        parts=find_parts(address) if num_new else before,
        num_new=num_new if before else 0,
        num_gone=len(known),
        broken=broken,
    )


def _new(names: Iterable[str | Broken], known: set[str], broken: list[Broken]) -> Iterator[str]:
    """The names that are not known. Takes the others from `known`: what stays there is gone."""
    for name in names:
        if isinstance(name, Broken):
            broken.append(name)
        elif name in known:
            known.remove(name)
        else:
            yield name


def find_parts(address: str) -> list[Part]:
    """The parts that the lists in an output name. Raises UserError if one cannot be read."""
    require("pyarrow", "tables")
    folder = open_folder(address)
    lists = {}
    for name in folder.sizes():
        if match := _LIST.fullmatch(name):
            lists[int(match[1] or 0)] = name
    parts: list[Part] = []
    for first, name in sorted(lists.items()):
        if first != len(parts):
            raise UserError(
                f"{folder.address}/{name}: begins with part {first}, but the lists before it have "
                f"{len(parts)}: one of them was removed; name another --out"
            )
        count = folder.read(name, lambda file: _opened(file).num_row_groups)
        parts += [Part(address, name, group, first + group) for group in range(count)]
    return parts


def _all_names(folder: Folder, parts: Iterable[Part]) -> set[str]:
    names: set[str] = set()
    for list_name in dict.fromkeys(part.list_name for part in parts):

        def add_all(file: BinaryIO) -> None:
            source = _opened(file)
            for group in range(source.num_row_groups):
                names.update(_names(source, group))

        folder.read(list_name, add_all)
    return names


def _opened(file: BinaryIO) -> Any:
    import pyarrow
    import pyarrow.parquet

    try:
        return pyarrow.parquet.ParquetFile(file)
    except pyarrow.ArrowInvalid as error:
        raise UserError(f"a list of parts is damaged: {error}; name another --out") from error


def _names(source: Any, group: int) -> list[str]:
    return [os.fsdecode(name) for name in source.read_row_group(group)["name"].to_pylist()]


def _write_list(folder: Folder, names: Iterator[str], *, first: int, size: int) -> int:
    """Writes a list that begins with part `first`, if there are names; returns how many."""
    import pyarrow
    import pyarrow.parquet

    count = 0
    groups = batches_of(names, size)
    if not (group := next(groups, None)):
        return 0
    list_name = f"_parts-{part_name(first)}.parquet" if first else "_parts.parquet"
    # Binary: a file's name need not be UTF-8.
    schema = pyarrow.schema([("part", pyarrow.int64()), ("name", pyarrow.binary())])
    with folder.temporary(list_name) as temporary, writing(Path(folder.address) / list_name):
        with pyarrow.parquet.ParquetWriter(temporary, schema, compression="zstd") as writer:
            number = first
            while group:
                columns = {"part": [number] * len(group), "name": [*map(os.fsencode, group)]}
                writer.write_table(pyarrow.table(columns, schema), row_group_size=len(group))
                count, number, group = count + len(group), number + 1, next(groups, None)
        folder.publish_new(temporary, list_name)
    return count
