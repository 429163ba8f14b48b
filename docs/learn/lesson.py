"""A lesson in Markdown whose code runs: the blocks in order, in one namespace, like one program.

    ```python
    print(17 / 4)              a block
    ```

    ```text
    4.25                       what it prints: `--write` fills this in, the check compares it
    ```

    ![a tree](learn/beams.svg) a picture of the namespace as it is at the end of the section

A section begins at a heading "## …". Its pictures may stand before the blocks that compute what
they show, so that a reader sees the picture first.

Numbers with decimals may differ by `TOLERANCE`, since processors round differently; everything else
is compared exactly. Each picture holds the data that it was drawn from, and these are compared.
"""

import contextlib
import io
import itertools
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from svg import Canvas, data_of

from smile.system.files import read_text, write_text

TOLERANCE = 0.02
_PIECE = re.compile(
    r"^```python\n(?P<code>.*?)^```\n(?:\n```text\n(?P<output>.*?)^```\n)?"
    r"|!\[(?P<alt>[^]]*)\]\(learn/(?P<picture>[\w-]+)\.svg\)",
    re.MULTILINE | re.DOTALL,
)
_SECTION = re.compile(r"^## ", re.MULTILINE)
_NUMBER = re.compile(r"(-?\d+(?:\.\d+)?)")


class Picture(NamedTuple):
    """How a picture is made: `data` reads what is drawn from the namespace, as JSON can hold it."""

    data: Callable[[Mapping[str, Any]], Any]
    draw: Callable[[Any], Canvas]


@dataclass(frozen=True)
class Lesson:
    """A lesson and its pictures, which are in the folder with the name of the lesson."""

    path: Path
    pictures: Mapping[str, Picture]

    def check(self) -> list[str]:
        """What the text and the pictures say wrongly, one line each; writes nothing."""
        text, faults = read_text(self.path), []
        used = set()
        for piece, names, printed in _run(text, self.path):
            where = f"{self.path.name}:{text.count(chr(10), 0, piece.start()) + 1}"
            if name := piece["picture"]:
                used.add(name)
                faults += [f"{where}: {fault}" for fault in self._check_picture(name, names)]
            elif not alike(printed, piece["output"] or ""):
                faults += [f"{where}: {difference(printed, piece['output'] or '')}"]
        unused = sorted(self.pictures.keys() - used)
        return faults + [f"{self.path.name}: does not show {name}.svg" for name in unused]

    def write(self) -> None:
        """Fills in what the blocks print, and draws the pictures."""
        text, parts, end = read_text(self.path), [], 0
        for piece, names, printed in _run(text, self.path):
            parts += [text[end : piece.start()], piece[0]]
            end = piece.end()
            if name := piece["picture"]:
                picture = self.pictures[name]
                data = _rounded(picture.data(names))
                write_text(self._file(name), picture.draw(data).to_svg(piece["alt"], data))
            else:
                output = f"\n```text\n{printed}```\n" if printed else ""
                parts[-1] = f"```python\n{piece['code']}```\n{output}"
        write_text(self.path, "".join([*parts, text[end:]]))

    def _check_picture(self, name: str, names: Mapping[str, Any]) -> Iterator[str]:
        picture, path = self.pictures.get(name), self._file(name)
        if picture is None or not path.exists():
            yield f"{name}.svg: there is no such picture"
            return
        kept = read_text(path)
        drawn = data_of(kept)
        if not same_data(picture.data(names), drawn):
            yield f"{name}.svg shows other data than the code has now"
        elif without_title(picture.draw(drawn).to_svg("", drawn)) != without_title(kept):
            yield f"{name}.svg is drawn otherwise now"

    def _file(self, name: str) -> Path:
        return self.path.with_suffix("") / f"{name}.svg"


def _run(text: str, path: Path) -> Iterator[tuple[re.Match[str], dict[str, Any], str]]:
    """Runs the blocks of one section after another, then yields the section's pieces in order.

    Each comes with the namespace after its section, and with what it printed.
    """
    names: dict[str, Any] = {"__name__": "lesson"}

    def section(piece: re.Match[str]) -> int:
        return len(_SECTION.findall(text, 0, piece.start()))

    for _, pieces in itertools.groupby(_PIECE.finditer(text), section):
        outputs = [(piece, _output(piece, text, path, names)) for piece in pieces]
        for piece, printed in outputs:
            yield piece, names, printed


def _output(piece: re.Match[str], text: str, path: Path, names: dict[str, Any]) -> str:
    """Runs a piece in the namespace, if it is a block; returns what it prints."""
    if not piece["code"]:
        return ""
    # Empty lines in front, so that a traceback shows the line of the lesson.
    lines = text.count("\n", 0, piece.start("code"))
    code = compile("\n" * lines + piece["code"], str(path), "exec")
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        exec(code, names)
    return printed.getvalue()


def alike(new: str, old: str) -> bool:
    """Whether two outputs are the same, but for spaces and for rounding."""
    return same_data([_value(word) for word in _words(new)], [_value(word) for word in _words(old)])


def difference(new: str, old: str) -> str:
    """The first line in which two outputs that are not `alike` differ, in words."""
    ours, theirs = new.splitlines(), old.splitlines()
    for line, kept in zip(ours, theirs, strict=False):
        if not alike(line, kept):
            return f"the code prints {line!r}, the text says {kept!r}"
    return f"the code prints {len(ours)} lines, the text has {len(theirs)}"


def same_data(new: Any, old: Any) -> bool:
    """Whether two pieces of data are equal; numbers with decimals may differ by `TOLERANCE`."""
    if isinstance(new, list | tuple) and isinstance(old, list | tuple):
        return len(new) == len(old) and all(map(same_data, new, old))
    if isinstance(new, dict) and isinstance(old, dict):
        return new.keys() == old.keys() and all(same_data(new[key], old[key]) for key in new)
    if isinstance(new, float) and isinstance(old, int | float):
        return abs(new - old) <= TOLERANCE
    return bool(new == old)


def without_title(svg: str) -> str:
    return re.sub(r"<title>.*?</title>", "", svg)


def _words(output: str) -> list[str]:
    return [part for word in output.split() for part in _NUMBER.split(word) if part]


def _value(word: str) -> str | float:
    return float(word) if _NUMBER.fullmatch(word) and "." in word else word


def _rounded(data: Any) -> Any:
    """The data with numbers of two decimals, which is what pictures show."""
    if isinstance(data, dict):
        return {key: _rounded(value) for key, value in data.items()}
    if isinstance(data, list | tuple):
        return [_rounded(value) for value in data]
    return round(data, 2) + 0.0 if isinstance(data, float) else data
