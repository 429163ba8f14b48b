"""Measures, in half a minute, photos a second and memory, and says what fits into a budget."""

import argparse
import json
import math
import multiprocessing
import shutil
import time
from pathlib import Path
from threading import BrokenBarrierError

import torch
from plan import FOLDER, plan
from processes import Child

import evaluate
import train
from smile.config import load_config
from smile.data.load import load_examples
from smile.system.distributed import World
from smile.training.console import say
from smile.training.schedule import Phase
from smile.training.speed import train_mode
from smile.weights.run_folder import LAST_FOLDER

WARM_UP = 10  # steps that are not counted
SCORED = 200  # test photos
STARTS = 3  # runs from nothing that can train side by side: two seeds of MLE, SMILE from scratch


def smoke(args: argparse.Namespace, data: Path) -> int:
    """Prints a line for each thing measured; a part that fails or hangs says so and ends.

    Returns the exit status.
    """
    began, folder = time.monotonic(), args.out / "smoke"
    settings = [
        *(f"data.root={data}", f"data.cache={(args.out / 'pictures.bin').resolve()}"),
        *(f"train.device={args.device}", f"train.workers={args.workers}", "train.epochs=1"),
        *(*args.size.every, f"train.batch_size={args.size.batch_size}", *args.set),
    ]
    shutil.rmtree(folder, ignore_errors=True)
    rates = {}
    for jobs in sorted({1, args.jobs} if args.smoke == "all" else {args.jobs}):
        rates[jobs] = side_by_side(jobs, folder / str(jobs), settings, args)
        if not rates[jobs]:
            return 1
    scored = args.smoke == "rate" or score(args, folder)
    say(f"smoke: {time.monotonic() - began:.0f} s in all")
    forecast(args, rates)
    return 0 if scored else 1


def longest(args: argparse.Namespace) -> float:
    """Seconds that any part of it may take."""
    return 600.0 if args.device == "cpu" else 60.0


def side_by_side(jobs: int, folder: Path, settings: list[str], args: argparse.Namespace) -> float:
    """Photos a second of so many processes that train at once; 0 where one fails."""
    barrier = multiprocessing.Barrier(jobs)
    children = [
        Child(measure, *(folder / str(n), settings, barrier, args), log=log)
        for n, log in enumerate(folder / f"{n}.log" for n in range(jobs))
    ]
    for child in children:
        child.wait(longest(args))
    if broken := [child for child in children if child.status]:
        say(f"{jobs} processes: failed: {broken[0].last_line()}")
        return 0.0
    found = [json.loads((folder / f"{n}.json").read_text("utf-8")) for n in range(jobs)]
    rate = sum(one["images"] / one["seconds"] for one in found)
    step = 1e3 * sum(one["seconds"] / one["steps"] for one in found) / jobs
    waited = sum(one["waited"] / one["seconds"] for one in found) / jobs
    say(
        f"{jobs} process{'es' * (jobs > 1)}: {rate:.0f} photos/s in all, {step:.1f} ms a step, "
        f"{waited:.0%} waiting for data, {sum(one['gigabytes'] for one in found):.1f} GB; "
        f"loss {found[0]['first']:.2f} to {found[0]['last']:.2f}; ready after "
        f"{max(one['ready'] for one in found):.1f} s"
        + (f", an epoch's end takes {found[0]['end']:.1f} s" if "end" in found[0] else "")
        + f"; {found[0]['parameters'] / 1e6:.2f} M parameters on {found[0]['device']}",
        flush=True,
    )
    return rate


def measure(folder: Path, settings: list[str], barrier, args: argparse.Namespace) -> None:
    """In a child: trains for so many seconds, together with the others, and notes what it took."""
    torch.set_num_threads(args.threads)
    began = time.perf_counter()
    folder.mkdir(parents=True)
    config = load_config(FOLDER / "mle.toml", settings)
    examples = {split: load_examples(config.data, split) for split in ("train", "val", "test")}
    torch.manual_seed(config.train.seed)
    trainer = train.start(config, folder, examples, World())
    trainer.prepare_data()
    phase = Phase.of(config, 0)
    train_mode(trainer.captioner)
    batches, losses, steps, images, waited = endless(trainer), [], 0, 0, 0.0
    for _ in range(WARM_UP):
        losses.append(one_step(trainer, [next(batches)], phase))
    ready = time.perf_counter() - began
    try:
        barrier.wait(longest(args))
    except BrokenBarrierError:
        raise SystemExit("another process did not come this far") from None
    began = clock = time.perf_counter()
    while clock - began < args.seconds:
        batch = next(batches)
        waited += time.perf_counter() - clock
        losses.append(one_step(trainer, [batch], phase))
        steps, images, clock = steps + 1, images + len(batch.names), time.perf_counter()
    found = {"seconds": clock - began, "steps": steps, "images": images, "waited": waited}
    if barrier.parties == 1:
        began = time.perf_counter()
        trainer.finish_epoch(phase)
        found["end"] = time.perf_counter() - began
    on_cuda = trainer.device.type == "cuda"
    found |= {
        "ready": ready,
        "first": losses[0],
        "last": losses[-1],
        "gigabytes": torch.cuda.max_memory_reserved() / 1e9 if on_cuda else 0.0,
        "device": torch.cuda.get_device_name() if on_cuda else str(trainer.device),
        "parameters": sum(p.numel() for p in trainer.captioner.parameters()),
    }
    folder.with_suffix(".json").write_text(json.dumps(found), "utf-8")


def endless(trainer: train.Trainer):
    """Batch after batch, epoch after epoch."""
    for epoch in range(10**6):
        trainer.batches.batch_sampler.set_epoch(epoch)
        yield from trainer.batches


def one_step(trainer: train.Trainer, batches: list, phase: Phase) -> float:
    loss, tokens, _ = trainer.step(batches, phase, 1e-4)
    return loss / max(tokens, 1)


def score(args: argparse.Namespace, folder: Path) -> bool:
    """Captions and all scores of a few test photos, by the captioner that was just begun."""
    run = folder / "1" / "0" / LAST_FOLDER
    words = ["evaluate.py", "--model", str(run), "--judge", str(run), "--device", args.device]
    words += ["--clip", "none", "--gpt2", "none", "--workers", "1", "--batch-size", "250"]
    words += ["--limit", str(SCORED), "--out", str(folder / "score")]
    child = Child(evaluate_with, words, args.threads, log=folder / "score.log")
    child.wait(longest(args))
    if child.status:
        say(f"scores: failed: {child.last_line()}")
        return False
    report = json.loads((folder / "score" / "report.json").read_text("utf-8"))
    said = [next(iter(one["systems"].values()))["caption"] for one in report["per_image"]]
    say(f"scores of {SCORED} photos: {child.seconds:.1f} s, such as {said[0]!r}, {said[1]!r}")
    return True


def evaluate_with(argv: list[str], threads: int) -> None:
    torch.set_num_threads(threads)
    evaluate.sys.argv = argv
    evaluate.main()


def forecast(args: argparse.Namespace, rates: dict[int, float]) -> None:
    """What the whole would take here, and how many epochs of MLE the budget has room for."""
    size = args.size
    runs = plan(size)
    photos, continued = 6000, [run for run in runs if run.init]
    # Seconds an epoch: few processes may not yet fill the machine.
    starting = STARTS * photos / min(STARTS * rates.get(1, math.inf), max(rates.values()))
    going_on = len(continued) * size.more * photos / max(rates.values())
    late = photos * (size.epochs + size.more) / max(rates.values()) if size.seeds == 2 else 0
    # Beginnings, ends of epochs and scores: 5 s a job and 15 s a score, so many at a time.
    around = 30 + 20 * len(continued) / args.jobs
    total = size.epochs * starting + going_on + late + around
    say(
        f"the whole: {size.epochs} epochs of {STARTS} from nothing {size.epochs * starting:.0f} s, "
        f"{len(continued)} "
        f"runs of {size.more} more {going_on:.0f} s, the second from scratch {late:.0f} s, "
        f"around it {around:.0f} s: {total:.0f} s"
    )
    if args.budget:
        fitting = max(0, int((args.budget - going_on - around) / starting))
        say(f"into {args.budget:.0f} s, without the second from scratch, fit --epochs {fitting}")
