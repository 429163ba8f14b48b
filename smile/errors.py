"""The one exception that means "the user can fix this"."""

import difflib
import re
from collections.abc import Iterable, Sequence

LONGEST_SHOWN = 300  # characters shown of each name or reason in a list
# All control characters but the line end, and those that turn the order of what follows.
_CONTROL = re.compile(r"[\x00-\x09\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]")


class UserError(Exception):
    """A mistake in a command, a config, or a file.

    The message is one line that names the value, where it was found, what was expected and what to
    do next. The scripts print it without a traceback and exit with status 2. Control characters
    are escaped: a stranger's file name or key may hold some, and a terminal would obey them.
    """

    def __init__(self, message: object) -> None:
        super().__init__(printable(str(message)))


def printable(text: str) -> str:
    """`text` with control characters, except line ends, escaped as Python does: `\\x1b`.

    So are those that turn the order of letters: a name would be read as another.
    """
    return _CONTROL.sub(lambda match: ascii(match[0])[1:-1], text)


def reason_of(error: OSError) -> str:
    """The system's reason for an error, as the end of a message: "no space left on device"."""
    return (error.strerror or str(error)).lower()


def counted(count: int, noun: str, plural: str = "") -> str:
    """A count with its noun, as in "1 image" and "2 images"."""
    return f"{count} {noun if count == 1 else plural or noun + 's'}"


def first_few(problems: Sequence[str], count: int = 3) -> str:
    """The first `count` problems, sorted and shortened to one line, and how many more there are."""
    more = f"; and {len(problems) - count} more" if len(problems) > count else ""
    return "; ".join(brief(problem) for problem in sorted(problems)[:count]) + more


def brief(text: str) -> str:
    """A stranger's text, such as a file name, made safe for a message: cut, and on one line."""
    text = text if len(text) <= LONGEST_SHOWN else f"{text[: LONGEST_SHOWN - 1]}…"
    return text.replace("\n", "\\n")


def nearest(given: object, valid: Iterable[str]) -> str:
    """`; did you mean NAME?` for the valid name closest to `given`, "" if none is close."""
    matches = difflib.get_close_matches(str(given), list(valid), n=1)
    return f"; did you mean {matches[0]}?" if matches else ""
