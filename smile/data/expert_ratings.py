"""ExpertAnnotations.txt of Flickr8k: how well captions describe photos, as three experts see it.

    NAME.jpg<tab>OTHER.jpg#2<tab>1<tab>1<tab>2

a photo, the id of a caption (mostly one that was written about another photo), and each expert's
rating: 1 (does not describe the photo), 2 (minor aspects of it), 3 (almost, with minor mistakes),
4 (describes it). From Hodosh, Young and Hockenmaier (2013).
"""

import os
import re
from dataclasses import dataclass
from pathlib import Path

from smile.data.flickr8k_archives import TEXT, command
from smile.data.flickr8k_folder import RATINGS
from smile.data.places import nfc
from smile.errors import UserError
from smile.system.files import read_text

__all__ = ["Rated", "read_ratings"]

_LINE = re.compile(r"([^\t]+)\t([^\t]+)#([0-4])\t([1-4])\t([1-4])\t([1-4])")


@dataclass(frozen=True, kw_only=True)
class Rated:
    """A line: a caption that three experts rated as one of a photo.

    where: file and line, for messages.
    photo: the photo's name.
    source, number: the photo that the caption was written about, and which of its captions it is.
    """

    where: str
    photo: str
    source: str
    number: str
    ratings: tuple[int, int, int]

    @property
    def caption_id(self) -> str:
        return f"{self.source}#{self.number}"

    @property
    def is_own(self) -> bool:
        """Whether the caption was written about this photo."""
        return self.source == self.photo


def read_ratings(path: Path) -> list[Rated]:
    """Every line, in the file's order.

    Raises:
        UserError: there is no such file, a line is not of that form, or there is none.
    """
    if not os.path.exists(path):
        raise UserError(
            f"{path}: there is no such file; {RATINGS} is in {TEXT.name}, and this puts it there: "
            f"{command(path.parent)}"
        )
    found = []
    for number, line in enumerate(read_text(path).split("\n"), start=1):
        if not line.strip():
            continue
        match, where = _LINE.fullmatch(line.strip()), f"{path}, line {number}"
        if match is None:
            raise UserError(
                f"{where}: found {line.strip()[:80]!r}, expected five fields with tabs between "
                f"them, as in {RATINGS}: NAME.jpg, NAME.jpg#0 (to #4), and three ratings from 1 "
                "to 4"
            )
        photo, source, which, *ratings = match.groups()
        first, second, third = map(int, ratings)
        found.append(
            Rated(
                where=where,
                photo=nfc(photo),
                source=nfc(source),
                number=which,
                ratings=(first, second, third),
            )
        )
    if not found:
        raise UserError(f"{path}: it is empty, expected the ratings of {RATINGS}")
    return found
