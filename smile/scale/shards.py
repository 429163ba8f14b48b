"""The shards that a command line names: tars by path, address, brace and glob patterns."""

import glob
import itertools
import os
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from math import prod

from smile.errors import UserError, first_few
from smile.scale.store import is_address, open_store, plain
from smile.system.connection import shown

SUFFIXES = (".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tar.xz")
MOST_SHARDS = 1_000_000  # that one pattern may name
_BRACES = re.compile(r"\{(?:(\d{1,18})\.\.(\d{1,18})|([^{}]*,[^{}]*))\}")


def is_shard(argument: str) -> bool:
    """Whether an argument names tars, by its suffix."""
    return _bare(argument).lower().endswith(SUFFIXES)


def shard_name(address: str) -> str:
    """What a shard's table is called: the base name without its suffix."""
    name = re.split(r"[/\\]" if os.sep == "\\" else "/", _bare(address))[-1]
    suffix = max((s for s in SUFFIXES if name.lower().endswith(s)), key=len, default="")
    return name[: len(name) - len(suffix)]


def _bare(address: str) -> str:
    """An address without its query, which holds keys and no names."""
    return re.split(r"[?#]", address)[0] if _is_web(address) else address


def _is_web(address: str) -> bool:
    return address.lower().startswith(("http://", "https://"))


def find_shards(arguments: Sequence[str]) -> list[str]:
    """The paths and addresses of the shards, in order of argument and then of name.

    Raises:
        UserError: a pattern matches nothing, or two shards would have one table.
    """
    found = [shard for argument in arguments for shard in _named_by(argument)]
    found = list(dict.fromkeys(found))
    for shard in found:
        if not re.match(r"[^._]", shard_name(shard)):
            raise UserError(
                f"{shown(shard)}: a shard's table is called like it, and names that begin with . "
                "or _ are not for tables: rename it"
            )
    counts = Counter(map(shard_name, found))
    if twice := [shown(shard) for shard in found if counts[shard_name(shard)] > 1]:
        raise UserError(
            f"shards of one name would have one table: {first_few(twice)}: give them an --out each"
        )
    return found


def _named_by(argument: str) -> Iterator[str]:
    """The shards of one argument."""
    if not is_address(argument) and os.path.lexists(argument):
        yield argument
        return
    for pattern in expand_braces(argument):
        star = "*" if _is_web(pattern) else "*?["  # a web address may hold the others
        if not any(character in pattern for character in star):
            yield pattern
            continue
        matching = _matching(pattern)
        if not matching:
            raise UserError(f"{shown(pattern)}: matches no shard")
        yield from matching


def expand_braces(pattern: str) -> Iterator[str]:
    """As a shell does: {00..12} is 00, 01 … 12; {a,b} is a, b.

    Raises:
        UserError: that would be more than `MOST_SHARDS`.
    """
    texts: list[str] = []
    choices: list[tuple[int, Iterator[str]]] = []
    end = 0
    for match in _BRACES.finditer(pattern):
        texts.append(pattern[end : match.start()])
        end = match.end()
        choices.append(_range(match[1], match[2]) if match[1] else _list(match[3]))
    number = prod(count for count, _ in choices)
    if number > MOST_SHARDS:
        raise UserError(
            f"{shown(pattern)}: {number} shards are named, of at most {MOST_SHARDS} at once"
        )
    for chosen in itertools.product(*(values for _, values in choices)):
        pieces = itertools.chain.from_iterable(zip(texts, chosen, strict=True))
        yield "".join(pieces) + pattern[end:]


def _range(first: str, last: str) -> tuple[int, Iterator[str]]:
    start, stop = int(first), int(last)
    step = 1 if start <= stop else -1
    padded = first.startswith("0") or last.startswith("0")
    width = max(len(first), len(last)) if padded else 0
    numbers = range(start, stop + step, step)
    return abs(stop - start) + 1, (f"{number:0{width}}" for number in numbers)


def _list(words: str) -> tuple[int, Iterator[str]]:
    values = words.split(",")
    return len(values), iter(values)


def _matching(pattern: str) -> list[str]:
    """The shards that match a glob pattern, sorted."""
    if not is_address(pattern):
        return sorted(filter(is_shard, glob.glob(pattern, recursive=True)))
    if _is_web(pattern):
        raise UserError(
            f"{shown(pattern)}: a web server lists no files: name them with braces, {{000..127}}"
        )
    system, path = open_store(pattern)
    try:
        found = system.glob(path)
    except Exception as error:  # each store raises what it likes
        raise UserError(f"{shown(pattern)}: cannot be listed: {plain(error)}") from error
    return sorted(filter(is_shard, map(system.unstrip_protocol, found)))
