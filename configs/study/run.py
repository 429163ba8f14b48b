"""The study of MLE and SMILE on Flickr8k, everything from nothing, by one command.

    python configs/study/run.py --data data/flickr8k --out runs/study
    python configs/study/run.py --data flickr8k_160px.zip --jobs 8 --budget 340

Two seeds of MLE, what comes of them by SMILE and its variants (`plan.py`), and every captioner's
scores on the test photos, with the MLE captioner of the other seed as the judge of retrieval. The
same command again goes on where it stopped. `--smoke` measures what a machine can do in half a
minute, and says how many epochs fit into the budget.

In the out folder: NAME-SEED/ for each run, as train.py leaves it; scores/NAME-SEED/report.json;
logs/; timeline.json; collected/, what is worth taking along.

Small captioners leave a GPU idle between their small operations, so several train on it at once.
All are children of one process that has imported everything already: none waits for imports.
"""

import argparse
import json
import multiprocessing
import os
import signal
import sys
import time
import zipfile
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT)]
# Set before torch is imported. There are about as many processes as cores, so each has one thread.
# Asking whether there is a GPU must not start CUDA: no forked process could use it then.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("PYTORCH_NVML_BASED_CUDA_CHECK", "1")
os.environ.setdefault("TQDM_MININTERVAL", "10")

import torch._dynamo  # noqa: E402, F401  the optimiser would import it, once in each child
from plan import Run, plan  # noqa: E402
from processes import WAYS, Child  # noqa: E402

import evaluate  # noqa: E402
import train  # noqa: E402
from smile.config import load_config  # noqa: E402
from smile.data.load import load_examples  # noqa: E402
from smile.data.picture_cache import make_cache  # noqa: E402
from smile.errors import UserError  # noqa: E402
from smile.system.files import write_atomically  # noqa: E402
from smile.training.checkpointing.checkpoints import Checkpoints  # noqa: E402

IMAGE_SIZE = 160
STOPPING = 20  # seconds in which a run that is told to stop has saved itself
TIMELINE = "timeline.json"  # which job took how long, of all calls of this command
REFRESH = 60  # seconds between two collections of what there is


@dataclass
class Study:
    """The options, and what every part needs to know."""

    args: argparse.Namespace
    data: Path
    runs: list[Run]
    began: float = field(default_factory=time.monotonic)
    took: dict[str, float] = field(default_factory=dict)  # seconds, the longest of each kind of job
    timeline: list[dict] = field(default_factory=list)

    @property
    def out(self) -> Path:
        return self.args.out

    @property
    def seconds(self) -> float:
        return time.monotonic() - self.began

    def say(self, line: str) -> None:
        print(f"{self.seconds:6.1f} s  {line}", flush=True)

    def fits(self, kind: str) -> bool:
        """Whether a job of this kind, and the score of what it trains, would end in time."""
        if not self.args.budget:
            return True
        # From scratch takes about as long as what the others start with.
        needed = self.took.get(kind, self.took.get("start", 0.0) if kind == "scratch" else 0.0)
        if kind != "score":
            needed += self.took.get("score", 0.0)
        return self.seconds + 1.1 * needed < self.args.budget


def main() -> None:
    args = parse_args()
    try:
        multiprocessing.set_start_method(args.start)
        args.out.mkdir(parents=True, exist_ok=True)
        data = prepare(args)
        if args.smoke:
            from smoke import smoke

            sys.exit(smoke(args, data))
        runs = plan(
            epochs=args.epochs, more=args.more, seeds=args.seeds, batch_size=args.batch_size
        )
        status = carry_out(Study(args, data, runs))
    except UserError as error:
        print(f"run.py: {error}", file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        print("run.py: stopped; the same command goes on", file=sys.stderr)
        sys.exit(130)
    sys.exit(status)


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--data",
        type=Path,
        default=Path("data/flickr8k"),
        help="Flickr8k's folder, or a .zip of it",
    )
    parser.add_argument("--out", type=Path, default=Path("runs/study"), metavar="DIR")
    parser.add_argument("--collect", type=Path, metavar="DIR", help="(collected in the out folder)")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda")
    parser.add_argument("--jobs", type=int, default=1, metavar="N", help="runs at a time (1)")
    parser.add_argument("--workers", type=int, default=2, metavar="N", help="loaders of each (2)")
    parser.add_argument("--epochs", type=int, default=60, metavar="N", help="of MLE (60)")
    parser.add_argument("--more", type=int, default=6, metavar="N", help="of what follows (6)")
    parser.add_argument("--seeds", type=int, choices=(1, 2), default=2, help="of variants (2)")
    parser.add_argument("--batch-size", type=int, default=128, metavar="N", help="photos (128)")
    parser.add_argument(
        "--budget",
        type=float,
        default=0,
        metavar="SECONDS",
        help="begin nothing that would end after that, once all is imported (0: no limit)",
    )
    parser.add_argument(
        "--set", action="append", default=[], metavar="SECTION.KEY=VALUE", help="in every run"
    )
    parser.add_argument("--start", choices=WAYS, default=WAYS[0], help="how runs are begun")
    parser.add_argument(
        "--smoke",
        nargs="?",
        const="all",
        choices=("all", "rate"),
        help="only measure the machine; rate: only how fast so many jobs train at a time",
    )
    parser.add_argument(
        "--seconds", type=float, default=2, metavar="N", help="of each measurement of --smoke (2)"
    )
    return parser.parse_args()


# Data ---------------------------------------------------------------------------------------------


def prepare(args: argparse.Namespace) -> Path:
    """Unpacks the photos if need be, and decodes those to train on once and for all."""
    started, data = time.monotonic(), args.data
    if data.suffix == ".zip":
        data = args.out / "data"
        if not (data / ".unpacked").exists():
            with zipfile.ZipFile(args.data) as archive:
                archive.extractall(data)
            (data / ".unpacked").touch()
    data = data.resolve()
    config = load_config(Path(__file__).parent / "mle.toml", [f"data.root={data}", *args.set])
    both = [ex for split in ("train", "val") for ex in load_examples(config.data, split)]
    size = config.vit.image_size
    make_cache(both, cache_path(args), size=size, write=write_atomically, say=lambda line: None)
    seconds = time.monotonic() - started
    print(f"{len(both)} photos to train and validate on, decoded after {seconds:.1f} s", flush=True)
    return data


def cache_path(args: argparse.Namespace) -> Path:
    return (args.out / "pictures.bin").resolve()


# Jobs ---------------------------------------------------------------------------------------------


def is_trained(study: Study, name: str) -> bool:
    return (study.out / name / train.COMPARISON).exists()


def is_scored(study: Study, name: str) -> bool:
    return (study.out / "scores" / name / "report.json").exists()


def next_job(study: Study, busy: set[str], failed: set[str]) -> tuple[str, str, list[str]] | None:
    """The most valuable job that can begin now: its name, kind and command line."""
    for run in study.runs:
        ready = run.judge and is_trained(study, run.name) and is_trained(study, run.judge)
        name = f"score {run.name}"
        if ready and not is_scored(study, run.name) and name not in busy | failed:
            return name, "score", score_command(study, run)
    for run in study.runs:
        ready = not run.init or is_trained(study, run.init)
        kind = "continue" if run.init else run.name.partition("-")[0]
        undone = not is_trained(study, run.name) and run.name not in busy | failed
        if ready and undone and study.fits(kind):
            return run.name, kind, train_command(study, run)
    return None


def train_command(study: Study, run: Run) -> list[str]:
    args, folder = study.args, study.out / run.name
    settings = [
        *(f"data.root={study.data}", f"data.cache={cache_path(args)}"),
        *(f"train.device={args.device}", f"train.workers={args.workers}"),
        *run.settings,
        *([f"model.init={study.out / run.init / train.LAST_FOLDER}"] if run.init else []),
        *args.set,
    ]
    words = ["train.py", str(run.config), "--out", str(folder)]
    words += [word for setting in settings for word in ("--set", setting)]
    return [*words, "--resume"] if Checkpoints(folder).numbers() else words


def score_command(study: Study, run: Run) -> list[str]:
    last = train.LAST_FOLDER
    return [
        *("evaluate.py", "--model", str(study.out / run.name / last)),
        *("--judge", str(study.out / run.judge / last), "--device", study.args.device),
        *("--clip", "none", "--gpt2", "none", "--workers", "1", "--batch-size", "250"),
        *("--out", str(study.out / "scores" / run.name)),
    ]


def call(argv: list[str]) -> None:
    """In a child: what the command line would do in a process of its own."""
    sys.argv = argv
    (train if argv[0] == "train.py" else evaluate).main()


# The order of things ------------------------------------------------------------------------------


def carry_out(study: Study) -> int:
    """Everything that is left to do, so many jobs at a time; returns the exit status."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    if (study.out / TIMELINE).exists():
        study.timeline = json.loads((study.out / TIMELINE).read_text("utf-8"))
    children: dict[str, Child] = {}
    failed: set[str] = set()
    collected = study.seconds
    try:
        while True:
            reap(study, children, failed)
            over = study.args.budget and study.seconds > study.args.budget
            while not over and len(children) < study.args.jobs:
                job = next_job(study, set(children), failed)
                if job is None:
                    break
                start(study, children, *job)
            if over:
                finish_scores(children)
            if over or not children:
                break
            if study.seconds - collected > REFRESH and "collect" not in children:
                collected = study.seconds
                children["collect"] = collector(study)
            time.sleep(0.1)
    finally:
        stop(study, children)
    children["collect"] = collector(study)
    children["collect"].wait(60)
    reap(study, children, failed)
    left = [run.name for run in study.runs if not is_trained(study, run.name)]
    left += [f"score {r.name}" for r in study.runs if r.judge and not is_scored(study, r.name)]
    study.say(f"not done: {', '.join(left)}" if left else "all is done")
    return 1 if failed else 0


def start(study: Study, children: dict[str, Child], name: str, kind: str, argv: list[str]) -> None:
    log = study.out / "logs" / f"{name.replace(' ', '-')}.log"
    children[name] = Child(call, argv, log=log, kind=kind)
    study.say(f"{name} begins, {len(children)} at work")


def collector(study: Study) -> Child:
    from collect import collect

    (study.out / TIMELINE).write_text(json.dumps(study.timeline, indent=1) + "\n")
    names = [run.name for run in study.runs]
    to = study.args.collect or study.out / "collected"
    log = study.out / "logs" / "collect.log"
    return Child(collect, study.out, names, to, log=log, kind="collect")


def reap(study: Study, children: dict[str, Child], failed: set[str]) -> None:
    """Takes note of the jobs that have ended."""
    for name, child in list(children.items()):
        if child.is_alive:
            continue
        del children[name]
        status, seconds = child.status, child.seconds
        study.timeline.append(
            {"job": name, "ended": round(study.seconds, 1), "seconds": round(seconds, 1)}
            | {"status": status}
        )
        if status:
            failed.add(name)
            study.say(f"{name} failed ({status}): {child.last_line()}")
        else:
            study.took[child.kind] = max(seconds, study.took.get(child.kind, 0.0))
            study.say(f"{name} done in {seconds:.1f} s")


def finish_scores(children: dict[str, Child]) -> None:
    """Scores that have begun are soon done; runs are told to save themselves meanwhile."""
    scores = [child for child in children.values() if child.kind == "score"]
    for child in children.values():
        if child not in scores:
            child.terminate()
    for child in scores:
        child.wait(STOPPING)


def stop(study: Study, children: dict[str, Child]) -> None:
    """Asks the jobs that still run to save themselves, and waits until they have ended."""
    for child in children.values():
        child.terminate()
    for name, child in children.items():
        child.wait(STOPPING)
        study.say(f"{name} ended after {child.seconds:.1f} s")
    children.clear()


if __name__ == "__main__":
    main()
