"""Tables of captions, references and data folders as strangers might break them.

    python tests/fuzz_captions.py [SECONDS]

Each is a good one with something changed. Whatever comes of it, it is captions or one UserError:
anything else is printed with the seed that made it.
"""

import json
import os
import random
import sys
import tempfile
import time
import unicodedata
from collections.abc import Callable
from pathlib import Path
from typing import Any

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).parent.parent))

from smile.data import flickr8k, folder, karpathy
from smile.errors import UserError
from smile.evaluation.caption_files import read_captions
from smile.evaluation.image_set import ImageSet

NAMES = ["a.jpg", "b c.JPG", "é.png", "d.jpg"]
CAPTIONS = ["a dog runs", "a cat, asleep", 'a "red" bike', "un niño", ""]
VALUES = (
    *(None, True, 0, -7, 1.5, 1e308, 10**30, "", " ", "x", "a.jpg", "\x00", "\x1b[2J", "\u2028"),
    *(
        "\ud83d",
        "\udcff",
        "../a.jpg",
        "/",
        "/etc/passwd",
        "..",
        "x" * 300,
        "x/" * 3000,
        "y" * 20000,
    ),
    *([], {}, [[]], [None], ["a", 3], {"text": 3}, [{"text": "x"}], {"a": {"b": []}}, "9" * 5000),
)
SNIPPETS = (
    *("[" * 100_000, '{"a":' * 50_000, "9" * 5000, "1" + "0" * 5000, "NaN", "Infinity", "1e999"),
    *('"', "'", ",", ";", "\t", "\r", "\n", "\\", "}", "]", '"a": 1, "a": 2,', "\\ud83d", "\x00"),
    *("\ufeff", "\\", '\\"', "x" * 140_000, '"' + "x\n" * 70_000),
)


def rows() -> list[dict[str, Any]]:
    return [{"image": n, "caption": c} for n in NAMES for c in CAPTIONS[:2]]


def coco() -> dict[str, Any]:
    return {
        "images": [{"id": i, "file_name": name} for i, name in enumerate(NAMES)],
        "annotations": [{"id": i, "image_id": i % 4, "caption": c} for i, c in enumerate(CAPTIONS)],
    }


def karpathys() -> dict[str, Any]:
    return {
        "images": [
            {"filename": n, "split": s, "sentences": [{"raw": "a dog"}], "imgid": i, "cocoid": i}
            for i, (n, s) in enumerate(zip(NAMES, ("train", "val", "test", "restval"), strict=True))
        ]
    }


def sampled() -> list[dict[str, Any]]:
    captions = [{"text": "a dog", "logprob": -1.0, "tokens": [["a", -1.0]], "model": "m"}]
    return [{"image": name, "captions": captions} for name in NAMES]


def mutate_value(value: Any, rng: random.Random) -> Any:
    """The value with one place in it changed."""
    if isinstance(value, dict | list) and value and rng.random() < 0.85:
        key = rng.choice(list(value) if isinstance(value, dict) else range(len(value)))
        if rng.random() < 0.2:
            del value[key]
        elif isinstance(value, dict) and rng.random() < 0.2:
            value[str(rng.choice(VALUES))] = value.pop(key)
        else:
            value[key] = mutate_value(value[key], rng)
        return value
    return rng.choice(VALUES)


def mutate_text(data: bytes, rng: random.Random) -> bytes:
    """A file's bytes with something inserted, cut, doubled, or encoded otherwise."""
    at, to = sorted(rng.randrange(len(data) + 1) for _ in range(2))
    return rng.choice(
        [
            lambda: data[:at] + rng.choice(SNIPPETS).encode() + data[at:],
            lambda: data[:at] + rng.choice(SNIPPETS).encode() + data[to:],
            lambda: data[:at],
            lambda: data[:to] + data[at:],
            lambda: data[:at] + rng.randbytes(3) + data[at + 3 :],
            lambda: data.decode(errors="replace").encode("utf-16"),
            lambda: b"\xef\xbb\xbf" + data.replace(b"\n", b"\r\n"),
            lambda: b"",
        ]
    )()


def as_json(value: Any, rng: random.Random) -> bytes:
    return json.dumps(value, ensure_ascii=rng.random() < 0.5).encode("utf-8", "surrogatepass")


def as_lines(value: Any, rng: random.Random) -> bytes:
    return b"\n".join(as_json(row, rng) for row in (value if isinstance(value, list) else [value]))


def as_csv(value: Any, rng: random.Random) -> bytes:
    delimiter = rng.choice(",;\t")
    table = [[str(row.get("image")), str(row.get("caption"))] for row in value
             if isinstance(row, dict)] if isinstance(value, list) else []  # fmt: skip
    header = rng.choice([["image", "caption"], ["File_Name", "TEXT"], ["filename", "captions"]])
    lines = [delimiter.join(f'"{cell}"' for cell in row) for row in [header, *table]]
    return "\n".join(lines).encode("utf-8", "surrogatepass")


FORMS: dict[str, tuple[Callable[[], Any], Callable]] = {
    "captions.json": (rows, as_json),
    "captions.jsonl": (rows, as_lines),
    "captions.csv": (rows, as_csv),
    "captions.txt": (rows, as_csv),
    "metadata.json": (coco, as_json),
    "captions.tsv": (rows, as_csv),
    "dataset_x.json": (karpathys, as_json),
    "metadata.jsonl": (sampled, as_lines),
}


def write_mutant(place: Path, seed: int) -> Path:
    """A data folder with one table that something is wrong with, perhaps; returns the table."""
    rng = random.Random(seed)
    for name in NAMES:
        (place / unicodedata.normalize(rng.choice(["NFC", "NFD"]), name)).touch()
    if rng.random() < 0.2:
        (place / os.fsdecode(b"\xff.jpg")).touch()
        (place / rng.choice(["train", "Images", "loop"])).symlink_to(rng.choice([".", "/nowhere"]))
    name = rng.choice(list(FORMS))
    make, write = FORMS[name]
    value = make()
    for _ in range(rng.randrange(3)):
        value = mutate_value(value, rng)
    data = write(value, rng)
    if rng.random() < 0.5:
        data = mutate_text(data, rng)
    (place / name).write_bytes(data)
    if rng.random() < 0.1:
        for image in NAMES:
            (place / image).with_suffix(rng.choice([".txt", ".TXT", ".caption"])).write_bytes(data)
        (place / name).unlink()
    return place / name


def read_everything(place: Path, table: Path) -> int:
    """Reads a folder and its table in each way that there is; how many ways went well."""

    def captions_of_references() -> None:
        read_captions(table, ImageSet.from_references(table), some_may_lack=True)

    ways: list[Callable[[], Any]] = [
        lambda: folder.load(place, "train"),
        lambda: folder.load(place, "val", annotations=table.name),
        lambda: flickr8k.load(place, "train"),
        lambda: karpathy.load(place, "train", annotations=table.name),
        lambda: karpathy.karpathy_ids(place, annotations=table.name),
        lambda: ImageSet.from_references(table).fingerprint(),
        captions_of_references,
    ]
    well = 0
    for way in ways:
        try:
            way()
            well += 1
        except UserError as error:
            assert str(error) and "\n" not in str(error), repr(str(error))
            assert len(str(error)) < 2000, len(str(error))
            str(error).encode("utf-8", "backslashreplace")
    return well


def run(seed: int) -> int:
    with tempfile.TemporaryDirectory() as place:
        table = write_mutant(Path(place), seed)
        return read_everything(Path(place), table)


def main(seconds: float) -> None:
    start, seed, well, bad = time.time(), int(time.time()), 0, 0
    while time.time() - start < seconds:
        began = time.time()
        try:
            well += run(seed)
        except Exception as error:
            bad += 1
            print(f"seed {seed}: {type(error).__name__}: {str(error)[:300]}")
        if time.time() - began > 2:
            print(f"seed {seed}: {time.time() - began:.1f} s")
        seed += 1
    print(
        f"{seed - int(start)} folders, {well} readings well, {bad} with another end than UserError"
    )


if __name__ == "__main__":
    main(float(sys.argv[1]) if len(sys.argv) > 1 else 60)
