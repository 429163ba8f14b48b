"""Children of a process that has imported everything: they begin at once, and end when told to."""

import ctypes
import multiprocessing
import os
import signal
import sys
import time
import traceback
from collections.abc import Callable
from pathlib import Path

# A fork has all imports; CUDA is first touched in the children, as it does not survive a fork.
# "spawn" imports everything anew, where a fork is not to be had.
WAYS = [way for way in ("fork", "spawn") if way in multiprocessing.get_all_start_methods()]

PR_SET_PDEATHSIG = 1  # from linux/prctl.h


class Child:
    """`function(*args)` in a process of its own, which leads a process group; `log` has its output.

    kind: of work; times are noted by it.
    """

    def __init__(self, function: Callable, *args: object, log: Path, kind: str = "") -> None:
        log.parent.mkdir(parents=True, exist_ok=True)
        self.log, self.kind = log, kind
        self.began = time.monotonic()
        self.ended: float | None = None
        self.waited = 0.0  # seconds that were too few
        self.process = multiprocessing.Process(target=_call, args=(function, args, log))
        self.process.start()

    @property
    def is_alive(self) -> bool:
        alive = self.process.is_alive()
        if not alive and self.ended is None:
            self.ended = time.monotonic()
        return alive

    @property
    def status(self) -> int:
        """0 if all went well."""
        return self.process.exitcode or 0

    @property
    def seconds(self) -> float:
        return (self.ended or time.monotonic()) - self.began

    def terminate(self) -> None:
        """Asks it to end; its own children end with it."""
        self.process.terminate()

    def wait(self, seconds: float) -> None:
        """Returns when it has ended, at the latest after so many seconds, by force then."""
        self.process.join(seconds)
        if self.is_alive:
            self.waited = seconds
            os.killpg(self.process.pid, signal.SIGKILL)
            self.process.join()
        self.ended = self.ended or time.monotonic()

    def last_line(self) -> str:
        lines = self.log.read_text("utf-8", "replace").strip().splitlines()
        late = f"not done after {self.waited:.0f} s; " if self.waited else ""
        return f"{late}{lines[-1] if lines else 'nothing said'} ({self.log})"


def _call(function: Callable, args: tuple, log: Path) -> None:
    os.setpgid(0, 0)
    _end_with_the_parent()
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's to hear and pass on
    with open(log, "ab", buffering=0) as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    sys.stdout, sys.stderr = (
        os.fdopen(number, "w", buffering=1, encoding="utf-8", closefd=False) for number in (1, 2)
    )
    try:
        function(*args)
    except Exception:
        traceback.print_exc()
        sys.exit(1)


def _end_with_the_parent() -> None:
    """Where the parent is killed, nobody is left to tell its children; Linux can."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)
