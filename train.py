"""Train a captioner.

    python train.py configs/shapes.toml
    python train.py configs/flickr8k.toml --set train.batch_size=8 --set data.root=photos

A run may begin with some epochs of MLE and go on with SMILE, which needs a start that already
speaks. Each of the two has its own warm-up and cosine; the captioner is kept as it was at the
switch, and at the end both describe the same test images side by side.
"""

import argparse
import json
import math
import sys
import time
from collections.abc import Iterable, Iterator
from itertools import islice
from pathlib import Path

import torch
from torch import Tensor
from torch.utils.data import DataLoader
from tqdm import tqdm

from smile.captioner import Captioner
from smile.checkpoint import is_run, load_run, save_run, write_atomically
from smile.config import describe_config, load_config
from smile.data import Batch, load_examples
from smile.device import pick_device
from smile.errors import UserError
from smile.training.loader import make_loader
from smile.training.objective import Objective
from smile.training.precision import Precision
from smile.training.report import (
    describe,
    draw_comparison,
    draw_epoch,
    epoch_line,
    summarise,
    summary_line,
)
from smile.training.schedule import Phase
from smile.training.setup import make_captioner

STATE = "training.pt"  # weights, optimiser and position after the last finished epoch
MLE_FOLDER, LAST_FOLDER = "mle", "last"  # the captioner at the switch, and after the last epoch


def main() -> None:
    args = parse_args()
    try:
        config = load_config(args.config, args.set)
        folder = run_folder(args)
        torch.manual_seed(config.train.seed)
        examples = {
            split: load_examples(config.data, split, image_size=config.vit.image_size)
            for split in ("train", "val", "test")
        }
        trainer = Trainer(make_captioner(config, examples["train"]), folder, examples)
        if args.resume:
            trainer.resume()
        trainer.run()
    except UserError as error:
        print(f"train.py: {error}", file=sys.stderr)
        sys.exit(2)


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog="settings of CONFIG.toml, and of --set:\n\n" + describe_config(),
    )
    parser.add_argument("config", metavar="CONFIG.toml", help="what to train on what, and how")
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
    parser.add_argument("--resume", action="store_true", help="go on with an interrupted run")
    return parser.parse_args()


def run_folder(args: argparse.Namespace) -> Path:
    """Where the run lives: never a folder that holds another, unless it is to be resumed."""
    folder = args.out or Path("runs") / Path(args.config).stem
    started = (folder / STATE).exists()
    if args.resume and not started:
        raise UserError(f"--resume: {folder} holds no interrupted run ({STATE} is missing)")
    if args.resume or not started:
        return folder
    if args.out:
        raise UserError(
            f"--out {folder} holds a run: add --resume to go on with it, or name another"
        )
    number = next(n for n in range(2, 10**6) if not Path(f"{folder}-{n}").exists())
    print(
        f"{folder} holds a run; this one goes to {folder}-{number} (--resume goes on with the old)"
    )
    return Path(f"{folder}-{number}")


class Trainer:
    """One run: the captioner, its optimiser, the data, and the folder it writes."""

    def __init__(self, captioner: Captioner, folder: Path, examples: dict[str, list]):
        self.config = config = captioner.config
        self.folder = folder
        self.examples = examples
        self.device = pick_device(config.train.device)
        self.captioner = captioner.to(self.device)
        self.objective = Objective(self.captioner)
        self.precision = Precision(config.train.precision, self.device)
        self.optimizer = torch.optim.AdamW(
            captioner.parameters(),
            lr=config.train.lr,
            betas=config.train.betas,
            weight_decay=config.train.weight_decay,
            fused=True,
        )
        self.batches = self.make_loader("train")
        self.broken: set[str] = set()  # names of the images skipped as unreadable
        self.records: list[dict] = []  # one per finished epoch, as in log.jsonl
        self.best = math.inf  # validation loss of the best epoch under the present objective

    def run(self) -> None:
        """Trains the epochs that remain, then compares MLE and SMILE on the test images."""
        epochs = self.config.train.epochs
        size = sum(p.numel() for p in self.captioner.parameters())
        counts = ", ".join(f"{len(part)} {name}" for name, part in self.examples.items())
        print(f"{size / 1e6:.1f} M parameters on {self.device}; images: {counts}; → {self.folder}")
        for epoch in range(len(self.records), epochs):
            phase = Phase.of(self.config, epoch)
            if epoch == phase.first_epoch:
                self.best = math.inf  # losses of different objectives do not compare
                if epoch > 0:
                    save_run(self.folder / MLE_FOLDER, self.captioner)
                    print(f"switch to {phase.objective}: the MLE captioner is kept in "
                          f"{self.folder / MLE_FOLDER}")  # fmt: skip
            self.finish_epoch(self.train_epoch(epoch, phase), phase)
        self.compare()

    def train_epoch(self, epoch: int, phase: Phase) -> dict:
        """One pass over every caption; returns the first half of the epoch's record."""
        config = self.config.train
        self.captioner.train()
        sampler = self.batches.batch_sampler
        sampler.set_epoch(epoch)
        steps = math.ceil(len(sampler) / config.accumulate)
        total = torch.zeros((), device=self.device)
        tokens = images = 0
        started = time.perf_counter()
        title = f"epoch {epoch + 1}/{config.epochs} {phase.objective}"
        with tqdm(total=sampler.num_groups, desc=title, unit=" images", leave=False) as bar:
            for step, batches in enumerate(in_groups(self.batches, config.accumulate)):
                lr = phase.learning_rate(config, epoch=epoch, step=step, steps=steps)
                loss, count = self.step(batches, phase, lr)
                total, tokens = total + loss, tokens + count
                images += sum(len(batch.names) for batch in batches)
                bar.set_postfix(loss=f"{loss.item() / max(count, 1):.3f}", lr=f"{lr:.1e}")
                bar.update(sum(len(batch.names) + len(batch.broken) for batch in batches))
        seconds = time.perf_counter() - started
        return {
            "epoch": epoch + 1,
            "objective": phase.objective,
            "lr": lr,
            "train_loss": total.item() / max(tokens, 1),
            "seconds": round(seconds, 2),
            "images_per_second": round(images / seconds, 1),
            "broken_images": len(self.broken),
        }

    def step(self, batches: list[Batch], phase: Phase, lr: float) -> tuple[Tensor, int]:
        """One optimiser step on one or more batches; returns their summed loss and token count.

        The loss is divided by the tokens of all the batches together, so accumulating over several
        gives the gradient of one large batch, whatever the captions' lengths.
        """
        config = self.config.train
        for group in self.optimizer.param_groups:
            group["lr"] = lr
        for broken in (item for batch in batches for item in batch.broken):
            if broken.name not in self.broken:
                tqdm.write(f"skipped: {broken.reason}")
                self.broken.add(broken.name)
        batches = [batch for batch in batches if batch.names]
        count = sum(self.objective.num_targets(batch) for batch in batches)
        total = torch.zeros((), device=self.device)
        for batch in batches:
            loss = self.loss(batch, phase.objective)
            self.precision.backward(loss / max(count, 1))
            total += loss.detach()
        self.precision.step(self.optimizer, self.captioner.parameters(), config.grad_clip)
        self.optimizer.zero_grad(set_to_none=True)
        return total, count

    def loss(self, batch: Batch, objective: str) -> Tensor:
        """The objective summed over the batch's tokens."""
        with self.precision.autocast():
            return self.objective(batch.to(self.device), objective)

    def finish_epoch(self, record: dict, phase: Phase) -> None:
        """Validates, then writes log, pictures and checkpoints."""
        self.captioner.eval()
        record["val_loss"] = self.validation_loss(phase)
        shown = self.examples["val"][: self.config.train.caption_images or None]
        captions = describe(self.captioner, shown)
        record |= summarise(captions, shown)
        record["captions"] = dict(zip([ex.name for ex in shown], captions, strict=True))
        self.records.append(record)
        tqdm.write(epoch_line(record, self.config.train.epochs))
        for example, caption in list(zip(shown, captions, strict=True))[:3]:
            tqdm.write(f"    {example.name}: {caption}")

        if record["val_loss"] < self.best:
            self.best = record["val_loss"]
            save_run(self.folder, self.captioner)
        save_run(self.folder / LAST_FOLDER, self.captioner)
        lines = "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in self.records)
        write_atomically(self.folder / "log.jsonl", lambda path: path.write_text(lines, "utf-8"))
        draw_epoch(self.folder, self.records, shown, captions)
        self.save_state()

    @torch.inference_mode()
    def validation_loss(self, phase: Phase) -> float:
        """Mean loss per token over all validation captions, under the phase's objective."""
        total, count = torch.zeros((), device=self.device), 0
        for batch in tqdm(self.make_loader("val"), desc="validation", unit=" batches", leave=False):
            if batch.names:
                total += self.loss(batch, phase.objective)
                count += self.objective.num_targets(batch)
        return total.item() / max(count, 1)

    def make_loader(self, split: str) -> DataLoader:
        return make_loader(
            self.captioner,
            self.examples[split],
            training=split == "train",
            pin_memory=self.device.type == "cuda",
        )

    def save_state(self) -> None:
        """All that `resume` needs, in one file, so that weights and optimiser always agree."""
        state = {
            "model": self.captioner.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "records": self.records,
            "best": self.best,
            "rng": torch.get_rng_state(),
        }
        write_atomically(self.folder / STATE, lambda path: torch.save(state, path))

    def resume(self) -> None:
        """Goes back to the end of the last finished epoch."""
        state = torch.load(self.folder / STATE, map_location=self.device, weights_only=True)
        self.captioner.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.records, self.best = state["records"], state["best"]
        torch.set_rng_state(state["rng"].cpu())
        print(f"resuming {self.folder} after epoch {len(self.records)}")

    def compare(self) -> None:
        """Describes test images with the MLE and the final captioner: two lines and a picture."""
        shown = self.examples["test"][: self.config.train.caption_images or None]
        contenders = {self.config.loss.objective.upper(): self.folder}
        if is_run(self.folder / MLE_FOLDER):
            contenders = {"MLE": self.folder / MLE_FOLDER} | contenders
        print(f"\non {len(shown)} test images:")
        columns = {}
        for label, folder in contenders.items():
            columns[label] = describe(load_run(folder).to(self.device), shown)
            print(f"  {label:<6} {summary_line(summarise(columns[label], shown))}")
        draw_comparison(self.folder / "comparison.png", shown, columns)
        print(
            f"\n{self.folder} holds the captioner, log.jsonl, samples.png, comparison.png, loss.png"
        )
        print(f"try it: python sample.py PHOTO --model {self.folder}")


def in_groups(batches: Iterable[Batch], size: int) -> Iterator[list[Batch]]:
    """Successive lists of `size` batches, the last one perhaps shorter."""
    iterator = iter(batches)
    while group := list(islice(iterator, size)):
        yield group


if __name__ == "__main__":
    main()
