"""Kills `sample.py` again and again, and checks that nothing is lost, doubled or torn.

    python tests/kill_bulk.py --kills 25
    python tests/kill_bulk.py --kills 25 --processes 2

`tests/test_sample.py` runs a short version.
"""

import argparse
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import torch
from PIL import Image

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT))

from smile.config import Config, DecoderConfig, GenerateConfig, ViTConfig  # noqa: E402
from smile.model.captioner import Captioner  # noqa: E402
from smile.model.tokenizer import Tokenizer  # noqa: E402
from smile.weights.run_folder import save_run  # noqa: E402

WORDS = (
    "a",
    "photo",
    "of",
    "picture",
    "red",
    "blue",
    "dog",
    "cat",
    "tree",
    "on",
    "in",
    "the",
    "and",
)


def make_run(folder: Path, *, seed: int = 0, image_size: int = 16) -> Path:
    """A run folder with a tiny captioner of random weights, whose captions differ by image."""
    tokenizer = Tokenizer(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *WORDS])
    config = Config(
        vit=ViTConfig(
            image_size=image_size, patch_size=8, dim=16, depth=1, num_heads=2, mlp_dim=32
        ),
        decoder=DecoderConfig(
            vocab_size=tokenizer.vocab_size,
            dim=16,
            features_dim=16,
            depth=1,
            num_heads=2,
            mlp_dim=32,
            max_positions=40,
        ),
        generate=GenerateConfig(num_beams=2, max_length=16, min_length=8),
    )
    torch.manual_seed(seed)
    captioner = Captioner(config=config, tokenizer=tokenizer).init_weights()
    for parameter in captioner.parameters():  # larger, so that the image matters
        parameter.data.mul_(3)
    save_run(folder, captioner)
    return folder


def make_photos(folder: Path, count: int) -> list[Path]:
    """Small pictures of noise, in folders, with awkward names; in the order of their names."""
    rng = random.Random(0)
    awkward = ['a "b", c', "new\nline", "ümläut", "comma,"]
    for i in range(count):
        place = folder / f"{i % 3}"
        place.mkdir(parents=True, exist_ok=True)
        name = f"{i:04}{awkward[i] if i < len(awkward) else ''}.png"
        pixels = rng.randbytes(16 * 16 * 3)
        Image.frombytes("RGB", (16, 16), pixels).save(place / name)
    return sorted(folder.rglob("*.png"))


def command(photos: Path, run: Path, out: Path, *, processes: int = 1, more: tuple = ()) -> list:
    start = [sys.executable]
    if processes > 1:
        launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node"]
        start += [*launcher, str(processes)]
    options = ["--model", run, "--out", out, "--batch-size", 1, *more]
    return [*start, *map(str, [ROOT / "sample.py", photos, *options])]


def family(pid: int) -> Iterator[int]:
    """A process and all its descendants."""
    yield pid
    for task in Path(f"/proc/{pid}/task").glob("*"):
        try:
            children = (task / "children").read_text().split()
        except OSError:
            continue
        for child in children:
            yield from family(int(child))


def kill_after(seconds: float, words: list, *, alone: bool = False) -> bool:
    """Runs a command and, if it still runs by then, `kill -9`s it, `alone` or with its children."""
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    with subprocess.Popen(words, env=environment, **quiet) as process:
        try:
            process.wait(seconds)
        except subprocess.TimeoutExpired:
            for pid in [process.pid] if alone else [*family(process.pid)]:
                os.kill(pid, signal.SIGKILL)
            return True
    if process.returncode:
        raise SystemExit(f"ended with {process.returncode}: {words}")
    return False


def seconds_of(words: list) -> float:
    start = time.perf_counter()
    kill_after(600, words)
    return time.perf_counter() - start


def captions_of(out: Path) -> dict[str, str]:
    """Every whole line so far, final file and parts; a line that is not JSON raises."""
    found = {}
    for path in [out, *out.parent.glob(f"{out.name}.part-*")]:
        if path.exists():
            *lines, _ = path.read_bytes().split(b"\n")
            for line in lines:
                found[json.loads(line)["image"]] = line
    return found


def same_captions(first: Path, second: Path) -> bool:
    """Whether two files hold the same images and words in the same order, as surely.

    Log-probabilities agree to a rounding error, which depends on what shared an image's batch.
    """
    ours, theirs = (
        [json.loads(line) for line in path.read_text("utf-8").splitlines()]
        for path in (first, second)
    )

    def words(records: list[dict]) -> list:
        return [
            (record["image"], caption["text"])
            for record in records
            for caption in record["captions"]
        ]

    def numbers(records: list[dict]) -> list[float]:
        return [caption["logprob"] for record in records for caption in record["captions"]]

    return words(ours) == words(theirs) and all(
        abs(a - b) < 1e-4 for a, b in zip(numbers(ours), numbers(theirs), strict=True)
    )


def kill_and_resume(
    folder: Path, *, kills: int, num_photos: int, processes: int = 1, seed: int = 0
) -> list[int]:
    """Kills a run `kills` times at random moments, then lets it end; how many were done each time.

    Raises:
        SystemExit: the file differs from that of a run that was left alone.
    """
    photos, run = folder / "photos", make_run(folder / "run")
    names = [str(path) for path in make_photos(photos, num_photos)]
    whole, out = folder / "whole.jsonl", folder / "captions.jsonl"
    seconds, idle = [
        seconds_of(command(photos, run, whole, processes=processes)) for _ in ("all", "nothing")
    ]
    lines = whole.read_bytes().splitlines(keepends=True)
    if [json.loads(line)["image"] for line in lines] != names:
        raise SystemExit("the run left alone is not complete and in order")
    rng, progress = random.Random(seed), []
    while len(progress) < kills:
        words = command(photos, run, out, processes=processes, more=("--workers", rng.randrange(3)))
        before = captions_of(out)
        moment = rng.uniform(0.7 * idle, idle + 2 * (seconds - idle) / kills)
        # Left alone, torchrun's processes would go on; the readers of a single one do no harm.
        if not kill_after(moment, words, alone=processes == 1 and rng.random() < 0.5):
            for path in folder.glob("captions.jsonl*"):  # it got through: from the start again
                path.unlink()
            continue
        after = captions_of(out)
        if before.items() - after.items():
            raise SystemExit(f"lost: {sorted(before.keys() - after.keys())}")
        progress.append(len(after))
    seconds_of(command(photos, run, out, processes=processes))
    if not same_captions(out, whole):
        raise SystemExit(f"{out} is not what a run left alone gives, {whole}")
    return progress


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--kills", type=int, default=25)
    parser.add_argument("--photos", type=int, default=600)
    parser.add_argument("--processes", type=int, default=1)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        progress = kill_and_resume(
            Path(folder),
            kills=args.kills,
            num_photos=args.photos,
            processes=args.processes,
            seed=args.seed,
        )
    print(f"{args.kills} kills, after which {progress} of {args.photos} images were done: complete")


if __name__ == "__main__":
    main()
