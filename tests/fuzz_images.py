"""Feeds damaged image files to `sample.py`'s reading path: no crash, no hang, under 1 GB.

    python tests/fuzz_images.py --count 5000

Files of six formats get bytes flipped, their ends cut off, their headers swapped or made to claim
other sizes. Each has to give either pixels or a reason. `tests/captioning/test_describe.py` runs a
short version.
"""

import argparse
import faulthandler
import io
import random
import resource
import struct
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import torch
from PIL import Image, ImageFilter

sys.path.insert(0, str(Path(__file__).parent.parent))

from smile.captioning.describe import Reader
from smile.data.batches import Broken

SIZE = 32  # of the pixels asked for
SECONDS = 20  # more than this for one image is a hang
GIGABYTE = 2**30


def originals() -> list[tuple[str, bytes]]:
    """Sound files: six formats, in their various modes, single and animated."""
    noise = Image.effect_noise((96, 64), 80).filter(ImageFilter.GaussianBlur(2))
    picture = Image.merge("RGB", [noise, noise.rotate(90), noise.rotate(180)])
    exif = Image.Exif()
    exif[0x0112] = 6
    kinds = [
        ("jpeg", "RGB", {"quality": 90, "exif": exif}),
        ("jpeg", "L", {"progressive": True}),
        ("jpeg", "CMYK", {}),
        ("png", "RGB", {"exif": exif}),
        ("png", "RGBA", {}),
        ("png", "P", {"transparency": 3}),
        ("png", "I;16", {}),
        ("png", "1", {}),
        ("webp", "RGB", {"exif": exif}),
        ("webp", "RGBA", {"lossless": True}),
        ("webp", "RGB", {"save_all": True, "append_images": [picture.rotate(90)]}),
        ("gif", "P", {}),
        ("gif", "P", {"save_all": True, "append_images": [noise.rotate(90)], "interlace": 1}),
        ("bmp", "RGB", {}),
        ("bmp", "P", {}),
        ("tiff", "RGB", {}),
        ("tiff", "RGB", {"compression": "tiff_lzw", "exif": exif}),
        ("tiff", "L", {"compression": "jpeg"}),
        ("tiff", "1", {"compression": "group4"}),
        ("tiff", "F", {}),
    ]
    files = []
    for kind, mode, options in kinds:
        file = io.BytesIO()
        image = noise.convert("I").convert("I;16") if mode == "I;16" else picture.convert(mode)
        image.save(file, kind, **options)
        files.append((kind, file.getvalue()))
    return files


def flip(data: bytearray, rng: random.Random, others: list[bytes]) -> None:
    """A few bytes: half of the time anywhere, else behind the first, without which none looks."""
    for _ in range(rng.choice((1, 1, 2, 5, 20))):
        end = rng.choice((200, len(data)))
        data[rng.randrange(min(12, len(data) - 1), min(end, len(data)))] = rng.choice(
            (0, 1, 127, 128, 255, rng.getrandbits(8))
        )


def cut(data: bytearray, rng: random.Random, others: list[bytes]) -> None:
    """The end is missing, or a piece from the middle."""
    start = rng.randrange(len(data))
    del data[start : rng.choice((len(data), start + rng.randrange(1, 200)))]


def swap_header(data: bytearray, rng: random.Random, others: list[bytes]) -> None:
    """The beginning of another file."""
    length = rng.choice((2, 4, 8, 16, 64, 256))
    data[:length] = rng.choice(others)[:length]


def swell(data: bytearray, rng: random.Random, others: list[bytes]) -> None:
    """Wherever the width or height stands, a large number."""
    for number in (96, 64):
        large = rng.choice((0, 1, 2**15 - 1, 2**16 - 1, 9000, 7000, 2**20, 2**31 - 1))
        for form in ("<H", ">H", "<I", ">I"):
            place = data.find(struct.pack(form, number))
            if place >= 0 and rng.random() < 0.5:
                width = struct.calcsize(form)
                data[place : place + width] = struct.pack(form, large % 2 ** (8 * width))


def repeat(data: bytearray, rng: random.Random, others: list[bytes]) -> None:
    """A piece of the file many times over, or zeros."""
    start = rng.randrange(len(data))
    piece = bytes(data[start : start + rng.randrange(1, 64)])
    data[start:start] = rng.choice((piece, bytes(8))) * rng.randrange(1, 500)


MUTATIONS: tuple[Callable, ...] = (flip, flip, flip, cut, swap_header, swell, repeat)


def mutated(number: int, files: list[tuple[str, bytes]]) -> tuple[str, bytes]:
    """The file of a number, always the same."""
    rng = random.Random(number)
    kind, data = files[number % len(files)]
    data = bytearray(data)
    for mutate in rng.sample(MUTATIONS, rng.choice((1, 1, 2, 3))):
        if data:
            mutate(data, rng, [other for _, other in files])
    return kind, bytes(data)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--count", type=int, default=5000)
    parser.add_argument("--first", type=int, default=0)
    args = parser.parse_args()
    reader, files, outcomes, slowest = Reader([SIZE]), originals(), Counter(), (0.0, -1)
    with tempfile.TemporaryDirectory() as folder:
        for number in range(args.first, args.first + args.count):
            kind, data = mutated(number, files)
            path = Path(folder, f"{number}.{kind}")
            path.write_bytes(data)
            faulthandler.dump_traceback_later(SECONDS, exit=True)
            start = time.perf_counter()
            result = reader[str(path)]
            slowest = max(slowest, (time.perf_counter() - start, number))
            faulthandler.cancel_dump_traceback_later()
            path.unlink()
            outcomes[check(result, number)] += 1
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    print(
        f"{args.count} files: {outcomes['read']} read, {outcomes['refused']} refused; the slowest, "
        f"{slowest[1]}, took {slowest[0]:.2f} s; at most {peak / 2**20:.0f} MB"
    )
    if peak > GIGABYTE:
        sys.exit("more than 1 GB")


def check(result: object, number: int) -> str:
    """What became of a file; exits where that is neither pixels nor a reason."""
    if isinstance(result, Broken):
        if "\n" in result.reason or not result.reason:
            sys.exit(f"{number}: the reason is not a line: {result.reason!r}")
        return "refused"
    _, pixels = result
    if pixels[SIZE].shape != (3, SIZE, SIZE) or not torch.isfinite(pixels[SIZE]).all():
        sys.exit(f"{number}: not pixels: {pixels[SIZE].shape}")
    return "read"


if __name__ == "__main__":
    main()
