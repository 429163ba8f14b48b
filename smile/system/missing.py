"""What a command needs and this machine lacks: named all at once, before any of it is fetched."""

import os
import shlex
from collections.abc import Sequence
from dataclasses import dataclass

from smile.errors import UserError


class Unavailable(UserError):
    """What is needed is not on this machine and cannot be downloaded, for whatever reason."""


@dataclass(frozen=True)
class Missing:
    """A file or folder that is needed and not here.

    what: in words, such as "the photos of Flickr8k".
    address: where it can be had; "" if nowhere.
    place: where it belongs.
    size: in bytes; None if unknown.
    fetched: whether the command would download it by itself.
    command: what to type to put it there; "" if nothing but words helps.
    """

    what: str
    address: str
    place: str
    size: int | None = None
    fetched: bool = True
    command: str = ""

    def __str__(self) -> str:
        size = "" if self.size is None else f" ({shown_size(self.size)})"
        source = f" from {self.address}" if self.address else ""
        return f"{self.what}{size}{source} to {self.place}"


def shown_size(size: int) -> str:
    """Bytes as people read them: "1.1 GB", "990 MB", "0.2 MB"."""
    if size >= 1e9:
        return f"{size / 1e9:.1f} GB"
    return f"{size / 1e6:.0f} MB" if size >= 10e6 else f"{size / 1e6:.1f} MB"


def curl(address: str, place: str | os.PathLike[str]) -> str:
    """The command that downloads a file to `place`; given again, it resumes."""
    return f"curl -fL -C - --create-dirs -o {shlex.quote(os.fspath(place))} {shlex.quote(address)}"


def refuse(missing: Sequence[Missing], why: str) -> None:
    """Raises Unavailable, in one line, if anything is missing: `why`, every piece, the commands."""
    if missing:
        pieces = "; ".join(map(str, missing))
        commands = " && ".join(piece.command for piece in missing if piece.command)
        then = f"; to put them there: {commands}" if commands else ""
        raise Unavailable(f"{why}; missing: {pieces}{then}")
