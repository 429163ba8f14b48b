"""Text set in lines: which font each letter has, where a line breaks, what stands left of what.

Contact sheets, attention pictures and the photo book all set their text here, and then draw what
they are given: runs of letters of one font and one direction, from left to right. A character that
no font has becomes its number, such as U+4E2D.
"""

import re
import unicodedata
from bisect import bisect
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby

from smile.captioning.bidi import levels, visual_order
from smile.captioning.fonts import Face, Fonts, system_fonts

LONGEST_WARNING = 8  # characters that a warning names

# How wide a text is in a font, drawn from right to left if so told.
Measure = Callable[[str, Face, bool], float]


@dataclass(frozen=True)
class Run:
    """Letters of one font and direction, in reading order.

    start: where in the text they begin.
    """

    text: str
    face: Face
    rtl: bool
    start: int


@dataclass(frozen=True)
class Line:
    """A line's runs from left to right; `rtl` if it belongs to a text from right to left."""

    runs: tuple[Run, ...]
    rtl: bool


@dataclass(frozen=True)
class _Cluster:
    """Characters that must not be torn apart: a letter and its marks."""

    text: str
    face: Face
    start: int
    level: int = 0

    @property
    def is_space(self) -> bool:
        return self.text == " "


class Typesetter:
    """Sets text in lines with the fonts there are, and remembers what none of them has."""

    def __init__(self, fonts: Fonts | None = None) -> None:
        self.fonts = fonts or system_fonts()
        self.missing: dict[str, None] = {}
        self._faces: dict[tuple[str, str], Face | None] = {}

    def lines(
        self, text: str, width: float, measure: Measure, *, splits: Sequence[int] = ()
    ) -> list[Line]:
        """The lines of a text, each at most `width` wide; a line end in the text ends a line.

        Args:
            splits: places in the text, in order, where a run ends in any case, such as a label's
                end.
        """
        region = _region(text)
        found: list[Line] = []
        start = 0
        for paragraph in re.split(r"(\r\n|[\n\v\f\r\x1c-\x1e\x85\u2028\u2029])", text):
            clusters = self._clusters(paragraph, start, region)
            if clusters:
                rtl = _is_rtl(clusters)
                for line in _break(clusters, width, measure):
                    found.append(Line(tuple(_runs(line, splits)), rtl))
            start += len(paragraph)
        return found

    def warning(self) -> str:
        """One line that names the characters that no font had; "" if there were none."""
        if not self.missing:
            return ""
        named = ", ".join(_number(char) for char in list(self.missing)[:LONGEST_WARNING])
        more = len(self.missing) - LONGEST_WARNING
        return (
            f"no font here has {named}{f' and {more} more' if more > 0 else ''}, so the number "
            "stands in the text; a font that has it can be installed, such as one of Noto's"
        )

    def _clusters(self, paragraph: str, start: int, region: str) -> list[_Cluster]:
        """The paragraph with its fonts and levels; runs of spaces are one."""
        clusters: list[_Cluster] = []
        for word in re.finditer(r"\s+|\S+", paragraph):
            if word[0].isspace():
                if clusters:
                    clusters.append(_Cluster(" ", clusters[-1].face, start + word.start()))
            else:
                near = clusters[-1].face if clusters else self.fonts.first
                clusters += self._word(word[0], start + word.start(), near, region)
        while clusters and clusters[-1].is_space:
            clusters.pop()
        every = levels("".join(cluster.text for cluster in clusters))
        place, levelled = 0, []
        for cluster in clusters:
            levelled.append(_Cluster(cluster.text, cluster.face, cluster.start, every[place]))
            place += len(cluster.text)
        return levelled

    def _face(self, text: str, region: str) -> Face | None:
        """The first font that has all of `text`, remembered: a search asks hundreds of fonts."""
        key = text, region
        if key not in self._faces:
            self._faces[key] = self.fonts.face(text, region)
        return self._faces[key]

    def _word(self, word: str, start: int, near: Face, region: str) -> Iterator[_Cluster]:
        """A word's clusters: all in one font if there is one that has them, else each in its own.

        A word of signs only keeps the font of the word before.
        """
        pieces = list(_pieces(word, start))
        needed = "".join(_visible(text) for text, _ in pieces)
        has_letters = any(char.isalnum() for char in needed)
        whole = near if not has_letters and near.has(needed) else self._face(needed, region)
        was_missing = False
        for text, place in pieces:
            needed = _visible(text)
            face = whole or self._face(needed, region)
            if face is not None:
                yield _Cluster(text, face, place)
                was_missing = False
                continue
            for char in needed:
                if (face := self._face(char, region)) is not None:
                    yield _Cluster(char, face, place)
                    was_missing = False
                    continue
                if was_missing:
                    yield _Cluster(" ", self.fonts.first, place)
                self.missing.setdefault(char)
                yield _Cluster(_number(char), self.fonts.first, place)
                was_missing = True


def _number(char: str) -> str:
    return f"U+{ord(char):04X}"


def _region(text: str) -> str:
    """Whose form of Chinese characters a text takes: Japan's if it has kana, and so on."""
    if re.search("[\u3040-\u30ff]", text):
        return "JP"
    return "KR" if re.search("[\u1100-\u11ff\uac00-\ud7af]", text) else "SC"


# Clusters -----------------------------------------------------------------------------------------

_JOINER = "\u200d"
LONGEST_PIECE = 64  # characters: a run of joiners without an end must not leave the page
_DROPPED = re.compile(
    "[\x00-\x08\x0e-\x1f\x7f-\x9f\xad\u061c\u202a-\u202e\u2060-\u206f\ufeff\ufff9-\ufffb]"
)
_LEADING_VOWEL = re.compile("[\u0e40-\u0e44\u0ec0-\u0ec4]")  # of Thai and Lao: before its consonant


def _pieces(word: str, start: int) -> Iterator[tuple[str, int]]:
    """The word's clusters, composed as far as Unicode can, each with its place in the text.

    Control characters, among them those that would turn the order of the line, are dropped.
    """
    piece, place, joins = "", start, False
    for offset, char in enumerate(word):
        if _DROPPED.match(char):
            continue
        if piece and (len(piece) >= LONGEST_PIECE or not (joins or _extends(char))):
            yield unicodedata.normalize("NFC", piece), place
            piece = ""
        if not piece:
            place = start + offset
        piece += char
        joins = (
            char == _JOINER or unicodedata.combining(char) == 9 or bool(_LEADING_VOWEL.match(char))
        )  # 9: a virama, which ties two consonants
    if piece:
        yield unicodedata.normalize("NFC", piece), place


def _extends(char: str) -> bool:
    """Whether a character belongs to the one before: a mark, a joiner, a Hangul vowel or final."""
    return (
        unicodedata.category(char) in ("Mn", "Mc", "Me", "Cf", "Sk")
        or "\u1160" <= char <= "\u11ff"
        or char in "\u0e33\u0eb3"  # am of Thai and Lao
    )


def _visible(text: str) -> str:
    """What a font needs to have: joiners, marks of direction and of variation draw nothing."""
    return "".join(
        char
        for char in text
        if unicodedata.category(char) != "Cf" and not "\ufe00" <= char <= "\ufe0f"
    )


# Lines --------------------------------------------------------------------------------------------


def _is_rtl(clusters: Sequence[_Cluster]) -> bool:
    strong = (unicodedata.bidirectional(char) for cluster in clusters for char in cluster.text)
    return next((kind for kind in strong if kind in ("L", "R", "AL")), "L") != "L"


def _break(
    clusters: Sequence[_Cluster], width: float, measure: Measure
) -> Iterator[list[_Cluster]]:
    """Fills line after line with words; a word wider than a line is broken between its letters."""
    line: list[_Cluster] = []
    used = 0.0
    for space, word in _words(clusters):
        gap, size = _width(space, measure), _width(word, measure)
        if line and used + gap + size > width:
            yield line
            line, used = [], 0.0
        elif line:
            line += space
            used += gap
        for part in [word] if size <= width else [[cluster] for cluster in word]:
            size = _width(part, measure)
            if line and used + size > width:
                yield line
                line, used = [], 0.0
            line += part
            used += size
    if line:
        yield line


def _words(clusters: Sequence[_Cluster]) -> Iterator[tuple[list[_Cluster], list[_Cluster]]]:
    """(the space before it if there is one, a piece without a place to break)."""
    space: list[_Cluster] = []
    word: list[_Cluster] = []
    for cluster in clusters:
        if cluster.is_space:
            yield space, word
            space, word = [cluster], []
            continue
        if word and _may_break(word[-1].text[-1], cluster.text[0]):
            yield space, word
            space, word = [], []
        word.append(cluster)
    if word:
        yield space, word


def _may_break(before: str, after: str) -> bool:
    """Whether a line may end between two characters: beside a Chinese or Japanese one it may.

    A line does not begin with closing signs, small kana or marks of length, nor end with opening
    signs.
    """
    if not (_is_ideographic(before) or _is_ideographic(after)):
        return False
    if unicodedata.category(before) in ("Ps", "Pi"):
        return False
    return unicodedata.category(after) not in ("Pe", "Pf", "Po") and after not in _NO_START


_NO_START = "ぁぃぅぇぉっゃゅょゎァィゥェォッャュョヮヵヶー々〻ゝゞヽヾ〜"


def _is_ideographic(char: str) -> bool:
    return unicodedata.east_asian_width(char) in "WF" and not "\uac00" <= char <= "\ud7af"


def _width(clusters: Sequence[_Cluster], measure: Measure) -> float:
    return sum(
        measure("".join(cluster.text for cluster in group), face, bool(level % 2))
        for (face, level), group in groupby(clusters, lambda each: (each.face, each.level))
    )


def _runs(line: Sequence[_Cluster], splits: Sequence[int]) -> Iterator[Run]:
    """A line's runs from left to right."""
    groups = [
        list(group)
        for _, group in groupby(
            line, lambda each: (each.face, each.level, bisect(splits, each.start))
        )
    ]
    for place in visual_order([group[0].level for group in groups]):
        first = groups[place][0]
        text = "".join(cluster.text for cluster in groups[place])
        yield Run(text, first.face, bool(first.level % 2), first.start)
