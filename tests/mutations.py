"""Damages files in every way that hands, disks, other programs and strangers do.

    damage(folder, rng)     changes one file of a folder, or two, and says how

A file is damaged as what it is (JSON, TOML, CSV, text, safetensors, a `.pth`), as plain bytes, or
as a name in a folder. The same `rng` does the same again.
"""

import contextlib
import copy
import io
import json
import os
import random
import re
import shutil
import struct
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

# Stand-ins for what Python's own writers refuse, by what takes their place in the file.
RAW = {
    '"@deep list"': "[" * 10_000 + "]" * 10_000,
    '"@deep object"': '{"a":' * 5_000 + "1" + "}" * 5_000,
    '"@digits"': "7" * 5_000,
    '"@exponent"': "1e999",
    '"@nan"': "NaN",
    '"@infinity"': "-Infinity",
    '"@half"': '"\\ud83d"',
}
VALUES = (
    *(None, True, False, 0, 1, -1, 4, 2, 0.5, -0.0, 1e308, 2**31, 2**63, -(2**63) - 1, 10**30),
    *(
        "",
        "x",
        "4",
        "a.png",
        "../../a.png",
        "/etc/passwd",
        "\x00",
        "\x1b[31m",
        "é\u2028",
        "x" * 5_000,
    ),
    *([], {}, [[]], [None], ["x"], [1, 2], {"": {}}, {"a": [1]}, [0.5, 0.5, 0.5]),
    *(raw.strip('"') for raw in RAW),
)
SPECIAL_TEXT = (
    *("\x00", "\r", "\r\n", "\n\n", "\u2028", "\x85", "\ufeff", "\x1b[2J", '"', "'", '""', ","),
    *(";", "\t", "[", "]", "{", "}", "\\", "=", "#", "<a a a ", "a" * 200_000, "a " * 50_000),
)
DTYPES = (
    *(torch.float16, torch.bfloat16, torch.float64, torch.int64, torch.int8, torch.uint8),
    *(torch.bool, torch.complex64, torch.float8_e4m3fn),
)


def damage(folder: Path, rng: random.Random) -> list[str]:
    """Changes one or two of a folder's files; returns what was done to which."""
    done = []
    for _ in range(rng.choice((1, 1, 1, 2))):
        files = sorted(path for path in folder.rglob("*") if path.is_file())
        if not files:
            break
        path = rng.choice(files)
        ways = [*WAYS.get(path.suffix.lower(), TEXT), *BYTES, rng.choice(NAMES)]
        way = rng.choice(ways)
        way(path, rng)
        done.append(f"{way.__name__} of {path.relative_to(folder)}")
    return done


# JSON ---------------------------------------------------------------------------------------------


def json_value(path: Path, rng: random.Random) -> None:
    """Another value somewhere, of whatever type."""
    _edit_json(
        path, rng, lambda home, key: home.__setitem__(key, copy.deepcopy(rng.choice(VALUES)))
    )


def with_other_json_values(
    folder: Path, copy_to: Path, name: str, count: int = 12
) -> Iterator[Path]:
    """Copies of a folder, one after another in one place, with a value of file `name` changed."""
    shutil.copytree(folder, copy_to, dirs_exist_ok=True)
    for seed in range(count):
        shutil.copy(folder / name, copy_to / name)
        json_value(copy_to / name, random.Random(seed))
        yield copy_to


def json_deletion(path: Path, rng: random.Random) -> None:
    _edit_json(path, rng, lambda home, key: home.__delitem__(key))


def json_wrapping(path: Path, rng: random.Random) -> None:
    """A value in a list or an object, or a list's first item instead of it."""

    def wrap(home: Any, key: Any) -> None:
        value = home[key]
        first = value[0] if isinstance(value, list) and value else str(value)
        home[key] = rng.choice(([value], {"value": value}, [value, value], first))

    _edit_json(path, rng, wrap)


def json_renaming(path: Path, rng: random.Random) -> None:
    def rename(home: Any, key: Any) -> None:
        if isinstance(home, dict):
            home[rng.choice((key.upper(), key + " ", "", "__class__", "@half"))] = home.pop(key)

    _edit_json(path, rng, rename)


def json_swapping(path: Path, rng: random.Random) -> None:
    """The value of another place."""

    def swap(home: Any, key: Any) -> None:
        other_home, other_key = rng.choice(list(_places(document)))
        home[key] = copy.deepcopy(other_home[other_key])

    document: Any = _documents(path)
    _edit_json(path, rng, swap)


def json_twice(path: Path, rng: random.Random) -> None:
    """A key, or a line, that stands there twice."""
    text = path.read_text("utf-8", "replace")
    pairs = [*re.finditer(r'"[^"\n]*": *[^,\[\]{}\n]+', text)]
    if pairs:
        pair = rng.choice(pairs)
        other = re.sub(r": .*", ": 5", pair[0])
        text = text[: pair.start()] + rng.choice((pair[0], other)) + ", " + text[pair.start() :]
    path.write_text(text, "utf-8")


def _documents(path: Path) -> list:
    """The document, or that of each line; what is damaged already as text."""
    text = path.read_text("utf-8", "replace")
    parts = text.splitlines() if path.suffix.lower() == ".jsonl" else [text]
    return [_parsed(part) for part in parts]


def _parsed(text: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return text


def _places(value: Any) -> Iterator[tuple[Any, Any]]:
    """(container, key) of every value in a document."""
    items = value.items() if isinstance(value, dict) else enumerate(value)
    for key, inner in list(items):
        yield value, key
        if isinstance(inner, dict | list):
            yield from _places(inner)


def _edit_json(path: Path, rng: random.Random, edit: Callable[[Any, Any], None]) -> None:
    """Edits a document anywhere: at its top one time in six, where wrong types hurt most."""
    documents = _documents(path)
    places = list(_places(documents))
    tops = [place for place in places if place[0] is documents]
    home, key = rng.choice(tops if rng.random() < 1 / 6 else places) if places else (None, None)
    if home is not None:
        edit(home, key)
    text = "\n".join(json.dumps(document, ensure_ascii=False) for document in documents)
    for stand_in, raw in RAW.items():
        text = text.replace(stand_in, raw)
    path.write_bytes(text.encode("utf-8", "surrogatepass"))


# Text ---------------------------------------------------------------------------------------------


def other_number(path: Path, rng: random.Random) -> None:
    """One of the numbers in it is another."""
    text = path.read_text("utf-8", "replace")
    if found := [*re.finditer(r"-?\d[\d.e-]*", text)]:
        place = rng.choice(found)
        numbers = (
            "0",
            "-1",
            "1e999",
            "nan",
            "inf",
            "true",
            str(2**63),
            "9" * 5_000,
            "1.5",
            "1000000",
        )
        text = text[: place.start()] + rng.choice(numbers) + text[place.end() :]
    path.write_text(text, "utf-8")


def other_lines(path: Path, rng: random.Random) -> None:
    """A line is missing, stands there twice, elsewhere, or in another case."""
    lines = path.read_text("utf-8", "replace").split("\n")
    number = rng.randrange(len(lines))
    line = lines.pop(number)
    place = rng.randrange(len(lines) + 1)
    lines[place:place] = rng.choice(
        ([], [line, line], [line], [line.upper()], [line[: len(line) // 2]])
    )
    path.write_text("\n".join(lines), "utf-8")


def special_text(path: Path, rng: random.Random) -> None:
    """Something put in that readers stumble over."""
    text = path.read_text("utf-8", "replace")
    place = rng.choice((0, len(text), rng.randrange(len(text) + 1)))
    path.write_text(text[:place] + rng.choice(SPECIAL_TEXT) + text[place:], "utf-8", newline="")


def other_encoding(path: Path, rng: random.Random) -> None:
    text = path.read_text("utf-8", "replace")
    path.write_bytes(text.encode(rng.choice(("utf-16", "utf-8-sig", "utf-32")), "replace"))


def other_setting(path: Path, rng: random.Random) -> None:
    """Another value, name or section in TOML."""
    lines = path.read_text("utf-8", "replace").split("\n")
    numbers = [n for n, line in enumerate(lines) if "=" in line] or [0]
    number = rng.choice(numbers)
    key, _, _ = lines[number].partition("=")
    value = json.dumps(rng.choice(VALUES), ensure_ascii=False).replace("null", "inf")
    for stand_in, raw in RAW.items():
        value = value.replace(stand_in, raw.replace(":", "="))
    forms = (f"{key} = {value}", f"{key}s = {value}", f"[{key.strip()}]", f"{key}.x = {value}")
    lines[number] = rng.choice(forms[:1] * 5 + forms[1:])
    path.write_bytes("\n".join(lines).encode("utf-8", "surrogatepass"))


# Bytes --------------------------------------------------------------------------------------------


def cut(path: Path, rng: random.Random) -> None:
    """The end is missing, or a piece, or all."""
    data = bytearray(path.read_bytes())
    start = rng.choice((0, rng.randrange(len(data) + 1), max(0, len(data) - rng.randrange(1, 9))))
    del data[start : rng.choice((len(data), start + rng.randrange(1, 200)))]
    path.write_bytes(data)


def flipped(path: Path, rng: random.Random) -> None:
    """A few bytes are others: half of the time near the start, where headers are."""
    data = bytearray(path.read_bytes())
    for _ in range(rng.choice((1, 2, 5, 20)) if data else 0):
        end = rng.choice((len(data), min(200, len(data))))
        data[rng.randrange(end)] = rng.choice((0, 1, 127, 128, 255, rng.getrandbits(8)))
    path.write_bytes(data)


def more_bytes(path: Path, rng: random.Random) -> None:
    """Bytes put in that are no UTF-8, or zeros, or a piece of it many times over."""
    data = path.read_bytes()
    start = rng.randrange(len(data) + 1)
    piece = data[start : start + rng.randrange(1, 64)]
    more = rng.choice((b"\xff\xfe", b"\xed\xa0\xbd", b"\xc3", bytes(64), piece * 500))
    path.write_bytes(data[:start] + more + data[start:])


# Tensors ------------------------------------------------------------------------------------------


def other_tensor(path: Path, rng: random.Random) -> None:
    """A tensor of another type or shape, or of values that are no numbers."""
    weights, save = _weights(path)
    for name in rng.sample(sorted(weights), rng.choice((1, 1, len(weights)))):
        weights[name] = _changed(weights[name], rng)
    save()


def other_names(path: Path, rng: random.Random) -> None:
    """Tensors that are missing, named otherwise, or there for nothing."""
    weights, save = _weights(path)
    name = rng.choice(sorted(weights))
    tensor = weights.pop(name)
    prefix = rng.choice(("module.", "model.", "_orig_mod.", "", "x"))
    if rng.random() < 0.3:
        weights.update({prefix + key: weights.pop(key) for key in list(weights)})
    weights |= rng.choice(({}, {prefix + name: tensor}, {name: tensor, "extra": torch.zeros(2)}))
    number = re.sub(r"\d+", lambda match: str(int(match[0]) + rng.choice((1, 999, 2**63))), name)
    weights |= rng.choice(({}, {}, {number: tensor}))
    save()


def _changed(tensor: torch.Tensor, rng: random.Random) -> torch.Tensor:
    flat = tensor.reshape(-1)
    shapes = (tensor[None], flat, tensor.mT if tensor.dim() > 1 else flat[:1], flat[:0], flat[0])
    fill = rng.choice((float("nan"), float("inf"), -1e38, 0.0))
    if not tensor.is_floating_point():
        return tensor.float()
    ways = (
        lambda: tensor.to(rng.choice(DTYPES)),
        lambda: rng.choice(shapes).contiguous(),
        lambda: torch.cat([tensor, tensor]),
        lambda: torch.full_like(tensor, fill),
    )
    return rng.choice(ways)()


def _weights(path: Path) -> tuple[dict[str, torch.Tensor], Callable[[], None]]:
    """A file's tensors to change, and how to write them back; made-up ones if it is damaged."""
    with contextlib.suppress(Exception):
        if path.suffix == ".safetensors":
            weights = load_file(path)
            return weights, lambda: save_file(
                {k: t.clone().contiguous() for k, t in weights.items()}, path
            )
        content = torch.load(path, weights_only=True)
        weights = {name: t for name, t in content["model"].items() if t.layout == torch.strided}
        return weights, lambda: torch.save(content | {"model": weights}, path)
    return {"a": torch.zeros(2)}, lambda: None


def odd_pth(path: Path, rng: random.Random) -> None:
    """What torch saves besides dictionaries of dense tensors by name."""
    weights, _ = _weights(path)
    name, tensor = rng.choice(sorted(weights.items()))
    deep: Any = tensor
    for _ in range(rng.choice((1, 30, 900))):
        deep = (deep,)
    wide = torch.zeros(1).expand(10**6, 10**6)
    odd = (
        *(tensor.to_sparse(), tensor.to("meta"), wide, None, 5, "text", b"bytes", [1], deep),
        *(
            {"a": tensor},
            torch.nn.Parameter(tensor, requires_grad=False),
            torch.Size([3]),
            torch.device("cpu"),
        ),
    )
    weights[name] = rng.choice(odd)
    key = rng.choice((5, None, b"k", (1, "a"), 1.5, True))
    contents = (
        *(
            {"model": weights},
            {"state_dict": weights},
            weights,
            {"model": None, **weights},
            [weights],
        ),
        *({"model": {**weights, key: tensor}}, {key: weights}, tensor, None, {"model": deep}, {}),
    )
    torch.save(rng.choice(contents), path)


def safetensors_header(path: Path, rng: random.Random) -> None:
    """Another header before the same numbers, or another length of it."""
    data = path.read_bytes()
    if len(data) < 8:
        return
    (length,) = struct.unpack("<Q", data[:8])
    header, rest = data[8 : 8 + length], data[8 + length :]
    scratch = path.with_suffix(".header.json")
    scratch.write_bytes(header)
    rng.choice((json_value, json_deletion, json_wrapping, json_swapping, json_twice))(scratch, rng)
    header = scratch.read_bytes()
    scratch.unlink()
    length = rng.choice((len(header),) * 4 + (0, max(0, len(header) - 1), 2**32, 2**63))
    path.write_bytes(struct.pack("<Q", length) + header + rest)


def pth_instructions(path: Path, rng: random.Random) -> None:
    """Other instructions in the pickle of a `.pth`, within a sound archive."""
    try:
        with zipfile.ZipFile(path) as archive:
            members = {info.filename: archive.read(info) for info in archive.infolist()}
    except (zipfile.BadZipFile, OSError, NotImplementedError, EOFError, ValueError, struct.error):
        return
    for name, data in members.items():
        if name.endswith("data.pkl"):
            place = rng.randrange(2, max(3, len(data)))
            pieces = (
                *(b"2\x86" * 60, b"2" * 1000, b"0", b"(" * 1000, b"t", b"R", b"}", b"u.", b"N"),
                *(b"\x86" * 3, b"cbuiltins\neval\n", b"cos\nsystem\n(X\x01\x00\x00\x00atR", b"."),
            )
            members[name] = data[:place] + rng.choice(pieces) + data[place + rng.choice((0, 1)) :]
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_STORED) as archive:
        for name, data in members.items():
            archive.writestr(name, data)
    path.write_bytes(file.getvalue())


# Names in a folder --------------------------------------------------------------------------------


def missing(path: Path, rng: random.Random) -> None:
    path.unlink()


def another_file(path: Path, rng: random.Random) -> None:
    """What another file of the folder holds."""
    others = sorted(other for other in path.parent.iterdir() if other.is_file() and other != path)
    if others:
        shutil.copyfile(rng.choice(others), path)


def folder_instead(path: Path, rng: random.Random) -> None:
    path.unlink()
    path.mkdir()


def pipe_instead(path: Path, rng: random.Random) -> None:
    path.unlink()
    os.mkfifo(path)


def link_instead(path: Path, rng: random.Random) -> None:
    """A link to itself, to nothing, to a device that never ends, or to a folder."""
    path.unlink()
    path.symlink_to(rng.choice((path.name, "absent", "/dev/zero", "/dev/full", ".")))


def other_name(path: Path, rng: random.Random) -> None:
    """A name that is longer, in capitals, or not UTF-8."""
    stem, suffix = os.fsencode(path.stem), os.fsencode(path.suffix)
    name = rng.choice(
        (stem.upper() + suffix, b"\xff" + suffix, stem * 20 + suffix, stem + suffix.upper())
    )
    path.rename(path.with_name(os.fsdecode(name[-250:])))


JSON = (json_value, json_value, json_value, json_deletion, json_wrapping, json_renaming)
JSON += (json_swapping, json_twice, other_number, special_text, other_encoding)
TEXT = (other_number, other_lines, special_text, special_text, other_encoding)
BYTES = (cut, flipped, more_bytes)
NAMES = (missing, another_file, folder_instead, pipe_instead, link_instead, other_name)
TENSORS = (other_tensor, other_tensor, other_names)
WAYS: dict[str, tuple[Callable, ...]] = {
    ".json": JSON,
    ".jsonl": (*JSON, other_lines),
    ".toml": (other_setting, other_setting, other_setting, *TEXT),
    ".csv": (*TEXT, other_lines),
    ".safetensors": (*TENSORS, safetensors_header),
    ".pth": (*TENSORS, odd_pth, odd_pth, pth_instructions),
    ".png": (flipped,),
}
