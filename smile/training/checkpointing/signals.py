"""Signals to stop: SIGTERM (from a cluster), SIGINT (Ctrl-C) and SIGHUP (terminal closed or
connection lost).
"""

import contextlib
import os
import signal
import threading
from collections.abc import Callable
from types import FrameType
from typing import Self

STOPPING = tuple(
    getattr(signal, name) for name in ("SIGTERM", "SIGINT", "SIGHUP") if hasattr(signal, name)
)

Handler = Callable[[int, FrameType | None], object] | int | signal.Handlers | None


class Stopped(Exception):
    """The run stopped because of signal `number`, after saving everything."""

    def __init__(self, number: int) -> None:
        super().__init__(signal.Signals(number).name)
        self.number = number


class StopSignals:
    """While entered, a signal to stop is only recorded; the loop handles it between two steps.

    A second Ctrl-C stops at once. A SIGHUP that is ignored, as under `nohup`, stays ignored.
    """

    def __init__(self) -> None:
        self.number = 0  # of the first signal received; 0: none
        self.previous: dict[int, Handler] = {}

    def __enter__(self) -> Self:
        self.previous = {
            number: signal.signal(number, self.note)
            for number in STOPPING
            if number in (signal.SIGTERM, signal.SIGINT)
            or signal.getsignal(number) is not signal.SIG_IGN
        }
        return self

    def __exit__(self, *error: object) -> None:
        for number, handler in self.previous.items():
            signal.signal(number, handler)

    def note(self, number: int, frame: object) -> None:
        """The signal handler."""
        if number == self.number == signal.SIGINT:
            signal.signal(number, signal.SIG_DFL)
            signal.raise_signal(number)
        elif not self.number:
            self.number = number
            again = "; Ctrl-C again stops at once" if number == signal.SIGINT else ""
            with contextlib.suppress(OSError):  # the terminal may be gone
                os.write(2, f"\ntrain.py: finishing the step and saving{again}\n".encode())


def leave_signals_to_the_parent(worker: int) -> None:
    """Makes a data worker ignore signals: the main process needs it to finish the current step.

    Ctrl-C and a closed terminal signal every process of the terminal, torchrun a process group, and
    clusters every process that they find. A worker ends only on its parent's SIGTERM, which comes
    when the parent exits.
    """
    for number in STOPPING:
        if number != signal.SIGTERM:
            signal.signal(number, signal.SIG_IGN)
    if hasattr(signal, "sigwaitinfo"):  # not on macOS
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
        threading.Thread(target=_obey_the_parent, daemon=True).start()


def _obey_the_parent() -> None:
    while signal.sigwaitinfo({signal.SIGTERM}).si_pid != os.getppid():
        pass
    os._exit(0)
