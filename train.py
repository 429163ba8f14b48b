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
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader
from tqdm import tqdm

from smile.captioner import Captioner
from smile.checkpoint import is_run, load_run, save_run, write_atomically
from smile.config import Config, describe_config, load_config
from smile.data import Batch, CaptionDataset, Collate, EpochBatches, load_examples
from smile.data.shapes import Scene, check_caption
from smile.device import pick_device
from smile.errors import UserError
from smile.loss import IGNORE, caption_loss
from smile.pictures import contact_sheet, loss_curve
from smile.pretrained import load
from smile.tokenizer import Tokenizer

STATE = "training.pt"  # weights, optimiser and position after the last finished epoch
MLE_FOLDER, LAST_FOLDER = "mle", "last"  # the captioner at the switch, and after the last epoch
SHEET = 12  # images on a contact sheet


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


def make_captioner(config: Config, train_examples: list) -> Captioner:
    """The captioner to train: from nothing, or from `model.init`."""
    if config.model.init:
        captioner = load(
            config.model.init,
            image_size=config.vit.image_size,
            vocab=config.tokenizer.vocab or None,
            drop_path=config.vit.drop_path,
            dropout=config.decoder.dropout,
        )
        sizes = captioner.config
        captioner.config = replace(config, vit=sizes.vit, decoder=sizes.decoder)
        return captioner
    if config.tokenizer.vocab:
        tokenizer = Tokenizer.from_vocab(config.tokenizer.vocab)
    else:
        texts = [config.data.prompt + text for ex in train_examples for text in ex.captions]
        tokenizer = Tokenizer.train(texts, vocab_size=config.tokenizer.vocab_size)
    if config.decoder.vocab_size not in (0, tokenizer.vocab_size):
        raise UserError(
            f"decoder.vocab_size = {config.decoder.vocab_size}, but the tokenizer has "
            f"{tokenizer.vocab_size} entries; set it to 0 to follow the tokenizer"
        )
    decoder = replace(config.decoder, vocab_size=tokenizer.vocab_size, features_dim=config.vit.dim)
    config = replace(config, decoder=decoder)
    return Captioner(config=config, tokenizer=tokenizer).init_weights()


@dataclass(frozen=True)
class Phase:
    """A stretch of epochs with one objective, its own warm-up and cosine."""

    objective: str
    first_epoch: int
    epochs: int

    @classmethod
    def of(cls, config: Config, epoch: int) -> "Phase":
        """The phase that holds `epoch` (counted from 0)."""
        loss, total = config.loss, config.train.epochs
        if loss.objective == "mle" or loss.mle_epochs == 0:
            return cls(loss.objective, 0, total)
        if epoch < loss.mle_epochs:
            return cls("mle", 0, loss.mle_epochs)
        return cls(loss.objective, loss.mle_epochs, total - loss.mle_epochs)


def learning_rate(step: int, total: int, *, lr: float, min_lr: float, warmup: int) -> float:
    """Linear warm-up to `lr`, then a half cosine down to `min_lr` at step `total - 1`."""
    if step < warmup:
        return lr * (step + 1) / warmup
    progress = (step - warmup) / max(1, total - 1 - warmup)
    return min_lr + (lr - min_lr) * 0.5 * (1 + math.cos(math.pi * min(progress, 1)))


class Trainer:
    """One run: the captioner, its optimiser, the data, and the folder it writes."""

    def __init__(self, captioner: Captioner, folder: Path, examples: dict[str, list]):
        self.config = config = captioner.config
        self.folder = folder
        self.examples = examples
        self.device = pick_device(config.train.device)
        self.captioner = captioner.to(self.device)
        precision = config.train.precision
        self.bfloat16 = precision == "bfloat16" or (
            precision == "auto" and self.device.type == "cuda"
        )
        self.optimizer = torch.optim.AdamW(
            captioner.parameters(),
            lr=config.train.lr,
            betas=config.train.betas,
            weight_decay=config.train.weight_decay,
            fused=True,
        )
        self.prompt_length = len(captioner.tokenizer.prompt_ids(config.data.prompt))
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
                lr = learning_rate(
                    (epoch - phase.first_epoch) * steps + step,
                    phase.epochs * steps,
                    lr=config.lr,
                    min_lr=config.min_lr,
                    warmup=config.warmup_steps,
                )
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
        for group in self.optimizer.param_groups:
            group["lr"] = lr
        for broken in (item for batch in batches for item in batch.broken):
            if broken.name not in self.broken:
                tqdm.write(f"skipped: {broken.reason}")
                self.broken.add(broken.name)
        batches = [batch.to(self.device) for batch in batches if batch.names]
        count = sum(self.num_targets(batch) for batch in batches)
        total = torch.zeros((), device=self.device)
        for batch in batches:
            loss = self.loss(batch, phase.objective)
            (loss / max(count, 1)).backward()
            total += loss.detach()
        if self.config.train.grad_clip > 0:
            nn.utils.clip_grad_norm_(self.captioner.parameters(), self.config.train.grad_clip)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        return total, count

    def labels(self, ids: Tensor) -> Tensor:
        """(B, K, T) ids → (B·K, T - prompt) ids to predict, -100 at padding."""
        labels = ids.flatten(0, 1)[:, self.prompt_length :]
        return labels.masked_fill(labels == self.captioner.pad_id, IGNORE)

    def num_targets(self, batch: Batch) -> int:
        return int((self.labels(batch.ids) != IGNORE).sum())

    def loss(self, batch: Batch, objective: str) -> Tensor:
        """The objective summed over the batch's tokens."""
        config, decoder = self.config.loss, self.captioner.decoder
        groups = batch.ids_by_length()
        total = torch.zeros((), device=self.device)
        with torch.autocast(self.device.type, dtype=torch.bfloat16, enabled=self.bfloat16):
            all_states = self.captioner(batch.images, [ids[:, :, :-1] for ids in groups])
            for ids, states in zip(groups, all_states, strict=True):
                total = total + caption_loss(
                    states[:, self.prompt_length - 1 :],
                    self.labels(ids),
                    weight=decoder.word_embed.weight,
                    bias=decoder.head_bias,
                    objective=objective,
                    mle_weight=config.mle_weight,
                    label_smoothing=config.label_smoothing,
                    first_token_mle=config.first_token == "mle",
                    num_random=config.num_random,
                    reduction="sum",
                )
        return total

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
        images = [example.read() for example in shown[:SHEET]]
        contact_sheet(images, [[text] for text in captions[:SHEET]], self.folder / "samples.png")
        loss_curve(self.records, self.folder / "loss.png")
        self.save_state()

    @torch.inference_mode()
    def validation_loss(self, phase: Phase) -> float:
        """Mean loss per token over all validation captions, under the phase's objective."""
        total, count = torch.zeros((), device=self.device), 0
        for batch in tqdm(self.make_loader("val"), desc="validation", unit=" batches", leave=False):
            if batch.names:
                batch = batch.to(self.device)
                total += self.loss(batch, phase.objective)
                count += self.num_targets(batch)
        return total.item() / max(count, 1)

    def make_loader(self, split: str) -> DataLoader:
        """Batches of one split; augmented and shuffled for training, in order otherwise."""
        config, data = self.config.train, self.config.data
        training = split == "train"
        transform = self.captioner.transform
        if training and data.augment:
            from smile.data.augment import (
                TrainTransform,
            )  # imports torchvision, which takes seconds

            transform = TrainTransform(self.config.vit.image_size)
        return DataLoader(
            CaptionDataset(
                self.examples[split], transform, seed=config.seed, skip_broken=data.skip_broken
            ),
            batch_sampler=EpochBatches(
                self.examples[split],
                batch_size=config.batch_size,
                captions_per_image=data.captions_per_image,
                seed=config.seed,
                shuffle=training,
            ),
            collate_fn=Collate(
                self.captioner.tokenizer,
                prompt=data.prompt,
                max_tokens=data.max_tokens,
                shift_first=self.config.loss.first_token == "shift",
            ),
            num_workers=config.workers,
            pin_memory=self.device.type == "cuda",
            persistent_workers=training and config.workers > 0,
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
        labelled = [[f"{label}: {text}" for text in texts] for label, texts in columns.items()]
        texts = list(zip(*labelled, strict=True))
        images = [example.read() for example in shown[:SHEET]]
        contact_sheet(images, texts[:SHEET], self.folder / "comparison.png")
        print(
            f"\n{self.folder} holds the captioner, log.jsonl, samples.png, comparison.png, loss.png"
        )
        print(f"try it: python sample.py PHOTO --model {self.folder}")


def in_groups(batches: Iterable[Batch], size: int) -> Iterator[list[Batch]]:
    """Successive lists of `size` batches, the last one perhaps shorter."""
    iterator = iter(batches)
    while group := list(islice(iterator, size)):
        yield group


def describe(captioner: Captioner, examples: Sequence, batch_size: int = 64) -> list[str]:
    """A caption for each example, by the run's own search settings."""
    captions: list[str] = []
    for start in tqdm(
        range(0, len(examples), batch_size), desc="captions", unit=" batches", leave=False
    ):
        batch = examples[start : start + batch_size]
        captions += captioner.caption([example.read() for example in batch])
    return captions


def summarise(captions: list[str], examples: Sequence) -> dict:
    """Mean length, distinct words and, where the scenes are known, the share of true statements."""
    words = [caption.split() for caption in captions]
    summary = {
        "caption_words": sum(map(len, words)) / len(words),
        "distinct_words": len({word for caption in words for word in caption}),
    }
    pairs = list(zip(captions, examples, strict=True))
    if all(isinstance(example, Scene) for example in examples):
        statements = [s for caption, scene in pairs for s in check_caption(caption, scene)]
        summary["statements"] = len(statements)
        summary["true_share"] = sum(s.true for s in statements) / max(1, len(statements))
    return summary


def summary_line(summary: dict) -> str:
    line = f"{summary['caption_words']:.1f} words a caption, {summary['distinct_words']} distinct"
    if "true_share" in summary:
        line += f", {summary['true_share']:.1%} of {summary['statements']} statements true"
    return line


def epoch_line(record: dict, epochs: int) -> str:
    line = (
        f"epoch {record['epoch']}/{epochs} {record['objective']}: "
        f"loss {record['train_loss']:.3f}, validation {record['val_loss']:.3f}, "
        f"{record['images_per_second']:.0f} images/s, {record['seconds']:.0f} s; "
    )
    if record["broken_images"]:
        line += f"{record['broken_images']} broken images skipped so far; "
    return line + summary_line(record)


if __name__ == "__main__":
    main()
