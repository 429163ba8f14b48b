"""Notices about data that are not errors: one line on standard error, each only once."""

import os
import sys

from smile.errors import printable

_printed: set[str] = set()


def say_once(text: str, *, topic: str) -> None:
    """Prints a notice unless one on its topic was printed; only the first process prints.

    A data set is read once for each split and would repeat its notices.
    """
    if topic in _printed or os.environ.get("RANK", "0") != "0":
        return
    _printed.add(topic)
    script = os.path.basename(sys.argv[0]) or "smile"
    print(f"{script}: {printable(text)}", file=sys.stderr)
