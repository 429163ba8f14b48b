"""Lines and progress bars of a run, whose output may be a log file or a closed terminal."""

import sys

from tqdm import tqdm

from smile.system.distributed import World
from smile.system.output import discard


def say(line: str) -> None:
    """Prints a line above any bar, at once; does nothing if the terminal was closed."""
    try:
        if sys.stdout is not None:
            tqdm.write(line)
            sys.stdout.flush()  # into a pipe or a log file Python would write 8 kB at a time
    except OSError:
        discard(sys.stdout)


def bar(*args: object, world: World | None = None, **options: object) -> tqdm:
    """A progress bar in the first process; none if the output is not a terminal."""
    watched = world is None or world.is_first
    return tqdm(*args, **options, leave=False, disable=None if watched else True)
