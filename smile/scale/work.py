"""Units of work into tables: the one function that a scheduler calls.

    for outcome in caption_units(units, output, model, batch_size=64, workers=16):
        ...

Images stream through all units of a process without a pause, but no batch has images of two. So a
table depends on its shard and the batch size alone, and not on the process that writes it.
"""

import contextlib
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Protocol

from smile.captioning.caption_file import Result
from smile.captioning.describe import Model, describe_batches
from smile.data.batches import Broken, Example
from smile.errors import UserError, brief
from smile.scale.output import TABLE, Output
from smile.scale.shards import shard_name
from smile.scale.store import Claim, ReadAhead
from smile.scale.table import TableWriter
from smile.scale.tar import TarImage, TarImages
from smile.system.connection import shown

BATCH_BYTES = 2**26  # of undecoded images in a batch; a batch that has as many is full

Image = str | Example | Broken


class Images(Protocol):
    """The images of a unit; `num_others` counts what else was there, once they are through."""

    num_others: int

    def __iter__(self) -> Iterator[Image]: ...


class Unit(Protocol):
    """What becomes one table.

    name: of the table. source: what it is made of, for people, without the keys of an address.
    """

    @property
    def name(self) -> str: ...

    @property
    def source(self) -> str: ...

    def open(self) -> contextlib.AbstractContextManager[Images]:
        """Its images. Raises UserError, in their midst too, if they cannot be read."""


@dataclass(frozen=True)
class Shard:
    """A tar of images at a path or an address."""

    address: str

    @property
    def name(self) -> str:
        return shard_name(self.address)

    @property
    def source(self) -> str:
        return shown(self.address)

    @contextlib.contextmanager
    def open(self) -> Iterator[TarImages]:
        file = ReadAhead(self.address)
        try:
            yield TarImages(file)
        finally:
            file.close()


@dataclass(frozen=True)
class Outcome:
    """What became of a unit.

    problem: why it has no table; "" if it has one.
    by_another: whether another job has written the table meanwhile.
    first_error: of an image of it that could not be read, with its name; "" if all could.
    """

    name: str
    source: str
    problem: str = ""
    by_another: bool = False
    num_described: int = 0
    num_failed: int = 0
    num_others: int = 0
    first_error: str = ""


def caption_units(
    units: Iterable[Unit],
    output: Output,
    model: Model,
    *,
    batch_size: int,
    workers: int = 0,
    seed: int = 0,
    autocast: bool = False,
    progress: Callable[[int], object] = lambda _: None,
) -> Iterator[Outcome]:
    """Captions the units that have no table yet, in order, and tells of each what became of it.

    A unit that cannot be read is told of and does not stop the rest. `progress` is called with the
    number of images of each batch.

    Raises:
        UserError: tables cannot be written, there is too little memory, or a worker was killed.
    """
    line = _Line(units, output, model.label, batch_size)
    try:
        for results, broken in describe_batches(
            line.batches(),
            [model],
            batch_size=batch_size,
            workers=workers,
            seed=seed,
            autocast=autocast,
        ):
            yield from line.finished()
            line.under_way[0].add(results, broken)
            progress(len(results) + len(broken))
        yield from line.finished()
    finally:
        line.stop()


class _Line:
    """The units that are under way: their images are read ahead of the captions."""

    def __init__(self, units: Iterable[Unit], output: Output, label: str, batch_size: int) -> None:
        self.units, self.output = units, output
        self.label, self.batch_size = label, batch_size
        self.under_way: deque[_Table] = deque()
        self._outcomes: deque[Outcome] = deque()

    def batches(self) -> Iterator[list[Image]]:
        """The batches of all units. A unit that another process has at first comes at the end."""
        elsewhere = []
        for unit in self.units:
            table = self._begin(unit)
            if table is None:
                elsewhere.append(unit)
            else:
                yield from table.batches(self.batch_size)
        for unit in elsewhere:
            table = self._begin(unit)
            if table is None:
                problem = "another job is at work on it, with the same --out"
                self._outcomes.append(Outcome(unit.name, unit.source, problem))
            else:
                yield from table.batches(self.batch_size)

    def _begin(self, unit: Unit) -> "_Table | None":
        """Takes up a unit; None if another process is at work on it."""
        claim = self.output.claim(unit.name)
        if not claim.free:
            return None
        table = _Table(unit, self.output, claim, self.label)
        self.under_way.append(table)
        return table

    def finished(self) -> Iterator[Outcome]:
        """Writes the tables that have all their captions."""
        while self.under_way and self.under_way[0].is_finished:
            yield self.under_way.popleft().finish()
        while self._outcomes:
            yield self._outcomes.popleft()

    def stop(self) -> None:
        """Leaves what is under way, so that another run can do it."""
        for table in self.under_way:
            table.stop()


class _Table:
    """A unit on its way to a table."""

    def __init__(self, unit: Unit, output: Output, claim: Claim, label: str) -> None:
        self.unit, self.output, self.claim, self.label = unit, output, claim, label
        self.start = time.perf_counter()
        self.problem, self.first_error = "", ""
        self.is_read, self.num_others = False, 0
        self.waiting: deque[tuple[str, bool]] = deque()  # images that are read: name, if broken
        self.resources = contextlib.ExitStack()
        self.resources.callback(claim.release)
        self.writer: TableWriter | None = None
        try:
            self.by_another = output.is_done(unit.name)
        except BaseException:
            self.resources.close()
            raise

    @property
    def is_finished(self) -> bool:
        return self.is_read and not self.waiting

    def batches(self, batch_size: int) -> Iterator[list[Image]]:
        """Its images, until there are no more or no more can be read."""
        if not self.by_another:
            self._open()
        try:
            if not self.by_another:
                with self.unit.open() as images:
                    for batch in _batches(images, batch_size):
                        self.waiting += [
                            (image, False)
                            if isinstance(image, str)
                            else (image.name, isinstance(image, Broken))
                            for image in batch
                        ]
                        yield batch
                self.num_others = images.num_others
        except UserError as error:
            self.problem = str(error).removeprefix(f"{self.unit.source}: ")
        self.is_read = True

    def _open(self) -> None:
        name = self.unit.name + TABLE
        path = self.resources.enter_context(self.output.folder.temporary(name))
        about = {"run": self.output.run, "source": self.unit.source}
        self.writer = TableWriter(path, about=about)
        self.resources.callback(self.writer.stop)

    def add(self, results: list[Result], broken: list[Broken]) -> None:
        """Adds a batch's captions and unreadable images, in the order in which they were read."""
        assert self.writer is not None
        described, failed = deque(results), deque(broken)
        for _ in range(len(results) + len(broken)):
            name, was_broken = self.waiting.popleft()
            if not was_broken and described and described[0].name == name:
                self.writer.add(name, described.popleft().captions[self.label])
            else:
                reason = failed.popleft().reason
                self.writer.add(name, [], reason)
                self.first_error = self.first_error or brief(f"{name}: {reason}")

    def finish(self) -> Outcome:
        """Puts the table in its place, unless the unit could not be read or is done by now."""
        with self.resources:
            writer = self.writer
            if writer is None or self.problem:
                return self._outcome()
            writer.close()
            self.by_another = self.output.is_done(self.unit.name)
            if not self.by_another:
                try:
                    self.output.publish(writer.path, self.unit.name, self._stats(writer))
                except UserError as error:
                    if not self.output.folder.is_remote:
                        raise
                    self.problem = str(error)
            return self._outcome()

    def _stats(self, writer: TableWriter) -> dict[str, object]:
        return {
            "source": self.unit.source,
            "rows": writer.num_rows,
            "described": writer.num_rows - writer.num_failed,
            "failed": writer.num_failed,
            "others": self.num_others,
            "bytes": writer.path.stat().st_size,
            "seconds": round(time.perf_counter() - self.start, 3),
        }

    def _outcome(self) -> Outcome:
        done = None if self.problem or self.by_another else self.writer
        return Outcome(
            name=self.unit.name,
            source=self.unit.source,
            problem=self.problem,
            by_another=self.by_another,
            num_described=done.num_rows - done.num_failed if done else 0,
            num_failed=done.num_failed if done else 0,
            num_others=self.num_others,
            first_error=self.first_error,
        )

    def stop(self) -> None:
        self.resources.close()


def _batches(images: Iterable[Image], batch_size: int) -> Iterator[list[Image]]:
    """Lists of up to `batch_size` images, and of not many more than `BATCH_BYTES` bytes."""
    batch: list[Image] = []
    size = 0
    for image in images:
        batch.append(image)
        size += len(image.data) if isinstance(image, TarImage) else 0
        if len(batch) == batch_size or size >= BATCH_BYTES:
            yield batch
            batch, size = [], 0
    if batch:
        yield batch
