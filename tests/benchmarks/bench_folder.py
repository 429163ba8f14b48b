"""A folder of photos captioned: what the whole takes, what the model alone, what reading alone.

    python tests/benchmarks/bench_folder.py photos/ --model runs/shapes

The whole is `sample.py photos/ --out …` in a process of its own, start and model loading included.
The model alone captions pictures that are in memory already; reading alone decodes and transforms
all the photos and drops them. The slower of the two is the bottleneck. Options are sample.py's own;
with --tiny and nothing else, pictures and captioner are made on the spot.
"""

import itertools
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from project import ROOT

import smile
from smile.captioning.describe import Model, read_batches
from smile.captioning.find_images import ImageNames
from smile.captioning.options import (
    Options,
    Parser,
    add_caption_options,
    add_speed_options,
    prepare,
    speed,
)
from smile.data.batches import batches_of
from smile.weights.arguments import add_model_options

IN_MEMORY = 64  # batches that the model alone captions


@dataclass(frozen=True, kw_only=True)
class BenchOptions(Options):
    """What sample.py is to caption, by which model."""

    photos: str
    model: str


def main() -> None:
    if sys.argv[1:] == ["--tiny"]:
        with tiny_folder() as words:
            measure(words)
    else:
        measure(sys.argv[1:])


def measure(words: list[str]) -> None:
    """Prints the rates of what these words of sample.py's command line ask for."""
    parser = Parser(usage="%(prog)s PHOTOS --model MODEL [options]", description=__doc__)
    parser.add_argument("photos", help="a folder")
    parser.add_argument("--model", required=True, help="a run folder or weights")
    add_caption_options(parser)
    add_speed_options(parser)
    add_model_options(parser)
    options = parser.parse(BenchOptions, words)
    whole, memory, count = time_whole(words)
    print(
        f"whole: {count / whole:.0f} images/s ({count} in {whole:.0f} s), {memory:.0f} MB at most"
    )
    captioner = smile.load(options.model)
    rates = {
        "the model alone": model_rate(captioner, options),
        "reading": reading_rate(captioner, options),
    }
    for what, rate in rates.items():
        print(f"{what}: {rate:.0f} images/s")
    print(f"the bottleneck is {min(rates, key=rates.get)}")


@contextmanager
def tiny_folder() -> Iterator[list[str]]:
    """What to caption, by which captioner."""
    sys.path.insert(0, str(ROOT / "tests"))
    from helpers import make_photos, make_run

    with tempfile.TemporaryDirectory() as folder:
        make_photos(Path(folder) / "photos", 4)
        run = make_run(Path(folder) / "run")
        yield [str(Path(folder) / "photos"), "--model", str(run), "--workers", "0"]


def time_whole(words: list[str]) -> tuple[float, float, int]:
    """Seconds of sample.py, the most memory in MB that one of its processes took, and captions."""
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "captions.jsonl"
        command = [sys.executable, ROOT / "sample.py", *words, "--out", out]
        started = time.perf_counter()
        process = subprocess.Popen(command)
        _, status, usage = os.wait4(process.pid, 0)
        seconds = time.perf_counter() - started
        process.returncode = os.waitstatus_to_exitcode(status)
        if process.returncode:
            raise SystemExit(f"sample.py ended with {process.returncode}")
        return seconds, usage.ru_maxrss * 1024 / 1e6, len(out.read_text("utf-8").splitlines())


def reading_rate(captioner: smile.Captioner, options: BenchOptions) -> float:
    """Images a second, read by the worker processes and dropped."""
    started = time.perf_counter()
    read = sum(len(batch.names) for batch in batches(captioner, options))
    return read / (time.perf_counter() - started)


def model_rate(captioner: smile.Captioner, options: BenchOptions) -> float:
    """Images a second, captioned from memory."""
    size = captioner.transform.size
    pixels = [b.pixels[size] for b in itertools.islice(batches(captioner, options), IN_MEMORY)]
    model = Model(captioner=prepare(captioner, options), settings=options.settings)
    model.describe(pixels[0], range(len(pixels[0])))
    started = time.perf_counter()
    for batch in pixels:
        model.describe(batch, range(len(batch)))
    return sum(map(len, pixels)) / (time.perf_counter() - started)


def batches(captioner: smile.Captioner, options: BenchOptions):
    """The folder's pictures as sample.py reads them."""
    how = speed(options, captioner)
    return read_batches(
        batches_of(ImageNames([options.photos]), how["batch_size"]),
        [captioner.transform.size],
        workers=how["workers"],
    )


if __name__ == "__main__":
    main()
