"""Lines and progress bars of a run, whose output may be a log file or a closed terminal."""

import contextlib
import os
import sys

from tqdm import tqdm

from smile.system.distributed import World


def say(line: str) -> None:
    """Prints a line above any bar; does nothing if the terminal was closed."""
    try:
        if sys.stdout is not None:
            tqdm.write(line)
    except OSError:
        # Flushing the buffer would fail again when Python exits, and change the exit status.
        with contextlib.suppress(OSError, ValueError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def bar(*args: object, world: World | None = None, **options: object) -> tqdm:
    """A progress bar in the first process; none if the output is not a terminal."""
    watched = world is None or world.is_first
    return tqdm(*args, **options, leave=False, disable=None if watched else True)
