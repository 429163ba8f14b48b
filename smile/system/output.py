"""Standard output, and how a command ends."""

import contextlib
import io
import os
import sys
from collections.abc import Iterator
from typing import IO

from smile.errors import UserError, printable, reason_of

PIPE_STATUS = 141  # what a shell reports of a program that SIGPIPE has ended


class ReaderLeft(Exception):
    """The program that read standard output has closed it, as `head` does after ten lines."""


def prepare_output() -> bool:
    """Makes standard output take any text; returns whether there is one.

    Scripts call this first. A pipe on Windows or an old terminal may have an encoding without the
    letters of a caption, a file's name or a help text; names that are not UTF-8 are written as they
    are. A stream that the shell has closed (`>&-`) is opened again and goes nowhere, so that no
    other file takes its place.
    """
    is_there = sys.stdout is not None
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:
            nowhere = open(os.devnull, "w", errors="backslashreplace")  # noqa: SIM115
            setattr(sys, name, nowhere)
    if isinstance(sys.stdout, io.TextIOWrapper):
        utf8 = (sys.stdout.encoding or "").lower().replace("-", "") == "utf8"
        sys.stdout.reconfigure(errors="surrogateescape" if utf8 else "backslashreplace")
    return is_there


@contextlib.contextmanager
def ending(command: str, *, stopped: str = "stopped") -> Iterator[None]:
    """Turns what may end a command into one line on standard error, and exits.

    The status is 2 after a `UserError`, 130 after Ctrl-C (`stopped` is the line), and 141, without
    a line, after `ReaderLeft`.
    """
    try:
        yield
    except UserError as error:
        _complain(f"{command}: {error}")
        sys.exit(2)
    except KeyboardInterrupt:
        _complain(f"{command}: {stopped}")
        sys.exit(130)
    except ReaderLeft:
        sys.exit(PIPE_STATUS)


def _complain(line: str) -> None:
    """Prints on standard error; the exit status stays right if nobody can read that."""
    try:
        print(line, file=sys.stderr, flush=True)
    except OSError:
        discard(sys.stderr)


def say(text: str) -> None:
    """Prints `text` at once. A terminal would obey control characters in a name; a pipe gets them.

    Raises:
        ReaderLeft: there is nobody to read it.
        UserError: it cannot be written, on a full disk for example.
    """
    with printing():
        print(printable(text) if sys.stdout.isatty() else text, flush=True)


@contextlib.contextmanager
def printing() -> Iterator[None]:
    """What is printed inside raises as `say` does."""
    try:
        yield
    except BrokenPipeError as error:
        discard(sys.stdout)
        raise ReaderLeft from error
    except OSError as error:
        discard(sys.stdout)
        raise UserError(f"standard output: cannot write: {reason_of(error)}") from error


def discard(stream: IO[str]) -> None:
    """Lets Python flush a standard stream at its end without another error."""
    with contextlib.suppress(OSError, ValueError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
