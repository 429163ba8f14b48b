"""Which fonts there are, and which characters each one has.

DejaVu Sans, which comes with matplotlib, is the first: it has Latin, Greek, Cyrillic, Hebrew and
Arabic letters, and text looks the same on every machine. For what it lacks, such as Devanagari,
Thai, Chinese, Japanese and Korean, the system's fonts are searched in their usual folders, which
works without fontconfig too.
"""

import importlib.util
import os
import re
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache, cached_property
from pathlib import Path

from smile.errors import UserError

FIRST = "DejaVuSans.ttf"
_SUFFIXES = (".ttf", ".otf", ".ttc", ".otc")
# Not for running text: other weights and widths, one width for all letters, colour pictures, and
# boxes that stand in for every character.
_SPECIAL = re.compile(
    "bold|italic|oblique|black|heavy|medium|light|thin|condensed|narrow|mono|emoji|color|lastresort",
    re.IGNORECASE,
)
_REGIONS = ("JP", "KR", "SC", "TC", "HK")  # of Chinese characters, as fonts' names tell them


@dataclass(frozen=True)
class Face:
    """A font: a file, and which of those in it, counted from 0."""

    path: Path
    index: int = 0

    def has(self, text: str) -> bool:
        """Whether it can draw all of `text`."""
        bits = _characters(self.path)
        return all(
            ord(char) >> 3 < len(bits) and bits[ord(char) >> 3] >> (ord(char) & 7) & 1
            for char in text
        )

    def of_region(self, region: str) -> "Face":
        """The font of the same file that draws Chinese characters as a region does."""
        return Face(self.path, _regions(self.path).get(region, self.index))


@cache
def _characters(path: Path) -> bytes:
    """The characters of a file's first font, a bit each; none if it cannot be read or drawn.

    The other fonts in a file differ in the form of their letters.
    """
    from fontTools.ttLib import TTFont  # here, because it takes 0.2 s and most commands draw none

    bits = bytearray()
    try:
        with TTFont(path, fontNumber=0, lazy=True) as font:
            outlines = any(table in font for table in ("glyf", "CFF ", "CFF2"))
            found = sorted(font.getBestCmap() or ()) if outlines else []
    except Exception:  # a damaged font: any of the library's errors
        return b""
    if found:
        bits = bytearray((found[-1] >> 3) + 1)
    for number in found:
        bits[number >> 3] |= 1 << (number & 7)
    return bytes(bits)


@cache
def _regions(path: Path) -> dict[str, int]:
    """For a collection such as Noto Sans CJK: which of its fonts is that of each region."""
    from fontTools.ttLib import TTCollection

    found: dict[str, int] = {}
    if path.suffix.lower() not in (".ttc", ".otc"):
        return found
    try:
        with TTCollection(path, lazy=True) as collection:
            for index, font in enumerate(collection):
                name = font["name"].getBestFamilyName() or ""
                region = name.rpartition(" ")[2]
                if region in _REGIONS and not _SPECIAL.search(name):
                    found.setdefault(region, index)
    except Exception:  # as above
        return {}
    return found


def system_folders() -> list[Path]:
    """Where this system keeps fonts, its own and the user's."""
    home = Path(os.path.expanduser("~"))
    if sys.platform == "win32":
        local = os.environ.get("LOCALAPPDATA", home / "AppData" / "Local")
        windows = os.environ.get("WINDIR", "C:\\Windows")
        return [Path(windows, "Fonts"), Path(local, "Microsoft", "Windows", "Fonts")]
    if sys.platform == "darwin":
        return [Path("/System/Library/Fonts"), Path("/Library/Fonts"), home / "Library" / "Fonts"]
    shared = os.environ.get("XDG_DATA_DIRS") or "/usr/local/share:/usr/share"
    own = os.environ.get("XDG_DATA_HOME") or home / ".local" / "share"
    return [*(Path(folder, "fonts") for folder in (own, *shared.split(":"))), home / ".fonts"]


def _shipped() -> Path | None:
    """The font that comes with matplotlib, found without importing it, which takes a second."""
    spec = importlib.util.find_spec("matplotlib")
    for folder in (spec.submodule_search_locations or ()) if spec else ():
        path = Path(folder, "mpl-data", "fonts", "ttf", FIRST)
        if path.is_file():
            return path
    return None


class Fonts:
    """The fonts that text is drawn with, the first one that has the letters.

    Args:
        folders: where to look for more than DejaVu Sans; the system's unless given.
    """

    def __init__(self, folders: Sequence[Path] | None = None) -> None:
        self.folders = system_folders() if folders is None else folders

    @cached_property
    def first(self) -> Face:
        """DejaVu Sans; the first of the system's fonts where matplotlib came without.

        Raises:
            UserError: there is no font at all.
        """
        shipped = _shipped()
        if shipped:
            return Face(shipped)
        for face in self.others:
            if face.has("a"):
                return face
        raise UserError(
            "no font to write with: DejaVu Sans comes with matplotlib (pip install matplotlib)"
        )

    @cached_property
    def others(self) -> list[Face]:
        """The system's fonts for running text: DejaVu, Noto, and others by their names."""
        return [Face(path) for path in sorted(set(_files(self.folders)), key=_preference)]

    def face(self, text: str, region: str = "SC") -> Face | None:
        """The first font that has all of `text`, None if there is none.

        Args:
            region: whose form of Chinese characters to take: "JP", "KR", "SC", "TC" or "HK".
        """
        if self.first.has(text):
            return self.first
        found = next((face for face in self.others if face.has(text)), None)
        return found and found.of_region(region)


def _files(folders: Sequence[Path]) -> Iterator[Path]:
    for top in folders:
        for folder, _, names in os.walk(top):
            for name in names:
                if name.lower().endswith(_SUFFIXES) and not _SPECIAL.search(name):
                    yield Path(folder, name)


def _preference(path: Path) -> tuple[int, str, str]:
    known = ("DejaVuSans", "NotoSansCJK", "NotoSans")
    rank = next((i for i, name in enumerate(known) if path.name.startswith(name)), len(known))
    return rank + ("serif" in path.name.lower()), path.name, str(path)


@cache
def system_fonts() -> Fonts:
    """The one `Fonts` of this process: what it found is found once."""
    return Fonts()
