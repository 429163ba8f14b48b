"""Train a captioner.

    python train.py configs/shapes.toml
    python train.py configs/flickr8k.toml --set train.batch_size=8 --set data.root=photos
    python train.py configs/shapes.toml --resume
    torchrun --nproc-per-node 8 train.py configs/flickr8k.toml

A run may start with some epochs of MLE, because SMILE needs a model that can already caption. MLE
and SMILE have separate warm-ups and cosines. The captioner is also saved at the switch, and at the
end the captioners before and after it describe the same test images.

--resume continues an interrupted run as if it had never stopped. Several processes split each
batch; together they compute the gradients of one process with the whole batch.
"""

import argparse
import math
import sys
import time
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from smile.config import Config, describe_config, load_config
from smile.data.batches import Batch, Example, batches_of
from smile.data.device_augment import augment_batch
from smile.model.captioner import Captioner
from smile.system.device import pick_device
from smile.system.distributed import World
from smile.system.output import ending, prepare_output
from smile.system.processors import ContentionWatch
from smile.training import comparison, report
from smile.training.checkpointing.checkpoints import Checkpoints
from smile.training.checkpointing.folder import claimed, resume_command, run_folder
from smile.training.checkpointing.manager import CheckpointManager
from smile.training.checkpointing.resume import find_run, identity
from smile.training.checkpointing.signals import Stopped
from smile.training.checkpointing.state import Progress, RunState, seed_process, seeded
from smile.training.checks import advice, check_fit
from smile.training.console import bar, say
from smile.training.dry_run import dry_run
from smile.training.ema import WeightAverage
from smile.training.loader import read
from smile.training.objective import Objective
from smile.training.once import TrainingData
from smile.training.precision import Precision
from smile.training.provide import provide
from smile.training.schedule import Phase
from smile.training.setup import accents_line, make_captioner, make_optimizer, recorded
from smile.training.speed import (
    flush_denormals,
    give_back_freed_memory,
    prepare,
    train_mode,
    uncompiled,
)
from smile.training.splits import Splits, choose_shown
from smile.version import __version__
from smile.weights.run_folder import EPOCHS_FOLDER, LAST_FOLDER, MLE_FOLDER, save_run


def main() -> None:
    prepare_output()
    flush_denormals()
    args = parse_args()
    status = 0
    with ending("train.py"):
        config = load_config(args.config, args.set)
        world = World.join(pick_device(config.train.device))
        try:
            train(config, world, args.config, out=args.out, resumes=args.resume, dry=args.dry_run)
        except Stopped as stopped:  # what Ctrl-C raises during training
            status = 128 + stopped.number
    world.leave(status)
    if status:
        sys.exit(status)


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog="settings of CONFIG.toml, and of --set:\n\n" + describe_config(),
    )
    parser.add_argument("--version", action="version", version=f"%(prog)s {__version__}")
    parser.add_argument("config", metavar="CONFIG.toml", help="the settings of the run")
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="SECTION.KEY=VALUE",
        help="change one setting; may be given again",
    )
    parser.add_argument(
        "--out", type=Path, metavar="DIR", help="the run's folder (default: runs/CONFIG)"
    )
    instead = parser.add_mutually_exclusive_group()
    instead.add_argument("--resume", action="store_true", help="resume an interrupted run")
    instead.add_argument(
        "--dry-run",
        action="store_true",
        help="one batch through everything: sizes, memory and time; no run is written",
    )
    return parser.parse_args()


# The run and its folder ---------------------------------------------------------------------------


def train(
    config: Config, world: World, source: str, *, out: Path | None, resumes: bool, dry: bool
) -> None:
    """Starts a run, resumes one, or does a dry run. `source` is the config's file."""
    torch.manual_seed(config.train.seed)
    config = recorded(config)
    folder = Path() if dry else world.first(lambda: run_folder(source, out, resume=resumes))
    examples = provide(config, world, resumes=resumes)
    if dry:
        dry_run(Trainer(make_captioner(config, examples["train"]), folder, examples, world=world))
        return
    with claimed(folder, world):
        begin = resume if resumes else start
        trainer = begin(config, folder, examples, world)
        if trainer is not None:
            trainer.prepare_data()
            trainer.manager.resume_command = resume_command(source, out, folder, world)
            with trainer.manager.watching(report.out_of_memory(config.train, trainer.device)):
                trainer.run()


def start(config: Config, folder: Path, examples: Splits, world: World) -> "Trainer":
    """A new run. Its first checkpoint is saved now, so that a full disk shows before training."""
    captioner = make_captioner(config, examples["train"])
    seed_process(config.train.seed, world)
    trainer = Trainer(captioner, folder, examples, world=world, identity=identity(config, examples))
    trainer.choose_shown()
    if line := accents_line(captioner, examples["train"]):
        trainer.say(line)
    trainer.manager.save()
    return trainer


def resume(config: Config, folder: Path, examples: Splits, world: World) -> "Trainer | None":
    """The run in `folder`, restored from its last good checkpoint; None if it is finished."""
    found = find_run(config, folder, examples, world)
    if found is None:
        return None
    trainer = Trainer(
        found.captioner,
        folder,
        examples,
        world=world,
        identity=found.identity,
        checkpoints=found.checkpoints,
    )
    found.restore(trainer.state, steps=trainer.num_steps)
    trainer.choose_shown()
    for line in found.lines(steps=trainer.num_steps, processes=world.size):
        trainer.say(line)
    return trainer


# One run ------------------------------------------------------------------------------------------


class Trainer:
    """One run: the captioner, its optimiser, the data, and the folder it writes.

    With several processes, each has a `Trainer`, and all take every step together.
    """

    def __init__(
        self,
        captioner: Captioner,
        folder: Path,
        examples: Splits,
        *,
        world: World | None = None,
        identity: dict[str, Any] | None = None,
        checkpoints: Checkpoints | None = None,
    ) -> None:
        self.config = config = captioner.config
        self.folder = folder
        self.examples = examples
        self.world = world or World()
        check_fit(captioner, processes=self.world.size)
        self.device = pick_device(config.train.device)
        self.captioner = prepare(captioner.to(self.device))
        self.objective = Objective(self.captioner)
        self.model = self.world.parallel(self.objective)  # with several processes, in DDP
        self.average = WeightAverage(self.captioner, decay=config.train.ema)
        self.precision = Precision(config.train.precision, self.device)
        self.optimizer = make_optimizer(captioner)
        self.data = TrainingData(captioner, examples, world=self.world)
        self.batches = self.data.loader("train")
        self.shown = {  # the images of a split that are captioned
            split: list(part)[: config.train.caption_images or None]
            for split, part in examples.items()
        }
        self.contention = ContentionWatch(self.device)
        self.progress = Progress()
        self.state = RunState(
            captioner=captioner,
            average=self.average,
            optimizer=self.optimizer,
            precision=self.precision,
            progress=self.progress,
            world=self.world,
        )
        self.manager = CheckpointManager(
            self.state, folder, identity=identity or {}, checkpoints=checkpoints
        )

    # The loop -----------------------------------------------------------------------------------

    def run(self) -> None:
        """Trains the epochs that remain, then compares MLE and SMILE on the test images."""
        self.say(f"{report.size_line(self.captioner, self.examples, self.world)}; → {self.folder}")
        self.advise()
        while self.progress.epoch < self.config.train.epochs:
            phase = Phase.of(self.config, self.progress.epoch)
            if self.progress.epoch == phase.first_epoch and self.progress.step == 0:
                self.begin_phase(phase)
            self.train_epoch(phase)
            if phase.is_validated(self.config.train, self.progress.epoch):
                self.finish_epoch(phase)
            else:
                self.progress.next_epoch(None)
        self.compare()

    def begin_phase(self, phase: Phase) -> None:
        self.progress.best = math.inf  # losses of different objectives do not compare
        if phase.first_epoch > 0:
            folder = self.folder / MLE_FOLDER
            with self.average.shown():
                self.manager.write(lambda: save_run(folder, self.captioner))
            self.average.restart()
            self.say(f"switch to {phase.objective}: the MLE captioner is kept in {folder}")

    def train_epoch(self, phase: Phase) -> None:
        """One pass over every caption, from step `progress.step` on."""
        config, progress = self.config.train, self.progress
        epoch, steps = progress.epoch, self.num_steps
        train_mode(self.captioner)
        self.batches.batch_sampler.set_epoch(epoch, first=progress.step * config.accumulate)
        title = f"epoch {epoch + 1}/{config.epochs} {phase.objective}"
        counter = {"initial": progress.step, "total": steps, "unit": " steps"}
        with bar(desc=title, **counter, world=self.world) as steps_bar:
            clock = time.perf_counter()
            for batches in batches_of(read(self.batches, self.world), config.accumulate):
                progress.waited += time.perf_counter() - clock
                lr = phase.learning_rate(config, epoch=epoch, step=progress.step, steps=steps)
                loss, tokens, images = self.step(batches, phase, lr)
                progress.add_step(loss, tokens, images)
                progress.seconds += time.perf_counter() - clock
                steps_bar.set_postfix(loss=f"{loss / max(tokens, 1):.3f}", lr=f"{lr:.1e}")
                steps_bar.update()
                if line := self.contention.notice():
                    self.say(line)
                self.manager.between_steps()
                clock = time.perf_counter()

    def step(self, batches: list[Batch], phase: Phase, lr: float) -> tuple[float, int, int]:
        """One optimiser step on one or more batches; returns summed loss, tokens and images.

        The loss is divided by the number of target tokens in all batches of all processes, so the
        gradient is that of one large batch, even if caption lengths differ.
        """
        for group in self.optimizer.param_groups:
            group["lr"] = lr
        self.state.note_broken(broken for batch in batches for broken in batch.broken)
        targets = sum(self.objective.num_targets(batch) for batch in batches)
        images = sum(len(batch.names) for batch in batches)
        targets, images = (int(count) for count in self.world.sums([targets, images]))
        if targets == 0:  # every image is broken
            return 0.0, 0, images
        total = torch.zeros((), device=self.device)
        with self.precision.sharing_casts():
            for number, batch in enumerate(batches, start=1):
                with self.world.sync_gradients(self.model, enabled=number == len(batches)):
                    batch_loss = self.loss(self.model, batch, phase)
                    # DDP averages the gradients over the processes; their sum is needed.
                    self.precision.backward(batch_loss / (targets / self.world.size))
                total += batch_loss.detach()
        clip = self.config.train.grad_clip
        grad_norm = self.precision.step(self.optimizer, self.captioner.parameters(), clip)
        self.average.update()
        self.optimizer.zero_grad(set_to_none=True)
        local_loss, norm = torch.stack([total, grad_norm]).tolist()
        [loss] = self.world.sums([local_loss])
        self.check_finite(loss, norm, lr, during=f"step {self.progress.step + 1}")
        return loss, targets, images

    def loss(self, model: nn.Module, batch: Batch, phase: Phase) -> Tensor:
        """The phase's objective, summed over the target tokens of the batch."""
        batch = batch.to(self.device)
        if batch.images.dtype == torch.uint8:
            batch = replace(batch, images=augment_batch(batch.images))
        with self.precision.autocast():
            return model(batch, phase.objective)

    @property
    def num_steps(self) -> int:
        """Optimiser steps in an epoch."""
        return math.ceil(len(self.batches) / self.config.train.accumulate)

    def finish_epoch(self, phase: Phase) -> None:
        """Saves, validates and saves again: a run that stops during validation resumes there."""
        self.manager.save()
        self.captioner.eval()
        with self.average.shown():
            self.validate(phase)
        self.manager.save()
        give_back_freed_memory()

    def validate(self, phase: Phase) -> None:
        """Validates, then writes the captioners, the log and its pictures."""
        config, progress = self.config.train, self.progress
        val_loss = self.validation_loss(phase) if self.examples["val"] else None
        lr = self.optimizer.param_groups[0]["lr"]  # of the epoch's last step
        if val_loss is not None:
            self.check_finite(val_loss, 0.0, lr, during="validation")
        record = report.epoch_record(progress, phase, config, lr=lr, val_loss=val_loss)
        best = progress.best if val_loss is None else min(progress.best, val_loss)
        is_best = val_loss is None or val_loss < progress.best
        self.manager.write(lambda: self.write_captioners(is_best=is_best))
        with uncompiled(self.captioner):
            captions = self.describe(self.captioner, self.shown["val"])
        record |= report.summarise(captions, self.shown["val"]) | {"captions": captions}
        self.state.gather_broken()
        record["broken_images"] = len(progress.broken)
        self.say(report.epoch_line(record))
        for name, caption in islice(captions.items(), 3):
            self.say(f"    {name}: {caption}")
        progress.best = best  # only now: a checkpoint before this line repeats the validation
        progress.next_epoch(record)
        self.manager.write(lambda: self.write_log(captions))

    @torch.inference_mode()
    def validation_loss(self, phase: Phase) -> float:
        """Mean loss per token over all validation captions, under the phase's objective."""
        total, count = torch.zeros((), device=self.device), 0
        loader = self.data.loader("val")
        batches = read(loader, self.world)
        batches_bar = bar(batches, total=len(loader), desc="validation", world=self.world)
        for number, batch in enumerate(batches_bar):
            self.state.note_broken(batch.broken)
            if batch.names:
                # The objective "random" samples tokens: the same ones in each epoch, and without
                # changing the random numbers of the training that follows.
                with seeded(self.config.train.seed + number, self.device):
                    total += self.loss(self.objective, batch, phase)
                count += self.objective.num_targets(batch)
            self.manager.between_steps()
        loss, tokens = self.world.sums([total.item(), count])
        return loss / max(tokens, 1)

    def compare(self) -> None:
        """Captions test images with the captioners of the run, and says how to use the result."""
        train_examples, shown = self.examples["train"], self.shown["test"]
        if shown:
            comparison.compare(
                self.config,
                self.folder,
                train_examples,
                shown,
                describe=self.describe,
                write=self.manager.write,
                say=self.say,
            )
        example = [*shown, *self.shown["val"], *train_examples[:1]][0]
        self.say(comparison.closing_words(self.folder, example))

    # Helpers ------------------------------------------------------------------------------------

    def choose_shown(self) -> None:
        """Chooses the images to caption; a broken validation image shows before training."""
        self.shown, broken = choose_shown(self.config, self.examples, world=self.world)
        if self.world.is_first:
            self.state.note_broken(broken)

    def prepare_data(self) -> None:
        """Runs `TrainingData.prepare`, and makes the loader of what that prepared."""
        self.data.prepare(folder=self.folder, precision=self.precision, say=self.say)
        self.batches = self.data.loader("train")

    def advise(self) -> None:
        """Prints warnings about settings and data with which training may go badly."""
        for line in advice(self.config, self.examples, steps=self.num_steps):
            self.say(line)

    def describe(self, captioner: Captioner, examples: list[Example]) -> dict[str, str]:
        """Captions of the examples whose pictures can be read, by the examples' names."""
        captioner, between_steps = captioner.to(self.device), self.manager.between_steps
        return report.describe(captioner, examples, self.state, between_batches=between_steps)

    def write_captioners(self, *, is_best: bool) -> None:
        """Writes the captioner to `last/`, and where else it is to be kept."""
        if is_best:
            save_run(self.folder, self.captioner)
        save_run(self.folder / LAST_FOLDER, self.captioner)
        if self.config.train.keep_captioners:
            save_run(self.folder / EPOCHS_FOLDER / f"{self.progress.epoch + 1:03}", self.captioner)

    def write_log(self, captions: dict[str, str]) -> None:
        """Writes the log and its pictures."""
        shown, skip_broken = self.shown["val"], self.config.data.skip_broken
        records = self.progress.records
        report.write_log(self.folder, records, shown, captions, skip_broken=skip_broken)

    def check_finite(self, loss: float, norm: float, lr: float, *, during: str) -> None:
        """Raises UserError if training has diverged, before any of it is saved."""
        if not math.isfinite(loss) or self.precision.failed(norm):
            during = f"epoch {self.progress.epoch + 1}, {during}"
            self.manager.give_up(report.divergence(during, loss, norm, lr, self.config.train))

    def say(self, line: str) -> None:
        if self.world.is_first:
            say(line)


if __name__ == "__main__":
    main()
