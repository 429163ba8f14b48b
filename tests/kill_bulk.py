"""Kills `sample.py` again and again, and checks that nothing is lost, doubled or torn.

    python tests/kill_bulk.py --kills 25
    python tests/kill_bulk.py --kills 25 --processes 2

`tests/captioning/test_sample.py` runs a short version.
"""

import argparse
import json
import random
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT))

from helpers import make_photos, make_run, same_captions  # noqa: E402
from zygote import killed, soon_after, start, torchrun  # noqa: E402


def command(photos: Path, run: Path, out: Path, *, processes: int = 1, more: tuple = ()) -> list:
    """What Python is to run: `sample.py` itself, or torchrun."""
    options = ["--model", run, "--out", out, "--batch-size", 1, *more]
    return [*torchrun(processes), *map(str, [ROOT / "sample.py", photos, *options])]


def run(words: list, *, kill_at: Callable[[], bool] | None = None, alone: bool = False) -> bool:
    """Runs a command and, once `kill_at()`, `kill -9`s it, `alone` or with its children.

    Raises:
        SystemExit: it failed by itself.
    """
    with start(words, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        if killed(process, kill_at, alone=alone):
            return True
    if process.returncode:
        raise SystemExit(f"ended with {process.returncode}: {words}")
    return False


def lines_of(out: Path) -> int:
    """How many captions there are, final file and parts."""
    return sum(path.read_bytes().count(b"\n") for path in files_of(out))


def files_of(out: Path) -> list[Path]:
    return [path for path in [out, *out.parent.glob(f"{out.name}.part-*")] if path.exists()]


def captions_of(out: Path) -> dict[str, str]:
    """Every whole line so far, final file and parts; a line that is not JSON raises."""
    found = {}
    for path in files_of(out):
        *lines, _ = path.read_bytes().split(b"\n")
        for line in lines:
            found[json.loads(line)["image"]] = line
    return found


def kill_and_resume(
    folder: Path, *, kills: int, num_photos: int, processes: int = 1, seed: int = 0
) -> list[int]:
    """Kills a run `kills` times at random moments, then lets it end; how many were done each time.

    Raises:
        SystemExit: the file differs from that of a run that was left alone.
    """
    photos, model = folder / "photos", make_run(folder / "run")
    names = [str(path) for path in make_photos(photos, num_photos)]
    whole, out = folder / "whole.jsonl", folder / "captions.jsonl"
    run(command(photos, model, whole, processes=processes))
    lines = whole.read_bytes().splitlines(keepends=True)
    if [json.loads(line)["image"] for line in lines] != names:
        raise SystemExit("the run left alone is not complete and in order")
    rng, progress = random.Random(seed), []
    while len(progress) < kills:
        more = ("--workers", rng.randrange(3))
        words = command(photos, model, out, processes=processes, more=more)
        before = captions_of(out)
        goal = len(before) + rng.randrange(2 * num_photos // kills)
        moment = soon_after(lambda n=goal: lines_of(out) >= n, 0.02 * rng.random())
        # Left alone, torchrun's processes would go on; the readers of a single one do no harm.
        if not run(words, kill_at=moment, alone=processes == 1 and rng.random() < 0.5):
            for path in folder.glob("captions.jsonl*"):  # it got through: from the start again
                path.unlink()
            continue
        after = captions_of(out)
        if before.items() - after.items():
            raise SystemExit(f"lost: {sorted(before.keys() - after.keys())}")
        progress.append(len(after))
    run(command(photos, model, out, processes=processes))
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
