"""Lines and progress bars of a run, on a terminal that may be a log file, or gone by now."""

import contextlib
import os
import sys

from tqdm import tqdm

from smile.system.distributed import World


def say(line: str) -> None:
    """Prints a line above any bar. A run outlives its terminal: what nobody can read is dropped."""
    try:
        if sys.stdout is not None:
            tqdm.write(line)
    except OSError:
        # What is still in the buffer would fail again when Python ends, and spoil the exit status.
        with contextlib.suppress(OSError, ValueError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def bar(*args: object, world: World | None = None, **options: object) -> tqdm:
    """A progress bar of the first process, where somebody watches: a log file gets none."""
    watched = world is None or world.is_first
    return tqdm(*args, **options, leave=False, disable=None if watched else True)


def take_any_name() -> None:
    """Lets names that are not UTF-8 be printed as they are, and captions on any terminal."""
    if sys.stdout is not None:
        utf8 = (sys.stdout.encoding or "").lower().replace("-", "") == "utf8"
        sys.stdout.reconfigure(errors="surrogateescape" if utf8 else "backslashreplace")
