"""The study of MLE and SMILE on Flickr8k, everything from nothing, by one command.

    python configs/study/run.py --data data/flickr8k --out runs/study
    python configs/study/run.py --data flickr8k_160px.zip --jobs 8 --budget 340
    python configs/study/run.py --machine cpu --jobs 2 --data data/flickr8k --out runs/study-cpu
    python configs/study/run.py --recipe --data flickr8k_160px.zip --out runs/recipe

Two seeds of MLE, what comes of them by SMILE and its variants (`plan.py`), and every captioner's
scores on the test photos, with the MLE captioner of the other seed as the judge of retrieval. What
follows MLE is scored after each of its validated epochs too, on validation photos: that shows when
it should have stopped. If the command is interrupted, the same command resumes it.
`--machine cpu` is a smaller study, for two cores and many hours. `--recipe` is another one: what
each part of MLE's settings is worth. `--smoke` takes half a minute: it measures the machine, and
says how many epochs fit into the budget.

In the out folder: NAME-SEED/ for each run, as train.py leaves it; scores/NAME-SEED/report.json and
scores/NAME-SEED-epochs/report.json; logs/; timeline.json; collected/, what is worth taking along.

Small captioners leave a GPU idle between their small operations, so several train on it at once.
All are children of one process that has imported everything already: none waits for imports.
"""

import argparse
import functools
import json
import math
import multiprocessing
import os
import shlex
import signal
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT)]
# Set before torch is imported. This process has one thread; `threads` says how many a run has.
# Asking whether there is a GPU must not start CUDA: no forked process could use it then.
IS_ASKED = "OMP_NUM_THREADS" in os.environ
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("PYTORCH_NVML_BASED_CUDA_CHECK", "1")
os.environ.setdefault("TQDM_MININTERVAL", "10")

import torch  # noqa: E402
import torch._dynamo  # noqa: E402  the optimiser would import it, once in each child
from plan import SIZES, Run, plan, recipe  # noqa: E402
from preparation import check_same_study, check_set, unpacked  # noqa: E402
from processes import WAYS, Child  # noqa: E402
from results import TIMELINE  # noqa: E402

import evaluate  # noqa: E402
import train  # noqa: E402
from smile.captioning.options import whole_number  # noqa: E402
from smile.config import load_config  # noqa: E402
from smile.data.load import load_examples  # noqa: E402
from smile.data.picture_cache import make_cache  # noqa: E402
from smile.system.files import read_json, write_atomically, write_text, writing  # noqa: E402
from smile.system.output import ending, prepare_output  # noqa: E402
from smile.training.checkpointing.checkpoints import Checkpoints  # noqa: E402
from smile.training.comparison import COMPARISON  # noqa: E402
from smile.training.console import say  # noqa: E402
from smile.weights.run_folder import LAST_FOLDER, kept_captioners  # noqa: E402

SIZE_OPTIONS = {  # each a field of `Size`
    "epochs": "of MLE",
    "more": "epochs of what follows",
    "seeds": "of variants, 1 or 2",
    "batch_size": "photos in a batch",
}
POOL = 500  # validation photos that show when a run should have stopped
STOPPING = 20  # seconds in which a run that is told to stop has saved itself
EPOCHS = "-epochs"  # after a run's name: the scores of its validated epochs
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
        say(f"{self.seconds:6.1f} s  {line}")

    def note(self, name: str, child: Child) -> None:
        """Adds a job that has ended to the timeline, of whatever call of this command."""
        self.timeline.append(
            {"job": name, "ended": round(self.seconds, 1), "seconds": round(child.seconds, 1)}
            | {"status": child.status}
        )

    def save_timeline(self) -> None:
        write_text(self.out / TIMELINE, json.dumps(self.timeline, indent=1) + "\n")

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
    prepare_output()
    args = parse_args()
    with ending("run.py", stopped="stopped; the same command resumes"):
        multiprocessing.set_start_method(args.start)
        runs = recipe(args.size) if args.recipe else plan(args.size)
        check_set(runs, args.set)
        for folder in filter(None, (args.out, args.collect)):
            with writing(folder):
                folder.mkdir(parents=True, exist_ok=True)
        if not args.smoke:
            check_same_study(args.out, runs, args.set)
        data = prepare(args)
        if args.smoke:
            from smoke import smoke

            sys.exit(smoke(args, data))
        status = carry_out(Study(args, data, runs))
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
    parser.add_argument(
        "--machine", choices=SIZES, default="gpu", help="how large the study is (gpu)"
    )
    parser.add_argument(
        "--recipe", action="store_true", help="instead: MLE without each part of its settings"
    )
    parser.add_argument("--device", help="auto, cpu, cuda (auto, or cpu with --machine cpu)")
    some = whole_number(1)
    parser.add_argument("--jobs", type=some, default=1, metavar="N", help="runs at a time (1)")
    parser.add_argument(
        "--workers", type=whole_number(0), default=2, metavar="N", help="loaders of each (2)"
    )
    for name, help in SIZE_OPTIONS.items():
        usual = ", ".join(f"{machine} {getattr(size, name)}" for machine, size in SIZES.items())
        option = f"--{name.replace('_', '-')}"
        parser.add_argument(option, type=some, metavar="N", help=f"{help} ({usual})")
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
    args = parser.parse_args()
    if args.seeds not in (None, 1, 2):
        parser.error(f"--seeds {args.seeds}: expected 1 or 2")
    if not 0 <= args.budget < math.inf:
        parser.error(f"--budget {args.budget}: expected seconds")
    if args.smoke and args.recipe:
        parser.error("--smoke measures for the study, not for --recipe")
    args.device = args.device or ("cpu" if args.machine == "cpu" else "auto")
    given = {name: getattr(args, name) for name in SIZE_OPTIONS if getattr(args, name) is not None}
    args.size = replace(SIZES[args.machine], **given)
    args.threads = threads(args.device, args.jobs)
    return args


def threads(device: str, jobs: int) -> int:
    """Of each run: one beside a GPU, its share of the cores without; OMP_NUM_THREADS overrides."""
    if IS_ASKED or device != "cpu":
        return torch.get_num_threads()
    return max(1, (os.cpu_count() or 1) // jobs)


# Data ---------------------------------------------------------------------------------------------


def prepare(args: argparse.Namespace) -> Path:
    """Unpacks the photos if need be, and decodes those to train on once and for all."""
    started, data = time.monotonic(), args.data
    if data.suffix == ".zip":
        data = unpacked(data, args.out / "data")
    data = data.resolve()
    settings = [f"data.root={data}", *args.size.every, *args.set]
    config = load_config(Path(__file__).parent / "mle.toml", settings)
    both = [ex for split in ("train", "val") for ex in load_examples(config.data, split)]
    size = config.vit.image_size
    make_cache(both, cache_path(args), size=size, write=write_atomically, say=lambda line: None)
    seconds = time.monotonic() - started
    say(f"{len(both)} photos to train and validate on, decoded after {seconds:.1f} s")
    return data


def cache_path(args: argparse.Namespace) -> Path:
    return (args.out / "pictures.bin").resolve()


# Jobs ---------------------------------------------------------------------------------------------


def is_trained(study: Study, name: str) -> bool:
    return (study.out / name / COMPARISON).exists()


def is_scored(study: Study, name: str) -> bool:
    return (study.out / "scores" / name / "report.json").exists()


def next_job(study: Study, busy: set[str], failed: set[str]) -> tuple[str, str, list[str]] | None:
    """The most valuable job that can begin now: its name, kind and command line."""
    for name, kind, argv in possible_jobs(study):
        if name not in busy | failed and (kind == "score" or study.fits(kind)):
            return name, kind, argv
    return None


def possible_jobs(study: Study) -> Iterator[tuple[str, str, list[str]]]:
    """What is not done and could be, the most valuable first."""
    scored = [run for run in study.runs if run.to_score and is_trained(study, run.name)]
    scored = [run for run in scored if not run.judge or is_trained(study, run.judge)]
    for run in scored:
        if not is_scored(study, run.name):
            yield f"score {run.name}", "score", score_command(study, run)
    epochs = [
        (f"epochs of {run.name}", "epochs", epochs_command(study, run))
        for run in scored
        if run.init and not is_scored(study, f"{run.name}{EPOCHS}")
    ]
    if not study.args.budget:  # where time is short, all runs come first
        yield from epochs
    for run in study.runs:
        if not is_trained(study, run.name) and (not run.init or is_trained(study, run.init)):
            kind = "continue" if run.init else run.name.partition("-")[0]
            yield run.name, kind, train_command(study, run)
    if study.args.budget:
        yield from epochs


def train_command(study: Study, run: Run) -> list[str]:
    args, folder = study.args, study.out / run.name
    settings = [
        *(f"data.root={study.data}", f"data.cache={cache_path(args)}"),
        *(f"train.device={args.device}", f"train.workers={args.workers}"),
        *run.settings,
        *([f"model.init={study.out / run.init / LAST_FOLDER}"] if run.init else []),
        *args.set,
    ]
    words = ["train.py", str(run.config), "--out", str(folder)]
    words += [word for setting in settings for word in ("--set", setting)]
    return [*words, "--resume"] if Checkpoints(folder).numbers() else words


def score_command(study: Study, run: Run) -> list[str]:
    model = str(study.out / run.name / LAST_FOLDER)
    return [*evaluate_command(study, run, run.name), "--model", model]


def epochs_command(study: Study, run: Run) -> list[str]:
    """Scores what the run began with and the captioner of each validated epoch."""
    begun = study.out / run.init / LAST_FOLDER
    models = [begun, *kept_captioners(study.out / run.name).values()]
    return [
        *evaluate_command(study, run, f"{run.name}{EPOCHS}"),
        *("--split", "val", "--limit", str(POOL), "--compare", *map(str, models)),
    ]


def evaluate_command(study: Study, run: Run, name: str) -> list[str]:
    judge = ["--judge", str(study.out / run.judge / LAST_FOLDER)] if run.judge else []
    return [
        *("evaluate.py", *judge),
        *("--device", study.args.device, "--clip", "none", "--gpt2", "none"),
        *("--workers", "1", "--batch-size", "250", "--out", str(study.out / "scores" / name)),
    ]


def call(argv: list[str], num_threads: int) -> None:
    """In a child: what the command line would do in a process of its own."""
    torch.set_num_threads(num_threads)
    sys.argv = argv
    (train if argv[0] == "train.py" else evaluate).main()


# The order of things ------------------------------------------------------------------------------


def carry_out(study: Study) -> int:
    """Everything that is left to do, so many jobs at a time; returns the exit status."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    if (study.out / TIMELINE).exists():
        study.timeline = read_json(study.out / TIMELINE, list)
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
    finally:  # what has ended is collected too where the command is told to stop
        stop(study, children)
        children["collect"] = collector(study)
        children["collect"].wait(60)
        reap(study, children, failed)
    left = [run.name for run in study.runs if not is_trained(study, run.name)]
    left += [f"score {r.name}" for r in study.runs if r.to_score and not is_scored(study, r.name)]
    left += [
        f"epochs of {run.name}"
        for run in study.runs
        if run.init and not is_scored(study, f"{run.name}{EPOCHS}")
    ]
    study.say(f"not done: {', '.join(left)}" if left else "all is done")
    return 1 if failed else 0


def start(study: Study, children: dict[str, Child], name: str, kind: str, argv: list[str]) -> None:
    log = study.out / "logs" / f"{name.replace(' ', '-')}.log"
    children[name] = Child(call, argv, study.args.threads, log=log, kind=kind)
    study.say(f"{name} begins, {len(children)} at work")


def collector(study: Study) -> Child:
    from collect import collect

    study.save_timeline()
    to = study.args.collect or study.out / "collected"
    log = study.out / "logs" / "collect.log"
    command = shlex.join(["python", "configs/study/run.py", *sys.argv[1:]])
    about = functools.partial(collect, command=command, device=study.args.device)
    return Child(about, study.out, study.runs, to, log=log, kind="collect")


def reap(study: Study, children: dict[str, Child], failed: set[str]) -> None:
    """Takes note of the jobs that have ended."""
    for name, child in list(children.items()):
        if child.is_alive:
            continue
        del children[name]
        status, seconds = child.status, child.seconds
        study.note(name, child)
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
        study.note(name, child)
        study.say(f"{name} ended after {child.seconds:.1f} s")
    children.clear()
    study.save_timeline()


if __name__ == "__main__":
    main()
