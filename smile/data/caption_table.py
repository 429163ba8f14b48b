"""Tables of captions in common forms: one reader for training and for scoring.

The form is recognised by the file's content:

    image,caption                                        CSV; semicolons or tabs will do
    {"image": "a.jpg", "caption": "..."}                 JSON Lines
    {"image": "a.jpg", "captions": [{"text": "..."}]}    what sample.py --json and --out write
    [{"image": "a.jpg", "caption": "...", ...}, ...]     BLIP's own files, COCO's results
    {"images": [{...}], "annotations": [{...}]}          COCO's annotations
    {"a.jpg": ["...", "..."], ...}                       an object of all images

Columns and keys have several accepted names, in any case (`IMAGE_KEYS`, `CAPTION_KEYS`). The reader
checks types, lengths and text; the caller finds the images that the names mean.
"""

import csv
import io
import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from smile.errors import UserError, brief, first_few
from smile.system.files import expect, lone_surrogate, parse_json, read_text, show

__all__ = ["FORMS", "LONGEST_CAPTION", "Row", "is_csv", "read_table", "text_of"]

IMAGE_KEYS = ("image", "file_name", "filename", "image_file", "image_name", "image_path")
CAPTION_KEYS = ("caption", "captions", "text")
FORMS = (
    'a .csv with the header image,caption, a .jsonl with {"image": "a.jpg", "caption": "..."} on '
    'each line, or a .json with a list of those, {"a.jpg": ["..."]} or COCO\'s annotations'
)

LONGEST_CAPTION = 10_000  # characters; one word of a million would take a tokenizer hours
LONGEST_NAME = 4096  # characters; no system takes a longer path
_DELIMITERS = ",;\t"
_FIRST_LINE = 4096  # bytes in which a CSV's header ends


@dataclass(frozen=True, slots=True)
class Row:
    """One image in a table.

    where: the place in the file, for messages.
    image: as written there: a path, or a number if there is no path.
    captions: in order; none if the field is empty.
    number: COCO's and BLIP's `image_id`, if there is one.
    split: the row's `split`, "" if there is none.
    scored: whether a captioner wrote the captions, the best first.
    """

    where: str
    image: str | int
    captions: tuple[str, ...]
    number: str | int | None = None
    split: str = ""
    scored: bool = False


def read_table(path: str | os.PathLike[str]) -> list[Row]:
    """Every row of a table of captions, in file order; an image may have several.

    Raises:
        UserError: the file cannot be read, has no known form, or holds captions of several models.
    """
    path = Path(path)
    models: set[str] = set()
    if path.suffix.lower() in (".json", ".jsonl"):
        rows = list(_json_rows(path, models))
    else:
        rows = [_row(fields, where, models) for where, fields in _csv_rows(path)]
    if not rows:
        raise UserError(f"{path}: no captions in it; expected {FORMS}")
    if len(models) > 1:
        names = first_few(sorted(models))
        raise UserError(f"{path}: captions of several models ({names}): keep one model's")
    return rows


def text_of(value: Any, where: str) -> str:
    """`value` if it is text that can be a caption, else UserError."""
    text = expect(value, str, where=where)
    if len(text) > LONGEST_CAPTION:
        raise UserError(
            f"{where}: a caption of {len(text)} characters, expected at most {LONGEST_CAPTION}: "
            "is a quote left open, or is this not a caption?"
        )
    if surrogate := lone_surrogate(text):
        raise UserError(
            f"{where}: not UTF-8 text: {surrogate} in {text[:60]!r} is half a surrogate pair or a "
            "byte of another encoding: save the file as UTF-8"
        )
    return text


# Rows ---------------------------------------------------------------------------------------------


def _row(fields: dict[str, Any], where: str, models: set[str]) -> Row:
    """A row from the fields of a CSV line or a JSON object; their keys are in lower case."""
    number = fields.get("image_id")
    image = _first_of(fields, IMAGE_KEYS)
    if image is None:
        image = number
    if image is None or image == "":
        raise UserError(f"{where}: no image named: {_keys(fields)}, expected image or file_name")
    if not any(key in fields for key in CAPTION_KEYS):
        raise UserError(f"{where}: no caption: {_keys(fields)}, expected caption, captions or text")
    captions, scored = _captions(_first_of(fields, CAPTION_KEYS), where, models)
    if "logprob" in fields and fields.get("model"):  # otherwise it may be the model of a car
        models.add(expect(fields["model"], str, where=f"{where}, model"))
    split = fields.get("split")
    return Row(
        where=where,
        image=_name(image, f"{where}, image"),
        captions=captions,
        number=number if isinstance(number, str | int) else None,
        split="" if split is None else expect(split, str, where=f"{where}, split"),
        scored=scored or fields.get("logprob") not in (None, ""),
    )


def _object_row(value: Any, where: str, models: set[str]) -> Row:
    """A row from a JSON object."""
    fields = expect(value, dict, where=where)
    return _row({key.strip().lower(): value for key, value in fields.items()}, where, models)


def _first_of(fields: dict[str, Any], keys: Iterable[str]) -> Any:
    for key in keys:
        if (value := fields.get(key)) is not None:
            return value
    return None


def _captions(value: Any, where: str, models: set[str]) -> tuple[tuple[str, ...], bool]:
    """The captions in one field, and whether `sample.py` wrote them."""
    if value is None:
        return (), False
    if not isinstance(value, list):
        if not isinstance(value, str):
            raise UserError(f"{where}: found {show(value)}, expected a text or a list of texts")
        return (text_of(value, where),), False
    texts, scored = [], False
    for number, item in enumerate(value, start=1):
        place = f"{where}, caption {number}"
        if isinstance(item, dict):
            scored = True
            if item.get("model"):
                models.add(expect(item["model"], str, where=f"{place}, model"))
            item = item.get("text")
        texts.append(text_of(item, place))
    return tuple(texts), scored


def _name(value: Any, where: str) -> str | int:
    """An image's path or number."""
    if isinstance(value, int) and not isinstance(value, bool):
        return value
    name = expect(value, str, where=where)
    if len(name) > LONGEST_NAME:
        raise UserError(
            f"{where}: a name of {len(name)} characters ({name[:40]}…), too long for a path"
        )
    if name.isascii():
        return name
    try:
        return os.fsdecode(os.fsencode(name))
    except UnicodeEncodeError as error:
        raise UserError(f"{where}: {brief(ascii(name))}: no file can be called that") from error


def _keys(fields: dict[str, Any]) -> str:
    found = ", ".join(list(fields)[:8])
    return f"found only {found[:80]}" if found else "found nothing"


# JSON ---------------------------------------------------------------------------------------------


def _json_rows(path: Path, models: set[str]) -> Iterator[Row]:
    text = read_text(path)
    if _is_lines(text, path):
        for number, line in enumerate(text.split("\n"), start=1):
            if line.strip():
                where = f"{path}, line {number}"
                yield _object_row(parse_json(line, where, unique=True), where, models)
        return
    if not text.strip():
        return
    content = parse_json(text, str(path), unique=True)
    if isinstance(content, list):
        for number, item in enumerate(content, start=1):
            yield _object_row(item, f"{path}, item {number}", models)
        return
    expect(content, dict, where=str(path))
    if "annotations" in content:
        yield from _coco(content, path)
    elif "images" in content:
        raise UserError(
            f"{path}: images without annotations, so not COCO's form; for one of Karpathy's files "
            "set data.format = karpathy"
        )
    elif {*IMAGE_KEYS} & {*content} and {*CAPTION_KEYS} & {*content}:
        yield _object_row(content, str(path), models)
    else:
        for name, value in content.items():
            where = f"{path}, {show(name)}"
            captions, scored = _captions(value, where, models)
            yield Row(where, _name(name, where), captions, scored=scored)


def _is_lines(text: str, path: Path) -> bool:
    """Whether a JSON file is JSON Lines."""
    first, _, rest = (part.strip() for part in text.strip().partition("\n"))
    if path.suffix.lower() == ".jsonl":
        return first[:1] != "[" and first != "{"
    return first.startswith("{") and first.endswith("}") and rest.startswith("{")


@dataclass
class _CocoImage:
    row: Row
    captions: list[str] = field(default_factory=list)


def _coco(content: dict[str, Any], path: Path) -> Iterator[Row]:
    """A row for each image of COCO's annotations, with all its captions."""
    images: dict[str | int, _CocoImage] = {}
    for where, image in _objects(content, "images", path):
        number = _key(image, "id", where)
        name = expect(_need(image, "file_name", where), str, where=f"{where}, file_name")
        if number in images:
            raise UserError(f"{where}: an earlier image has the id {show(number)} too")
        images[number] = _CocoImage(Row(where, _name(name, f"{where}, file_name"), (), number))
    for where, annotation in _objects(content, "annotations", path):
        number = _key(annotation, "image_id", where)
        if number not in images:
            raise UserError(f"{where}: no image has the id {show(number)}")
        images[number].captions.append(text_of(_need(annotation, "caption", where), where))
    for captioned in images.values():
        row = captioned.row
        yield Row(row.where, row.image, tuple(captioned.captions), row.number)


def _objects(content: dict[str, Any], key: str, path: Path) -> Iterator[tuple[str, dict]]:
    items = expect(_need(content, key, str(path)), list, where=f"{path}, {key}")
    for number, item in enumerate(items, start=1):
        where = f"{path}, {key} {number}"
        yield where, expect(item, dict, where=where)


def _need(fields: dict[str, Any], key: str, where: str) -> Any:
    if key not in fields:
        raise UserError(f"{where}: no {key}: {_keys(fields)}; is it COCO's file of captions?")
    return fields[key]


def _key(fields: dict[str, Any], key: str, where: str) -> str | int:
    value = _need(fields, key, where)
    if isinstance(value, str | int) and not isinstance(value, bool):
        return value
    raise UserError(f"{where}, {key}: found {show(value)}, expected a whole number or a text")


# CSV ----------------------------------------------------------------------------------------------


def is_csv(path: str | os.PathLike[str]) -> bool:
    """Whether a file begins with the header of a table of captions."""
    if not os.path.isfile(path):
        return False
    try:
        with open(path, "rb") as file:
            start = file.read(_FIRST_LINE)
    except OSError:
        return False
    return _delimiter(_first_line(start.decode("utf-8-sig", "replace"))) is not None


def _csv_rows(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """("FILE, line N", {column: value}) for each row of a table with a header.

    A caption that contains the delimiter must be quoted, and quotes inside it doubled.
    """
    text = read_text(path, keep_bytes=True)
    header = _first_line(text)
    if lone_surrogate(header):
        raise UserError(f"{path}: not UTF-8 text: save it as UTF-8")
    delimiter = _delimiter(header)
    if delimiter is None:
        raise UserError(
            f"{path}: expected the header image,caption, found {header[:80]!r}; an image's column "
            f"may also be called {', '.join(IMAGE_KEYS[1:])}, a caption's {CAPTION_KEYS[-1]}"
        )
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
    columns = _columns(_next(reader, path) or [])
    if twice := [c for c in (*IMAGE_KEYS, *CAPTION_KEYS) if columns.count(c) > 1]:
        raise UserError(f"{path}: the header has the column {twice[0]} more than once")
    while True:
        where = f"{path}, line {reader.line_num + 1}"
        values = _next(reader, where)
        if values is None:
            return
        if len(values) > len(columns):
            raise UserError(
                f"{where}: more fields than the header has ({len(values)}, not {len(columns)}): "
                f"put a caption with {delimiter!r} in it in quotes"
            )
        if any(values):
            padded: Iterable[str | None] = values + [None] * (len(columns) - len(values))
            yield where, dict(zip(columns, padded, strict=True))


def _next(reader: Iterator[list[str]], where: str | Path) -> list[str] | None:
    """The next row; None at the end."""
    try:
        return next(reader, None)
    except csv.Error as error:
        raise UserError(
            f"{where}: not CSV ({error}): is a quote left open? a quote inside quotes is doubled"
        ) from error


def _first_line(text: str) -> str:
    return text.partition("\n")[0].partition("\r")[0]


def _delimiter(header: str) -> str | None:
    """The delimiter of a header, if its columns are those of a table of captions."""
    for delimiter in _DELIMITERS:
        try:
            columns = {*_columns(next(csv.reader([header], delimiter=delimiter), []))}
        except csv.Error:
            continue
        if columns & {*IMAGE_KEYS, "image_id"} and columns & {*CAPTION_KEYS}:
            return delimiter
    return None


def _columns(header: list[str]) -> list[str]:
    return [column.strip().lower() for column in header]
