"""Captioners behind queues: one thread owns each captioner, so no two tasks are in it at once.

    workers = Workers()
    job = workers.submit("blip-base", visitor, lambda captioner: captioner.caption(photo))
    job.future.result()

Visitors take turns: fifty pictures of one do not keep out the single one of another. The tasks of a
visitor who has left wait, and are dropped after a while. A captioner is loaded by its own thread
when the first task comes, once for all visitors.
"""

import sys
import threading
import time
import traceback
from collections import OrderedDict, deque
from collections.abc import Callable, Hashable
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any

from smile.captioning.packed import made_fast
from smile.errors import UserError
from smile.model.captioner import Captioner
from smile.system.device import pick_device
from smile.system.download import watching
from smile.system.missing import shown_size
from smile.weights.load import load

MOST_LOADED = 3  # captioners in memory; beyond that the one not used for longest goes

LONGEST_AWAY = 120.0  # seconds until the tasks of a visitor who has gone are dropped
LOOK_AGAIN = 0.5  # seconds, while all who wait are away

Task = Callable[[Captioner], Any]


@dataclass(frozen=True)
class Progress:
    """How far a captioner's loading is: in words, and as a fraction if that is known."""

    line: str = ""
    fraction: float | None = None


Load = Callable[[str, Callable[[Progress], object]], Captioner]


def load_captioner(source: str, tell: Callable[[Progress], object]) -> Captioner:
    """A captioner on the fastest device there is; `tell` hears how far it is.

    Its weights are copied from their file: the server lives for days, and a file that somebody
    overwrites would end it.

    Raises:
        UserError: for the reasons that `load` does.
    """

    def downloaded(name: str, done: int, total: int | None) -> None:
        of = f" of {shown_size(total)}" if total else ""
        line = f"Loading {source}: downloading {name}, {shown_size(done)}{of}"
        tell(Progress(line, min(1.0, done / total) if total else None))
        if done == total:
            tell(Progress(f"Loading {source}: checking and reading {name}"))

    tell(Progress(f"Loading {source}: reading its files"))
    with watching(downloaded):
        captioner = load(source).to(pick_device())
    captioner = made_fast(captioner)
    for tensor in (*captioner.parameters(), *captioner.buffers()):
        tensor.data = tensor.data.clone()
    return captioner


@dataclass(eq=False)
class Job:
    """A task in a queue; its result, or the exception it raised, comes by `future`."""

    visitor: Hashable
    task: Task
    future: Future[Any] = field(default_factory=Future)

    @property
    def done(self) -> bool:
        return self.future.done()


def is_here(visitor: Hashable) -> bool:
    """Whether a visitor has the page open, unless a caller knows better."""
    return True


class Worker:
    """A thread that owns one captioner, and the tasks that wait for it.

    progress: how far loading is; its line is "" before it begins and after its end.
    captioner: None until it is loaded. Only its thread may use it; its config is free to read.
    """

    def __init__(
        self,
        source: str,
        *,
        load: Load = load_captioner,
        is_here: Callable[[Hashable], bool] = is_here,
        longest_away: float = LONGEST_AWAY,
    ) -> None:
        self.source = source
        self.is_here, self.longest_away = is_here, longest_away
        self.progress = Progress()
        self.captioner: Captioner | None = None
        self._load = load
        self._queues: OrderedDict[Hashable, deque[Job]] = OrderedDict()  # by visitor, next first
        self._away: dict[Hashable, float] = {}  # visitors with tasks, and since when they are away
        self._running: Job | None = None
        self._closed = False
        self._changed = threading.Condition()
        threading.Thread(target=self._work, name=f"captioner {source}", daemon=True).start()

    def submit(self, visitor: Hashable, task: Task) -> Job:
        """Puts a task at the end of its visitor's queue."""
        job = Job(visitor, task)
        with self._changed:
            self._queues.setdefault(visitor, deque()).append(job)
            self._changed.notify()
        return job

    def cancel(self, visitor: Hashable) -> None:
        """Drops a visitor's tasks that have not begun."""
        with self._changed:
            self._away.pop(visitor, None)
            for job in self._queues.pop(visitor, ()):
                job.future.cancel()

    def close(self) -> None:
        """Ends the thread, which drops the captioner, after the tasks that wait now."""
        with self._changed:
            self._closed = True
            self._changed.notify()

    @property
    def waiting(self) -> int:
        """How many tasks have not ended, of all visitors who are here."""
        with self._changed:
            return sum(map(len, self._turns().values())) + (self._running is not None)

    def waiting_of(self, visitor: Hashable) -> int:
        """How many tasks of one visitor have not ended."""
        with self._changed:
            runs = self._running is not None and self._running.visitor == visitor
            return len(self._turns().get(visitor, ())) + runs

    def ahead(self, job: Job) -> int:
        """How many tasks end before `job` begins."""
        with self._changed:
            turns = self._turns()
            queue = turns.get(job.visitor, [])
            if job not in queue:  # it runs, or is done
                return 0
            turn = queue.index(job)  # its visitor's turns before
            before = list(turns).index(job.visitor)  # visitors who have as many turns, and one more
            others = sum(
                min(len(waiting), turn + (place < before))
                for place, waiting in enumerate(turns.values())
                if place != before
            )
            return turn + others + (self._running is not None)

    def _turns(self) -> dict[Hashable, list[Job]]:
        """The tasks that wait, of each visitor who is here, the next visitor first."""
        found = {
            visitor: [job for job in queue if not job.future.cancelled()]
            for visitor, queue in self._queues.items()
            if self.is_here(visitor)
        }
        return {visitor: jobs for visitor, jobs in found.items() if jobs}

    def _work(self) -> None:
        while (job := self._next()) is not None:
            if job.future.set_running_or_notify_cancel():
                self._do(job)
            with self._changed:
                self._running = None

    def _next(self) -> Job | None:
        """The next visitor's first task, waited for; None when there is none and never will be."""
        with self._changed:
            while (visitor := self._next_visitor()) is None:
                if self._closed and not self._queues:
                    self.captioner = None
                    return None
                self._changed.wait(LOOK_AGAIN if self._queues else None)
            queue = self._queues.pop(visitor)
            self._running = queue.popleft()
            if queue:
                self._queues[visitor] = queue  # behind the other visitors
            return self._running

    def _next_visitor(self) -> Hashable:
        """The next visitor who has tasks and is here, None if there is none.

        The tasks of those who have been away for too long are dropped.
        """
        now = time.monotonic()
        for visitor in list(self._queues):
            if self.is_here(visitor):
                self._away.pop(visitor, None)
                return visitor
            if now - self._away.setdefault(visitor, now) > self.longest_away:
                self.cancel(visitor)
        return None

    def _do(self, job: Job) -> None:
        """Runs a task. Whatever it raises goes to its future, and the thread lives on.

        If the captioner cannot be loaded, all who wait for it hear why: another try for each of
        them would take as long, and end likewise.
        """
        try:
            if self.captioner is None:
                self.captioner = self._load(self.source, self._tell)
            result = job.task(self.captioner)
        except BaseException as error:
            if not isinstance(error, UserError):
                traceback.print_exc(file=sys.stderr)
            job.future.set_exception(error)
            if self.captioner is None:
                self._fail_queued(error)
        else:
            job.future.set_result(result)
        finally:
            self._tell(Progress())

    def _fail_queued(self, error: BaseException) -> None:
        with self._changed:
            jobs = [job for queue in self._queues.values() for job in queue]
            self._queues.clear()
            self._away.clear()
        for job in jobs:
            if job.future.set_running_or_notify_cancel():
                job.future.set_exception(error)

    def _tell(self, progress: Progress) -> None:
        self.progress = progress


class Workers:
    """The workers of a server, one for each captioner in use."""

    def __init__(
        self,
        *,
        load: Load = load_captioner,
        most: int = MOST_LOADED,
        is_here: Callable[[Hashable], bool] = is_here,
    ) -> None:
        self._load, self._most, self._is_here = load, most, is_here
        self._workers: OrderedDict[str, Worker] = OrderedDict()  # the one used last at the end
        self._lock = threading.Lock()

    def submit(self, source: str, visitor: Hashable, task: Task) -> Job:
        """Puts a task in the queue of a captioner, which is loaded if it is not."""
        with self._lock:
            worker = self._workers.pop(source, None)
            if worker is None:
                worker = Worker(source, load=self._load, is_here=self._is_here)
            self._workers[source] = worker
            self._make_room()
            return worker.submit(visitor, task)

    def _make_room(self) -> None:
        """Drops the captioners whose last use is longest ago, but none that has tasks."""
        for source, worker in list(self._workers.items())[:-1]:
            if len(self._workers) <= self._most:
                break
            if not worker.waiting:
                worker.close()
                del self._workers[source]

    def cancel(self, visitor: Hashable) -> None:
        """Drops a visitor's tasks that have not begun."""
        with self._lock:
            workers = list(self._workers.values())
        for worker in workers:
            worker.cancel(visitor)

    def progress(self, source: str) -> Progress:
        """How far a captioner's loading is; nothing if it is not being loaded."""
        with self._lock:
            worker = self._workers.get(source)
        return worker.progress if worker else Progress()

    def waiting(self, source: str) -> int:
        """How many tasks a captioner has, of all visitors who are here."""
        with self._lock:
            worker = self._workers.get(source)
        return worker.waiting if worker else 0

    def waiting_of(self, source: str, visitor: Hashable) -> int:
        """How many tasks a captioner has of one visitor."""
        with self._lock:
            worker = self._workers.get(source)
        return worker.waiting_of(visitor) if worker else 0

    def ahead(self, source: str, job: Job) -> int:
        """How many tasks end before `job` begins."""
        with self._lock:
            worker = self._workers.get(source)
        return worker.ahead(job) if worker else 0
