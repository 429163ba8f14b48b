"""Captions on disk that survive: a file that grows batch by batch and can always be resumed.

    captions.jsonl                  a line per image
    captions.jsonl.run.json         which model and settings wrote it
    captions.jsonl.errors.jsonl     the images of the last run that could not be read, and why
    captions.jsonl.part-0-of-4      while several processes write: what the first of them has
    captions.csv                    a row per caption, of `captions.csv.jsonl`, which is there while
                                    a run is under way and grows as captions.jsonl does

Whole lines are appended in one `write` each batch, so a process killed at any moment leaves at most
one torn line, at the end, where the next run cuts it off. Anything else that is not ours is refused
and left alone. An image that a file already holds is not captioned again.
"""

import contextlib
import json
import os
import stat
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from smile.config import GenerateConfig
from smile.data.batches import Broken
from smile.data.caption_csv import read_csv, write_csv
from smile.data.caption_lines import beside, gather, image_of, parts, repair, scan
from smile.errors import UserError, first_few
from smile.model.captioner import Caption
from smile.system.files import (
    check_writable,
    json_line,
    read_json,
    write_atomically,
    write_text,
    writing,
)
from smile.system.lock import ProcessLock

VERSION = 1  # of the files above
SUFFIXES = (".jsonl", ".csv")
_APPEND = os.O_RDWR | os.O_CREAT | os.O_APPEND
_APPEND |= getattr(os, "O_BINARY", 0)  # or Windows would write other ends of lines


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

    def json_line(self, *, tokens: bool = False) -> bytes:
        """`{"image": path, "captions": [{"text", "logprob"}]}` and a newline.

        Where there are several models each caption has also its "model"; with `tokens` it has its
        pieces, each with its own log-probability.
        """
        captions = [
            ({"model": label} if label else {}) | _as_json(caption, tokens=tokens)
            for label, captions in self.captions.items()
            for caption in captions
        ]
        return json_line({"image": self.name, "captions": captions})


def _as_json(caption: Caption, *, tokens: bool) -> dict[str, Any]:
    record = {"text": caption.text, "logprob": round(caption.logprob, 6)}
    if tokens:
        record["tokens"] = [(token, round(logprob, 6)) for token, logprob in caption.tokens]
    return record


def check_out(path: str | Path) -> None:
    """Raises UserError unless captions can be written at `path`; makes its folder."""
    suffix = Path(path).suffix.lower()
    if suffix not in SUFFIXES:
        hints = {
            ".json": f"; --out {Path(path).with_suffix('.jsonl')} holds JSON, a line per image",
            ".txt": "; --txt writes a .txt beside each image",
            "": "; for a folder of tables, add --part-size 10000",
        }
        raise UserError(
            f"--out {path}: expected a name that ends in .jsonl or .csv{hints.get(suffix, '')}"
        )
    check_writable(path)


class CaptionFile:
    """A file of captions that one or several processes write, and that a later run resumes.

    Args:
        path: captions.jsonl or captions.csv; a link is followed.
        run: what the captions depend on, JSON through and through; all of it has to be the same
            when a file is resumed, save "source" wherever it stands.
        captions_per_image: how many, of all models together.
        labels: of the models.
        tokens: whether lines of JSON, if that is the form, hold each caption's tokens.
        rank, world: which process of how many this is.

    Call `check`, `prepare` (process 0), `open` (after process 0's `prepare`), `add` and
    `add_errors` as results come, `close`, and `finish` (process 0, after everybody's `close`); or
    `stop` where a run ends early.
    """

    def __init__(
        self,
        path: str | Path,
        *,
        run: dict[str, Any],
        captions_per_image: int = 1,
        labels: Sequence[str] = ("",),
        tokens: bool = False,
        rank: int = 0,
        world: int = 1,
    ) -> None:
        # Two names of one file share its lock.
        self.path = Path(os.path.realpath(path) if os.path.islink(path) else path)
        self.is_csv = self.path.suffix.lower() == ".csv"
        self.lines = beside(self.path, ".jsonl") if self.is_csv else self.path
        self.with_model, self.captions_per_image = any(labels), captions_per_image
        self.run = json.loads(json.dumps({"version": VERSION} | run))
        self.tokens = tokens and not self.is_csv
        part = f".part-{rank}-of-{world}" if world > 1 else ""
        self.local = beside(self.lines, part)
        self.run_path = beside(self.path, ".run.json")
        self.errors_path = errors_path(self.path)
        self.local_errors = beside(self.errors_path, part)
        self.lock = ProcessLock(self.lines.with_name(f".{self.lines.name}.lock"))
        self.done: set[str] = set()

    # Before -----------------------------------------------------------------------------------

    def check(self) -> None:
        """Raises UserError if the existing file was made by another model or settings."""
        written = [path for path in self._all_files() if path.stat().st_size]
        if not written:
            return
        remedy = "name another --out, or replace it with --overwrite"
        try:
            differing = differences(read_json(self.run_path), self.run)
        except (UserError, RecursionError):
            raise UserError(
                f"{written[0]} exists, but {self.run_path.name}, which tells the model and "
                f"settings that wrote it, does not or cannot be read: {remedy}"
            ) from None
        if differing:
            raise UserError(
                f"{self.path} was made with another model or settings: "
                f"{first_few(differing, 8)}: {remedy}"
            )

    def prepare(self, *, overwrite: bool = False) -> None:
        """Locks the file and removes a half-written last line, or with `overwrite` everything.

        Raises:
            UserError: another run is writing the file, it cannot be written, or it holds something
                else than captions.
        """
        with writing(self.path), contextlib.ExitStack() as on_error:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            if not self.lock.acquire():
                raise UserError(f"{self.path}: another run is writing it, wait for its end")
            on_error.callback(self.lock.release)
            for path in parts(self.errors_path):
                path.unlink()
            if overwrite:
                for path in self._all_files():
                    path.unlink()
            self._write_run()
            for path in parts(self.lines):
                repair(path)
            if self.is_csv:
                self._take_in_csv()
            on_error.pop_all()

    def _write_run(self) -> None:
        text = json.dumps(self.run, indent=2, ensure_ascii=False) + "\n"
        write_text(self.run_path, text)

    def _take_in_csv(self) -> None:
        """Makes lines of a CSV file's rows, or sees that they are those that it was made of.

        A finished run leaves a CSV file and no lines, a killed one both; killed processes of
        version 0.1 left parts of a CSV file.
        """
        files = parts(self.path)
        if parts(self.lines):
            self._check_csv()
        elif files:
            found: dict[str, bytes] = {}
            for path in files:
                for line in self._csv_lines(path):
                    found.setdefault(image_of(line, str(path)), line)
            write_atomically(self.lines, lambda path: path.write_bytes(b"".join(found.values())))
            self.lines.chmod(stat.S_IMODE(files[0].stat().st_mode))
        for path in files:
            if path != self.path:
                path.unlink()

    def _csv_lines(self, path: Path) -> Iterator[bytes]:
        return read_csv(
            path, with_model=self.with_model, captions_per_image=self.captions_per_image
        )

    def _check_csv(self) -> None:
        """Raises UserError if somebody changed the CSV file that the lines are to replace."""
        if not self.path.exists():
            return
        lines: set[int] = set()
        for path in parts(self.lines):
            with open(path, "rb") as file:
                lines.update(hash(line) for line in file)
        for line in self._csv_lines(self.path):
            if hash(line) not in lines:
                raise UserError(
                    f"{self.path} was changed while captions were not yet in it: move it away, and "
                    f"the same command writes them, from {self.lines.name}, to a new one"
                )

    def open(self) -> None:
        """Learns which images are done, and opens this process's file for more."""
        with writing(self.local):
            for path in parts(self.lines):
                self.done.update(name for name, *_ in scan(path))
            mode = stat.S_IMODE(self.path.stat().st_mode) if self.path.exists() else 0o666
            self.file = os.open(self.local, _APPEND, mode)

    # During -----------------------------------------------------------------------------------

    def add(self, results: Sequence[Result]) -> None:
        """Appends what of a batch is not done yet."""
        lines = [r.json_line(tokens=self.tokens) for r in results if r.name not in self.done]
        with writing(self.local):
            _write(self.file, b"".join(lines))
            self._expect_local()

    def _expect_local(self) -> None:
        """Raises UserError if our file was removed or moved; what was removed is put back."""
        with contextlib.suppress(FileNotFoundError):
            if os.path.samestat(os.stat(self.local), os.fstat(self.file)):
                return
        status = os.fstat(self.file)
        if status.st_nlink:
            raise UserError(
                f"{self.local} was moved while it was being written, and what was written with it: "
                "move it back, and run the same command again"
            )
        self.local.parent.mkdir(parents=True, exist_ok=True)
        put = beside(self.local, ".saved") if self.local.exists() else self.local
        with open(self.file, "rb", closefd=False) as file:
            file.seek(0)
            data = file.read()
        write_atomically(put, lambda path: path.write_bytes(data))
        self._write_run()
        what = "removed" if put == self.local else "replaced"
        raise UserError(
            f"{self.local} was {what} while it was being written: what was written is saved in "
            f"{put}; the same command resumes"
        )

    def add_errors(self, broken: Iterable[Broken]) -> None:
        """Appends to this process's list of images that could not be read."""
        for image in broken:
            line = json_line({"image": image.name, "reason": image.reason})
            with writing(self.local_errors), open(self.local_errors, "ab", buffering=0) as file:
                _write(file.fileno(), line)

    def close(self) -> None:
        with writing(self.local):
            self._expect_local()
        os.close(self.file)

    # After ------------------------------------------------------------------------------------

    def stop(self) -> None:
        """Closes the file of an interrupted run; a single process also gathers its lines."""
        os.close(self.file)
        if self.local == self.lines:
            with contextlib.suppress(UserError):  # there is another one on its way
                self.finish(())

    def finish(self, names: Iterable[str], *, in_order: bool = True) -> None:
        """Gathers everything in one file in the order of `names`, and releases the lock.

        Images that are not among `names`, of an earlier run over another folder, come last. One
        process that wrote `in_order` has nothing to gather.
        """
        try:
            with writing(self.path):
                _join(
                    self.lines, lambda path, files: gather(path, files, names), always=not in_order
                )
                if self.is_csv:
                    self._check_csv()
                    self._write_csv()
                _join(self.errors_path, _concatenate, always=False)
        finally:
            self.lock.release()

    def _write_csv(self) -> None:
        with open(self.lines, "rb") as lines:
            write_atomically(
                self.path, lambda path: write_csv(lines, path, with_model=self.with_model)
            )
        self.lines.unlink()

    def _all_files(self) -> list[Path]:
        """The files that hold captions: of one process, of several, of earlier runs' several."""
        return parts(self.path) + (parts(self.lines) if self.is_csv else [])


def _join(path: Path, write: Callable[[Path, list[Path]], None], *, always: bool) -> None:
    """Makes one file of several processes' parts by `write(to, files)`; of one if `always`."""
    files = parts(path)
    if files and (files != [path] or always):
        write_atomically(path, lambda to: write(to, files))
        for part in files:
            if part != path:
                part.unlink()


def _concatenate(to: Path, files: Sequence[Path]) -> None:
    to.write_bytes(b"".join(path.read_bytes() for path in files))


def errors_path(path: str | Path) -> Path:
    """Where the images are listed that could not be read for the captions at `path`."""
    return beside(Path(path), ".errors.jsonl")


def differences(old: dict[str, Any], new: dict[str, Any]) -> list[str]:
    """Where two run records differ, in the command line's words; "source" does not count."""
    old, new = _flat(old), _flat(new)
    before, now = (record.get("models.number") for record in (old, new))
    if before != now:
        return [f"the captions of {_show(before)} models were asked for, of {_show(now)} now"]
    found = []
    for key in sorted(old.keys() | new.keys()):
        name = key.rpartition(".")[2]
        # A setting that is younger than the record had its default.
        default = getattr(GenerateConfig, name, None)
        before = old.get(key, list(default) if isinstance(default, tuple) else default)
        if name == "source" or before == (now := new.get(key)):
            continue
        if name == "weights":
            found.append("--model has other weights")
        else:
            option = "--" + name.replace("_", "-")
            found.append(f"{option} was {_show(before)}, is {_show(now)} now")
    return list(dict.fromkeys(found))


def _flat(record: Any, name: str = "") -> dict[str, Any]:
    """{"models": [{"seed": 0}]} as {"models.1.seed": 0}, with the number of the models."""
    if isinstance(record, list) and all(isinstance(item, dict) for item in record) and record:
        items = {"number": len(record)} | dict(enumerate(record, start=1))
    elif isinstance(record, dict):
        items = record
    else:
        return {name: record}
    flat: dict[str, Any] = {}
    for key, value in items.items():
        flat |= _flat(value, f"{name}.{key}" if name else str(key))
    return flat


def _show(value: Any) -> str:
    text = "none" if value is None else json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 40 else text[:20] + "…"


def _write(file: int, data: bytes) -> None:
    """All of `data`, in one `write` unless the disk is full, which the next one then says."""
    while data:
        data = data[os.write(file, data) :]
