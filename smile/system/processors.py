"""The processors: how many this process may use, and whether others compete for them.

    watch = ContentionWatch(device)
    ...                                   # after each step or batch:
    if line := watch.notice():
        print(line)

Each layer's work is divided among OpenMP's threads, and all wait for the slowest. They spin while
they wait, and so take the processors from the one that others have interrupted. On two processors,
beside one busy process, a step takes more than twice as long. A process cannot change how its
threads wait once they exist, so the watch names the setting to start with.
"""

import multiprocessing
import os
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch

try:
    import resource
except ImportError:  # Windows has none
    resource = None  # type: ignore[assignment]

PRESSURE = Path("/proc/pressure/cpu")
SECONDS = 20  # between the two readings that are compared

# Signs of contention, measured on two processors while configs/shapes.toml trained. Two threads
# beside a task of the lowest priority, which cost almost nothing: 80 to 170 interruptions a second,
# with 1.9 processors used; one thread: 5. Two threads beside busy processes: 75 to 440, with 0.3 to
# 1.5 used; with OMP_WAIT_POLICY=passive 290 to 7000. The more processes, the fewer interruptions.
INTERRUPTIONS = 50  # a second
INTERRUPTIONS_ALONE = 100  # a second, where there is no other sign
WAITING = 0.5  # processors for which some task waits
LEFT = 0.5  # processors that others use or nobody; with fewer left, its own workers interrupt it

# Settings of how threads wait. Where a user has one, threads do as that says.
WAIT_SETTINGS = ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT", "KMP_BLOCKTIME", "KMP_LIBRARY")


def usable_processors() -> int:
    """How many processors this process may run on."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


@dataclass(frozen=True, kw_only=True)
class Reading:
    """What the system has counted until a moment.

    time: of the moment, in seconds.
    interruptions: involuntary context switches of this process's threads.
    used: processor seconds of this process and of its workers.
    waited: seconds in which a task waited for a processor, as a mean over all processors; None
        where the system does not count them.
    """

    time: float
    interruptions: int
    used: float
    waited: float | None


def read_counters() -> Reading | None:
    """The counters now; None on a system other than Linux.

    Windows has no `getrusage`, and that of macOS calls every context switch involuntary, so there
    is no telling whether the machine is shared.
    """
    if resource is None or sys.platform != "linux":
        return None
    workers = sum(_processor_seconds(worker.pid) for worker in multiprocessing.active_children())
    own = resource.getrusage(resource.RUSAGE_SELF)
    ended = resource.getrusage(resource.RUSAGE_CHILDREN)
    used = own.ru_utime + own.ru_stime + ended.ru_utime + ended.ru_stime + workers
    return Reading(
        time=time.monotonic(), interruptions=own.ru_nivcsw, used=used, waited=_seconds_waited()
    )


def _processor_seconds(process: int | None) -> float:
    """What a process has used so far; 0 if it has just ended."""
    try:
        text = Path(f"/proc/{process}/stat").read_text()
    except OSError:
        return 0.0
    user, system = text.rpartition(")")[2].split()[11:13]  # a name before it may hold spaces
    return (int(user) + int(system)) / os.sysconf("SC_CLK_TCK")


def _seconds_waited() -> float | None:
    """The "some" line of the kernel's pressure stall information, if it keeps any."""
    try:
        some = PRESSURE.read_text().partition("\n")[0]
    except OSError:  # an older kernel, or one that is told not to
        return None
    return int(some.rpartition("total=")[2]) / 1e6


def contended(first: Reading, last: Reading, *, usable: int, processors: int) -> bool:
    """Whether other processes took processors from this one between two readings.

    Time used or waited says nothing by itself: threads that spin use it, and those that wait for
    data do not. A task of a lower priority waits too, but interrupts nobody.

    Args:
        usable: processors that this process may use.
        processors: those of the machine.
    """
    seconds = last.time - first.time
    interruptions = (last.interruptions - first.interruptions) / seconds
    if usable - (last.used - first.used) / seconds < LEFT:
        return False
    if first.waited is None or last.waited is None:
        return interruptions >= INTERRUPTIONS_ALONE
    waiting = processors * (last.waited - first.waited) / seconds
    return interruptions >= INTERRUPTIONS and waiting >= WAITING


def remedy(num_threads: int, environment: Mapping[str, str]) -> str:
    """The setting that helps threads on a shared machine, beside those that the user has made."""
    fewer = f"OMP_NUM_THREADS={max(1, num_threads // 2)}"
    if kept := [name for name in WAIT_SETTINGS if environment.get(name)]:
        return f"with {' and '.join(kept)} as set, {fewer} instead of {num_threads} loses less"
    advice = "OMP_WAIT_POLICY=passive in the environment loses less: threads sleep while they wait"
    if not environment.get("OMP_NUM_THREADS"):
        advice += f"; beside steady load, so does {fewer}"
    return advice


class ContentionWatch:
    """Notices, once, that other processes compete with this one for the processors.

    Silent on a GPU, with one thread, which waits for no other, and where `read_counters` is.

    Args:
        device: where the captioner computes.
        read: gives a reading; None ends the watch.
    """

    def __init__(
        self, device: torch.device, *, read: Callable[[], Reading | None] = read_counters
    ) -> None:
        self.read = read
        self.first: Reading | None = None
        self.ended = device.type != "cpu"

    def notice(self) -> str | None:
        """One line the first time that `SECONDS` were contended; call it often, from the work."""
        num_threads = torch.get_num_threads()
        if self.ended or num_threads == 1:
            return None
        first = self.first
        if first is not None and 0 <= time.monotonic() - first.time < SECONDS:
            return None  # without reading: steps may be short
        now = self.read()
        if now is None:
            self.ended = True
            return None
        if first is None:
            self.first = now
            return None
        if (seconds := now.time - first.time) < SECONDS:
            return None
        self.first = now
        usable, processors = usable_processors(), os.cpu_count() or 1
        if not contended(first, now, usable=usable, processors=processors):
            return None
        self.ended = True
        rate = (now.interruptions - first.interruptions) / seconds
        return (
            f"this machine is shared: other processes interrupted this one {rate:.0f} times a "
            f"second for {seconds:.0f} s, and each of its {num_threads} threads waits for the "
            f"slowest; {remedy(num_threads, os.environ)}"
        )
