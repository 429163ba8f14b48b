"""Captions as CSV: a row per caption, `image,caption,logprob`, or `image,model,caption,logprob`.

Rows are made of the lines of a captions.jsonl, and read back to such lines. Paths may hold
anything, newlines too; bytes that are not UTF-8 stay as they are.
"""

import csv
import itertools
import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, Literal, TextIO

from smile.errors import UserError
from smile.system.files import json_line, reading


def _open(path: Path, mode: Literal["r", "w"]) -> TextIO:
    return open(path, mode, encoding="utf-8", errors="surrogateescape", newline="\n")


def write_csv(lines: Iterable[bytes], path: Path, *, with_model: bool) -> None:
    """Writes the captions in `lines` of JSON as a CSV file at `path`."""
    with _open(path, "w") as file:
        plain = csv.writer(file, lineterminator="\n")
        quoted = csv.writer(file, lineterminator="\n", quoting=csv.QUOTE_ALL)
        plain.writerow(_header(with_model))
        for line in lines:
            record = json.loads(line)
            for caption in record["captions"]:
                columns = [*_header(with_model)[1:-2], "text", "logprob"]
                row = [record["image"], *(caption.get(column, "") for column in columns)]
                # Python 3.11 would not quote a carriage return, which it cannot read back then.
                (quoted if any("\r" in str(value) for value in row) else plain).writerow(row)


def read_csv(path: Path, *, with_model: bool, captions_per_image: int) -> Iterator[bytes]:
    """The lines of JSON that a CSV file was written from, one per image.

    A file that was being written when its process was killed may end in half a row, or in an image
    with fewer captions than the others: that image is left out.

    Raises:
        UserError: it is no such file.
    """
    header = _header(with_model)
    with reading(path), _open(path, "r") as file:
        rows = csv.reader((line for line in file if line.endswith("\n")), strict=True)
        try:
            if (first := next(rows, header)) != header:
                raise ValueError(f"it begins with {','.join(first)[:80]}")
            last = None
            for name, group in itertools.groupby(rows, key=lambda row: row[0]):
                if last:
                    yield json_line(last)
                last = _record(name, group, header)
        except (ValueError, LookupError, csv.Error) as error:
            raise UserError(
                f"{path}, line {rows.line_num}: not captions of ours ({error}), expected rows of "
                f"{','.join(header)}; correct it, move it away, or replace it with --overwrite"
            ) from error
    if last and len(last["captions"]) >= captions_per_image:
        yield json_line(last)


def _header(with_model: bool) -> list[str]:
    return ["image", *(["model"] if with_model else []), "caption", "logprob"]


def _record(name: str, rows: Iterable[list[str]], header: list[str]) -> dict[str, Any]:
    """An image's rows as the record of its line."""
    captions = []
    for row in rows:
        if len(row) != len(header):
            raise ValueError(f"a row has {len(row)} columns")
        values = dict(zip(header, row, strict=True))
        model = {"model": values["model"]} if "model" in values else {}
        captions.append(model | {"text": values["caption"], "logprob": float(values["logprob"])})
    return {"image": name, "captions": captions}
