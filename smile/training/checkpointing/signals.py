"""Being asked to stop: SIGTERM, as a cluster sends it, SIGINT, which is Ctrl-C, and SIGHUP, of a
terminal that was closed or a connection that was lost.
"""

import contextlib
import os
import signal
import threading
from typing import Self

STOPPING = tuple(
    getattr(signal, name) for name in ("SIGTERM", "SIGINT", "SIGHUP") if hasattr(signal, name)
)


class Stopped(Exception):
    """The run was asked to stop by signal `number`, and has saved everything."""

    def __init__(self, number: int) -> None:
        super().__init__(signal.Signals(number).name)
        self.number = number


class StopSignals:
    """While entered, a signal to stop is only noted down, for the loop to heed between two steps.

    A second Ctrl-C stops at once. A SIGHUP that is ignored, as under `nohup`, stays ignored.
    """

    def __init__(self) -> None:
        self.number = 0  # of the first signal that came; 0: none
        self.previous: dict[int, object] = {}

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
        """The handler."""
        if number == self.number == signal.SIGINT:
            signal.signal(number, signal.SIG_DFL)
            signal.raise_signal(number)
        elif not self.number:
            self.number = number
            again = "; Ctrl-C again stops at once" if number == signal.SIGINT else ""
            with contextlib.suppress(OSError):  # the terminal may be gone
                os.write(2, f"\ntrain.py: finishing the step and saving{again}\n".encode())


def leave_signals_to_the_parent(worker: int) -> None:
    """For processes that load data: the main one still needs them for the step it is to finish.

    Ctrl-C and the end of a terminal reach every process of it; torchrun signals process groups, and
    clusters all they can find. A worker ends only when its own parent says so, as it does on its
    way out.
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
