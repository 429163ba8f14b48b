"""What a lesson says between its blocks: numbers that have a source, links that lead somewhere.

A number in the prose must stand in the code, or in what it prints, of the same section or of one
before it. A link to a file of the project must lead to it; if its words are a name, the file must
define that name.
"""

import re
from collections.abc import Iterator
from pathlib import Path

_FENCE = re.compile(r"^```(\w*)\n(.*?)^```\n", re.MULTILINE | re.DOTALL)
_LINK = re.compile(r"\[([^]]*)\]\(([^)\s]+)\)")
_UNCHECKED = re.compile(
    r"^#.*$|^\d+\. \[.*$|^\*\*\d\.|[Ss]ections? \d+|\[[^]]*\]\(https?:[^)]*\)|<[^>]*>|`[^`\n]*`",
    re.MULTILINE,
)
_DIGITS = re.compile(r"(?<![\w.])\d[\d  ]*(?:\.\d+)?(?!\w)")


def faults(text: str, folder: Path) -> list[str]:
    """What is wrong in the prose of a lesson that is in `folder`, one line each."""
    return [*_links(text, folder), *_fences(text), *_numbers(text)]


def _fences(text: str) -> Iterator[str]:
    kinds = [kind for kind, _ in _FENCE.findall(text)]
    for before, kind in zip(["", *kinds], kinds, strict=False):
        if kind != "python" and (kind, before) != ("text", "python"):
            yield f"a block of {kind or 'no language'}: expected python, or text that it prints"


def _links(text: str, folder: Path) -> Iterator[str]:
    for words, target in _LINK.findall(text):
        if "://" in target or target.startswith("#"):
            continue
        path = folder / target
        if not path.exists():
            yield f"[{words}]({target}): there is no such file"
            continue
        name = re.fullmatch(r"`(?:\w+\.)*(\w+)(?:\(\))?`", words)
        if name and path.suffix == ".py" and name[1] != path.stem:
            definition = rf"^\s*(?:(?:class|def) {name[1]}\b|(?:self\.)?{name[1]}\b[^=\n]*=)"
            if not re.search(definition, path.read_text(encoding="utf-8"), re.MULTILINE):
                yield f"[{words}]({target}): that file defines no {name[1]}"


def _numbers(text: str) -> Iterator[str]:
    """The numbers in the prose that no code before the section's end has."""
    known: set[str] = set()
    for section in re.split(r"^(?=## )", text, flags=re.MULTILINE):
        code = "\n".join(body for _, body in _FENCE.findall(section))
        known |= {_plain(number) for number in re.findall(r"\d+(?:\.\d+)?", code)}
        for line in _prose(section).splitlines():
            for number in _DIGITS.findall(line):
                if _plain(number) not in known:
                    yield f"{number.strip()} stands in no code of its section: {line.strip()!r}"


def _prose(section: str) -> str:
    """A section without code, headings, their list, numbers of sections, and sources elsewhere."""
    for pattern in (_FENCE, _UNCHECKED):
        section = pattern.sub("", section)
    return _LINK.sub(r"\1", section)


def _plain(number: str) -> str:
    return re.sub(r"\s", "", number)
