"""The one exception that means "the user can put this right"."""

import contextlib
from collections.abc import Iterator
from pathlib import Path


class UserError(Exception):
    """A mistake in a command, a config, or a file.

    The message is one line that names the value, where it stands, what was expected and what to do
    next. The scripts print it without a traceback and exit with status 2.
    """


def first_few(problems: list[str], count: int = 3) -> str:
    """The first `count` problems in order, and how many more there are."""
    more = f"; and {len(problems) - count} more" if len(problems) > count else ""
    return "; ".join(sorted(problems)[:count]) + more


@contextlib.contextmanager
def disk(path: Path) -> Iterator[None]:
    """Turns the system's errors about writing at or below `path` into one line."""
    try:
        yield
    except OSError as error:
        reason = (error.strerror or str(error)).lower()
        raise UserError(f"{error.filename or path}: cannot write: {reason}") from error
