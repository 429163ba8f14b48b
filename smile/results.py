"""Captions on disk that survive: a file that grows batch by batch and can always be gone on with.

    captions.jsonl                  a line per image (or captions.csv: a row per caption)
    captions.jsonl.run.json         which model and settings wrote it
    captions.errors.jsonl           the images of the last run that could not be read, and why
    captions.jsonl.part-0-of-4      while several processes write: what the first of them has

Whole records are appended in one `write` each batch, so a process killed at any moment leaves at
most one torn record, at the end, where the next run cuts it off. Whatever a file already holds is
not done again.
"""

import contextlib
import csv
import io
import json
import os
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from smile.captioner import Caption
from smile.data import Broken
from smile.errors import UserError, first_few
from smile.files import write_atomically, write_text, writing
from smile.lock import RunLock

VERSION = 1  # of the files above


@dataclass(frozen=True)
class Result:
    """An image and its captions, best first, by the label of the model that wrote them.

    The label is "" where there is only one model.
    """

    name: str
    captions: dict[str, list[Caption]]

    def lines(self) -> list[str]:
        """The captions as text, after their label where there are several models."""
        return [
            f"{label}: {caption.text}" if label else caption.text
            for label, captions in self.captions.items()
            for caption in captions
        ]

    def json_line(self) -> bytes:
        """`{"image": path, "captions": [{"text", "logprob", "tokens"}]}` and a newline.

        Where there are several models each caption has also its "model".
        """
        captions = [
            ({"model": label} if label else {}) | _as_json(caption)
            for label, captions in self.captions.items()
            for caption in captions
        ]
        return json_line({"image": self.name, "captions": captions})


class JsonLines:
    """A `Result.json_line` per image."""

    quote = None  # nothing can hide a newline

    def __init__(self, labels: Sequence[str]) -> None:
        self.header = b""

    def encode(self, result: Result) -> bytes:
        return result.json_line()

    def name(self, record: bytes) -> str:
        return json.loads(record)["image"]


class Csv:
    """A row per caption: `image,caption,logprob`, with several models `image,model,caption,…`.

    Paths may hold anything, newlines too; bytes that are not UTF-8 stay as they are.
    """

    quote = b'"'

    def __init__(self, labels: Sequence[str]) -> None:
        self.header = ("image,model" if any(labels) else "image").encode() + b",caption,logprob\n"

    def encode(self, result: Result) -> bytes:
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        for label, captions in result.captions.items():
            for caption in captions:
                model = [label] if label else []
                row = [result.name, *model, caption.text, round(caption.logprob, 6)]
                writer.writerow(row)
        return text.getvalue().encode("utf-8", "surrogateescape")

    def name(self, record: bytes) -> str:
        text = record.decode("utf-8", "surrogateescape")
        return next(csv.reader(io.StringIO(text, newline=""), strict=True))[0]


FORMATS = {".jsonl": JsonLines, ".csv": Csv}


def _as_json(caption: Caption) -> dict[str, Any]:
    tokens = [(token, round(logprob, 6)) for token, logprob in caption.tokens]
    return {"text": caption.text, "logprob": round(caption.logprob, 6), "tokens": tokens}


def json_line(value: Any) -> bytes:
    """One line of UTF-8 JSON; a path that is not UTF-8 is written as JSON escapes."""
    try:
        return json.dumps(value, ensure_ascii=False).encode() + b"\n"
    except UnicodeEncodeError:
        return json.dumps(value).encode() + b"\n"


def scan(path: Path, form: JsonLines | Csv) -> Iterator[tuple[str, int, int, int]]:
    """Every image whose records in `path` are whole: name, first byte, end, number of records.

    Raises:
        UserError: a record is not one of ours.
    """
    name, start, count = None, 0, 0
    for first, end, record in _records(path, form):
        if first == 0 and form.header:
            if record != form.header:
                raise UserError(f"{path}: begins with {record[:80]!r}, expected {form.header!r}")
            start = end
            continue
        try:
            this = form.name(record)
        except (ValueError, LookupError, TypeError, csv.Error) as error:
            raise UserError(
                f"{path}, byte {first}: not a record of ours ({error}); put the file right, move "
                "it away, or --overwrite it"
            ) from error
        if this != name and name is not None:
            yield name, start, first, count
            start, count = first, 0
        name, count = this, count + 1
        last = end
    if name is not None:
        yield name, start, last, count


def _records(path: Path, form: JsonLines | Csv) -> Iterator[tuple[int, int, bytes]]:
    """First byte, end and text of each whole record; a torn one at the end is left out."""
    start = end = 0
    record = b""
    with open(path, "rb") as file:
        for line in file:
            record += line
            end += len(line)
            in_quotes = form.quote is not None and record.count(form.quote) % 2
            if line.endswith(b"\n") and not in_quotes:
                yield start, end, record
                start, record = end, b""


class CaptionFile:
    """A file of captions that one or several processes write, and that a later run goes on with.

    Args:
        path: captions.jsonl or captions.csv.
        run: what the captions depend on, JSON through and through; all of it has to be the same
            when a file is gone on with, save "source" wherever it stands.
        captions_per_image: how many, of all models together.
        labels: of the models.
        rank, world: which process of how many this is.

    Call `check`, `prepare` (process 0), `open` (after process 0's `prepare`), `add` and
    `add_errors` as results come, `close`, and `finish` (process 0, after everybody's `close`).
    """

    def __init__(
        self,
        path: str | Path,
        *,
        run: dict[str, Any],
        captions_per_image: int = 1,
        labels: Sequence[str] = ("",),
        rank: int = 0,
        world: int = 1,
    ) -> None:
        self.path = Path(path)
        if self.path.suffix.lower() not in FORMATS:
            raise UserError(f"--out {path}: expected a name that ends in .jsonl or .csv")
        self.form = FORMATS[self.path.suffix.lower()](labels)
        self.run = json.loads(json.dumps({"version": VERSION} | run))
        self.captions_per_image = captions_per_image
        part = f".part-{rank}-of-{world}" if world > 1 else ""
        self.own = self.path.with_name(self.path.name + part)
        self.run_path = self.path.with_name(self.path.name + ".run.json")
        self.errors_path = errors_path(self.path)
        self.own_errors = self.errors_path.with_name(self.errors_path.name + part)
        self.lock = RunLock(self.path.with_name(f".{self.path.name}.lock"))
        self.done: set[str] = set()
        self.num_errors = 0

    # Before -----------------------------------------------------------------------------------

    def check(self) -> None:
        """Raises UserError where the file there is was not made by the same model and settings."""
        written = [path for path in self._all_parts() if path.stat().st_size]
        if not written:
            return
        remedy = "name another --out, or start anew with --overwrite"
        try:
            made_by = json.loads(self.run_path.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            raise UserError(
                f"{written[0]} exists, but {self.run_path.name}, which tells the model and "
                f"settings that wrote it, does not or cannot be read: {remedy}"
            ) from None
        if differing := differences(made_by, self.run):
            raise UserError(
                f"{self.path} was made with another model or settings: "
                f"{first_few(differing, 8)}: {remedy}"
            )

    def prepare(self, *, overwrite: bool = False) -> None:
        """Locks the file and cuts off what a killed run left torn, or with `overwrite` everything.

        Raises:
            UserError: another run is writing the file, or it cannot be written.
        """
        with writing(self.path):
            self.path.parent.mkdir(parents=True, exist_ok=True)
            if not self.lock.acquire():
                raise UserError(f"{self.path}: another run is writing it, wait for its end")
            for path in self._error_parts():
                path.unlink()
            if overwrite:
                for path in self._all_parts():
                    path.unlink()
            text = json.dumps(self.run, indent=2, ensure_ascii=False) + "\n"
            write_text(self.run_path, text)
            for path in self._all_parts():
                self._repair(path)

    def _repair(self, path: Path) -> None:
        """Cuts off a torn end: half a record, or an image with fewer captions than it should have.

        Only the last image can have fewer; where the model found no more, it is done again.
        """
        whole = 0
        for _, start, end, count in scan(path, self.form):
            expected = 1 if self.form.quote is None else self.captions_per_image
            whole = end if count >= expected else start
        if whole < path.stat().st_size:
            os.truncate(path, whole)

    def open(self) -> None:
        """Learns which images are done, and opens this process's file for more."""
        with writing(self.own):
            for path in self._all_parts():
                self.done.update(name for name, *_ in scan(path, self.form))
            self.file = os.open(self.own, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
            if not os.fstat(self.file).st_size:
                _write(self.file, self.form.header)

    # During -----------------------------------------------------------------------------------

    def add(self, results: Sequence[Result]) -> None:
        """Appends what of a batch is not done yet."""
        records = [self.form.encode(result) for result in results if result.name not in self.done]
        with writing(self.own):
            _write(self.file, b"".join(records))

    def add_errors(self, broken: Iterable[Broken]) -> None:
        """Appends to this process's list of images that could not be read."""
        for image in broken:
            line = json_line({"image": image.name, "reason": image.reason})
            with writing(self.own_errors), open(self.own_errors, "ab", buffering=0) as file:
                _write(file.fileno(), line)
            self.num_errors += 1

    def close(self) -> None:
        os.close(self.file)

    # After ------------------------------------------------------------------------------------

    def finish(self, names: Iterable[str], *, in_order: bool = True) -> None:
        """Gathers everything in one file in the order of `names`, and lets go of it.

        Images that are not among `names`, of an earlier run over another folder, come last. One
        process that wrote `in_order` has nothing to gather.
        """
        with writing(self.path):
            parts = self._all_parts()
            if parts != [self.path] or not in_order:
                index = self._index(parts)
                write_atomically(self.path, lambda path: self._gather(path, parts, index, names))
                for path in parts:
                    if path != self.path:
                        path.unlink()
            errors = self._error_parts()
            if errors and errors != [self.errors_path]:
                lines = b"".join(path.read_bytes() for path in errors)
                write_atomically(self.errors_path, lambda path: path.write_bytes(lines))
                for path in errors:
                    if path != self.errors_path:
                        path.unlink()
        self.lock.release()

    def _index(self, parts: Sequence[Path]) -> dict[str, tuple[int, int, int]]:
        """Where each image's records are: number of the file, first byte, end."""
        index: dict[str, tuple[int, int, int]] = {}
        for number, path in enumerate(parts):
            for name, start, end, _ in scan(path, self.form):
                index.setdefault(name, (number, start, end))
        return index

    def _gather(self, to: Path, parts: Sequence[Path], index: dict, names: Iterable[str]) -> None:
        """Copies each image's records once."""
        with contextlib.ExitStack() as stack:
            files = [stack.enter_context(open(path, "rb")) for path in parts]
            target = stack.enter_context(open(to, "wb"))
            target.write(self.form.header)

            def copy(place: tuple[int, int, int]) -> None:
                number, start, end = place
                files[number].seek(start)
                target.write(files[number].read(end - start))

            for name in names:
                if name in index:
                    copy(index.pop(name))
            for place in index.values():
                copy(place)

    def _all_parts(self) -> list[Path]:
        """The files that hold captions: of one process, of several, of earlier runs' several."""
        return _parts(self.path)

    def _error_parts(self) -> list[Path]:
        return _parts(self.errors_path)


def errors_path(path: str | Path) -> Path:
    """Where the images are listed that could not be read for the captions at `path`."""
    return Path(path).with_name(Path(path).stem + ".errors.jsonl")


def _parts(path: Path) -> list[Path]:
    """`path` if it is there, and then its parts in order of rank."""
    found = []
    pattern = re.compile(re.escape(path.name) + r"\.part-(\d+)-of-(\d+)")
    if path.parent.is_dir():
        for name in os.listdir(path.parent):
            if match := pattern.fullmatch(name):
                found.append((int(match[2]), int(match[1]), path.with_name(name)))
    return [path] * path.is_file() + [part for _, _, part in sorted(found)]


def differences(old: Any, new: Any, name: str = "") -> list[str]:
    """Where two run records differ, as "name old there, new now"; "source" does not count."""
    if isinstance(old, dict) and isinstance(new, dict):
        keys = sorted((old.keys() | new.keys()) - {"source"})
        pairs = [(key, old.get(key), new.get(key)) for key in keys]
    elif isinstance(old, list) and isinstance(new, list) and len(old) == len(new):
        pairs = [(str(i), a, b) for i, (a, b) in enumerate(zip(old, new, strict=True), start=1)]
    else:
        return [] if old == new else [f"{name} {_show(old)} there, {_show(new)} now"]
    found = []
    for key, a, b in pairs:
        found += differences(a, b, f"{name}.{key}" if name else key)
    return found


def _show(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 40 else text[:20] + "…"


def _write(file: int, data: bytes) -> None:
    """All of `data`, in one `write` unless the disk is full, which the next one then says."""
    while data:
        data = data[os.write(file, data) :]
