"""Kills `train.py` again and again, and checks that it ends as if nothing had happened.

    python tests/kill_training.py --kills 25
    python tests/kill_training.py --kills 25 --processes 2

A run left alone and one killed at random moments (in steps, while a checkpoint or weights are being
written, in validation, while captioning) have to end with the same weights, bit for bit, and the
same log.jsonl but for the times. `tests/training/test_survival.py` runs a short version.
"""

import argparse
import contextlib
import os
import pty
import random
import re
import sys
import tempfile
import termios
import threading
from collections import Counter
from collections.abc import Callable
from pathlib import Path

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT))

from helpers import TINY, differences  # noqa: E402
from zygote import killed, soon_after, start, torchrun  # noqa: E402


def command(out: Path, *more: str, processes: int = 1, settings: tuple[str, ...] = TINY) -> list:
    """What Python is to run for the tiny captioner in `out`: `train.py` itself, or torchrun."""
    options = [word for setting in settings for word in ("--set", setting)]
    config = ROOT / "configs" / "shapes.toml"
    return [
        *torchrun(processes),
        *map(str, [ROOT / "train.py", config, "--out", out, *options, *more]),
    ]


def saves(out: Path) -> int:
    """How many checkpoints a run has saved; 0 if there is none to resume from."""
    return max((int(path.stem) for path in out.glob("checkpoints/[0-9]*.json")), default=0)


def run(words: list, log: Path, *, kill_at: Callable[[], bool] | None = None) -> bool:
    """Runs a command on a terminal, copied to `log`; `kill -9`s it once `kill_at()`, if ever.

    Raises:
        SystemExit: it failed by itself.
    """
    terminal, end = pty.openpty()  # without one there are no progress bars, which tell `stage`
    termios.tcsetwinsize(end, (24, 80))
    reader = threading.Thread(target=copy, args=(terminal, log))
    with start(words, stdout=end, stderr=end) as process:
        os.close(end)
        reader.start()
        try:
            if killed(process, kill_at):
                return True
        finally:
            reader.join()
    if process.returncode:
        raise SystemExit(f"ended with {process.returncode}: {log.read_text()[-3000:]}")
    return False


def copy(terminal: int, log: Path) -> None:
    """Writes what comes from a terminal to a file, until its other end is closed."""
    with open(log, "wb") as file, contextlib.suppress(OSError):
        while data := os.read(terminal, 65536):
            file.write(data)
    os.close(terminal)


def stage(out: Path, log: Path) -> str:
    """What a killed run was about, as its files and progress bars show."""
    if unfinished := list(out.rglob(".unfinished-*")):
        kind = "checkpoint" if "checkpoints" in unfinished[0].parts else unfinished[0].suffix
        return f"writing {kind.lstrip('.')}"
    bars = re.findall(r"(epoch|validation|captions)(?: \d+/\d+ \w+)?:  ", log.read_text())
    return bars[-1].replace("epoch", "steps") if bars else "start"


def kill_and_resume(
    folder: Path,
    *,
    kills: int,
    processes: int = 1,
    seed: int = 0,
    settings: tuple[str, ...] = TINY,
) -> Counter:
    """Kills a run `kills` times at random moments, then lets it end; what it was about each time.

    Raises:
        SystemExit: it ended otherwise than a run that was left alone.
    """
    whole, out, log = folder / "whole", folder / "killed", folder / "log.txt"
    how = {"processes": processes, "settings": settings}
    run(command(whole, **how), log)
    rng, stages = random.Random(seed), Counter()
    while stages.total() < kills:
        often = f"train.save_minutes={rng.choice([0.0001, 0.002])}"  # each step, or every 120 ms
        more = ["--set", often, "--set", f"train.workers={rng.randrange(2)}"]
        if done := saves(out):
            more.append("--resume")
        more_saves, seconds = rng.randrange(1, 6), rng.choice([0.02, 0.3]) * rng.random()
        moment = soon_after(lambda out=out, n=done + more_saves: saves(out) >= n, seconds)
        if run(command(out, *more, **how), log, kill_at=moment):
            stages[stage(out, log)] += 1
            continue
        if found := differences(out, whole):  # it got through: from the start again
            raise SystemExit(f"differs from a run left alone: {found}")
        out = folder / f"killed-{stages.total()}"
    run(command(out, *["--resume"] * bool(saves(out)), **how), log)
    if found := differences(out, whole):
        raise SystemExit(f"differs from a run left alone: {found}")
    return stages


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--kills", type=int, default=25)
    parser.add_argument("--processes", type=int, default=1)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        stages = kill_and_resume(
            Path(folder), kills=args.kills, processes=args.processes, seed=args.seed
        )
    counts = ", ".join(f"{count} in {name}" for name, count in stages.most_common())
    print(f"{args.kills} kills ({counts}): same weights and log as left alone")


if __name__ == "__main__":
    main()
