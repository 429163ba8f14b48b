"""Kills `train.py` again and again, and checks that it ends as if nothing had happened.

    python tests/kill_training.py --kills 25
    python tests/kill_training.py --kills 25 --processes 2

A run left alone and one killed at random moments (in steps, while a checkpoint or weights are being
written, in validation, while captioning) have to end with the same weights, bit for bit, and the
same log.jsonl but for the times. `tests/test_survival.py` runs a short version.
"""

import argparse
import contextlib
import json
import os
import pty
import random
import re
import signal
import subprocess
import sys
import tempfile
import termios
import threading
import time
from collections import Counter
from pathlib import Path

from kill_bulk import family

ROOT = Path(__file__).parent.parent
TINY = (
    "vit.dim=32", "vit.depth=2", "vit.num_heads=2", "vit.mlp_dim=64", "vit.patch_size=12",
    "vit.drop_path=0.2", "decoder.dim=32", "decoder.depth=1", "decoder.num_heads=2",
    "decoder.mlp_dim=64", "decoder.dropout=0.1", "data.num_train=101", "data.num_val=40",
    "data.num_test=20", "data.augment=true", "loss.objective=random", "loss.mle_epochs=2",
    "train.epochs=4", "train.batch_size=8", "train.accumulate=2", "train.warmup_steps=2",
    "train.caption_images=40", "generate.max_length=16", "generate.num_beams=2",
)  # fmt: skip
WEIGHTS = ("model.safetensors", "last/model.safetensors", "mle/model.safetensors")
TIMES = {"seconds", "data_wait", "images_per_second"}  # of a record, the part that may differ


def command(out: Path, *more: str, processes: int = 1, settings: tuple[str, ...] = TINY) -> list:
    """The command that trains the tiny captioner in `out`."""
    start = [sys.executable]
    if processes > 1:
        launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node"]
        start += [*launcher, str(processes)]
    options = [word for setting in settings for word in ("--set", setting)]
    config = ROOT / "configs" / "shapes.toml"
    return [*start, *map(str, [ROOT / "train.py", config, "--out", out, *options, *more])]


def has_checkpoint(out: Path) -> bool:
    return any(out.glob("checkpoints/*.json"))


def run_for(seconds: float, words: list, log: Path) -> bool:
    """Runs a command on a terminal, copied to `log`; `kill -9`s it if it still runs by then.

    Raises:
        SystemExit: it failed by itself.
    """
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    terminal, end = pty.openpty()  # without one there are no progress bars, which tell `stage`
    termios.tcsetwinsize(end, (24, 80))
    reader = threading.Thread(target=copy, args=(terminal, log))
    with subprocess.Popen(words, env=environment, stdout=end, stderr=end) as process:
        os.close(end)
        reader.start()
        try:
            process.wait(seconds)
        except subprocess.TimeoutExpired:
            for pid in [*family(process.pid)]:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
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


def differences(ours: Path, theirs: Path) -> list[str]:
    """Which results of two finished runs are not the same."""
    found = [name for name in WEIGHTS if (ours / name).read_bytes() != (theirs / name).read_bytes()]
    logs = []
    for folder in (ours, theirs):
        lines = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
        logs.append([{k: v for k, v in line.items() if k not in TIMES} for line in lines])
    if logs[0] != logs[1]:
        found.append("log.jsonl")
    if left := [path for path in ours.rglob(".*") if path.is_file()]:
        found.append(f"left over: {left}")
    return found


def kill_and_resume(folder: Path, *, kills: int, processes: int = 1, seed: int = 0) -> Counter:
    """Kills a run `kills` times at random moments, then lets it end; what it was about each time.

    Raises:
        SystemExit: it ended otherwise than a run that was left alone.
    """
    whole, out, log = folder / "whole", folder / "killed", folder / "log.txt"
    begun = time.perf_counter()
    run_for(600, command(whole, processes=processes), log)
    seconds = time.perf_counter() - begun
    begun = time.perf_counter()
    run_for(600, command(whole, "--resume", processes=processes), log)  # finished: only the start
    idle = time.perf_counter() - begun
    rng, stages = random.Random(seed), Counter()
    while stages.total() < kills:
        often = f"train.save_minutes={rng.choice([0.0001, 0.002])}"  # each step, or every 120 ms
        more = ["--set", often, "--set", f"train.workers={rng.randrange(2)}"]
        if has_checkpoint(out):
            more.append("--resume")
        moment = rng.uniform(idle, idle + 0.6 * (seconds - idle))
        if run_for(moment, command(out, *more, processes=processes), log):
            stages[stage(out, log)] += 1
            continue
        if found := differences(out, whole):  # it got through: from the start again
            raise SystemExit(f"differs from a run left alone: {found}")
        out = folder / f"killed-{stages.total()}"
    resume = ["--resume"] if has_checkpoint(out) else []
    run_for(600, command(out, *resume, processes=processes), log)
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
