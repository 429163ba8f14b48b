"""Reports on a run: captions of a few images, their statistics, log lines and two pictures."""

import shlex
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from PIL import Image

from smile.captioning.contact_sheet import TILE, Shown, Told, contact_sheet
from smile.captioning.marks import false_words
from smile.config import TrainConfig
from smile.data.batches import Broken, Example, read_picture
from smile.data.shapes import Scene, check_caption
from smile.errors import counted
from smile.model.captioner import Caption, Captioner
from smile.system.distributed import World
from smile.system.files import json_line, write_atomically
from smile.training.checkpointing.state import Progress, RunState
from smile.training.console import bar
from smile.training.loss_chart import loss_curve
from smile.training.schedule import Phase
from smile.weights.run_folder import LOG

SHEET = 12  # images on a contact sheet


def describe(
    captioner: Captioner,
    examples: Sequence[Example],
    run: RunState,
    *,
    between_batches: Callable[[], None],
    batch_size: int = 64,
) -> dict[str, str]:
    """Captions of the examples whose pictures can be read, by the examples' names.

    The settings of `captioner` hold; it need not be the captioner that `run` trains. The processes
    of the run share the work, and all return the whole result.

    Raises:
        BrokenImage: a picture cannot be read, and `data.skip_broken` is false.
    """
    world, skip_broken = run.world, run.captioner.config.data.skip_broken
    captions: list[str | Broken] = []
    starts = range(0, len(examples), batch_size * world.size)
    for start in bar(starts, desc="captions", unit=" batches", world=world):
        rows = range(start, min(start + batch_size * world.size, len(examples)))
        local_rows = rows[world.rank :: world.size]
        read = {row: read_picture(examples[row], skip_broken=skip_broken) for row in local_rows}
        pictures = {row: p for row, p in read.items() if not isinstance(p, Broken)}
        found: list[list[Caption]] = []
        if pictures:
            found = captioner.describe(list(pictures.values()), seeds=list(pictures), num_return=1)
        results: dict[int, str | Broken] = {
            row: best.text for row, [best, *_] in zip(pictures, found, strict=True)
        }
        results |= {row: p for row, p in read.items() if isinstance(p, Broken)}
        shares = world.gather([results[row] for row in local_rows])
        captions += [shares[i % world.size][i // world.size] for i in range(len(rows))]
        between_batches()
    if world.is_first:
        run.note_broken(caption for caption in captions if isinstance(caption, Broken))
    pairs = zip(examples, captions, strict=True)
    return {ex.name: text for ex, text in pairs if not isinstance(text, Broken)}


def summarise(captions: Mapping[str, str], examples: Sequence[Example]) -> dict:
    """Mean length, distinct words and, where the scenes are known, the share of true statements.

    Empty where there are no captions.

    Args:
        captions: by the examples' names; an example without one is left out.
    """
    if not captions:
        return {}
    words = [caption.split() for caption in captions.values()]
    summary = {
        "caption_words": sum(map(len, words)) / len(words),
        "distinct_words": len({word for caption in words for word in caption}),
    }
    scenes = [scene for scene in examples if isinstance(scene, Scene) and scene.name in captions]
    if scenes:
        statements = [s for scene in scenes for s in check_caption(captions[scene.name], scene)]
        summary["statements"] = len(statements)
        summary["true_share"] = sum(s.true for s in statements) / max(1, len(statements))
    return summary


def summary_line(summary: dict) -> str:
    """What `summarise` found, in words; "" for nothing."""
    if not summary:
        return ""
    line = f"{summary['caption_words']:.1f} words a caption, {summary['distinct_words']} distinct"
    if "true_share" in summary:
        statements = counted(summary["statements"], "statement")
        line += f", {summary['true_share']:.1%} of {statements} true"
    return line


def size_line(captioner: Captioner, examples: Mapping[str, Sequence], world: World) -> str:
    """How large the captioner and the splits are, and where it trains."""
    size = sum(weight.numel() for weight in captioner.parameters())
    counts = ", ".join(f"{len(part)} {split}" for split, part in examples.items())
    where = f"{captioner.device}" + f" x {world.size}" * (world.size > 1)
    return f"{size / 1e6:.1f} M parameters on {where}; images: {counts}"


def epoch_record(
    progress: Progress, phase: Phase, config: TrainConfig, *, lr: float, val_loss: float | None
) -> dict[str, Any]:
    """What training and validation have to say for log.jsonl; `lr` is that of the last step."""
    return {
        "epoch": progress.epoch + 1,
        "epochs": config.epochs,
        "objective": phase.objective,
        "lr": lr,
        "train_loss": progress.loss / max(progress.tokens, 1),
        "val_loss": val_loss,
        "seconds": round(progress.seconds, 2),
        "data_wait": round(progress.waited / max(progress.seconds, 1e-9), 3),
        "images_per_second": round(progress.images / max(progress.seconds, 1e-9), 1),
    }


def epoch_line(record: dict) -> str:
    """What an epoch's record says, for people."""
    val_loss = "" if record["val_loss"] is None else f", validation {record['val_loss']:.3f}"
    parts = [
        f"epoch {record['epoch']}/{record['epochs']} {record['objective']}: "
        f"loss {record['train_loss']:.3f}{val_loss}, "
        f"{record['images_per_second']:.0f} images/s, {record['seconds']:.0f} s "
        f"({record['data_wait']:.0%} waiting for data)"
    ]
    if record["broken_images"]:
        parts.append(f"{counted(record['broken_images'], 'broken image')} skipped so far")
    if "caption_words" in record:
        parts.append(summary_line(record))
    return "; ".join(parts)


def divergence(where: str, loss: float, norm: float, lr: float, config: TrainConfig) -> str:
    """What to say when a step's loss or gradient is not a number any more, and why that may be."""
    causes = [f"a learning rate too high (here {lr:.1e}, at most train.lr = {config.lr:g})"]
    if config.grad_clip == 0:
        causes.append("gradients not clipped (train.grad_clip = 0)")
    if config.warmup_steps == 0:
        causes.append("no warm-up (train.warmup_steps = 0)")
    causes.append("weights or pictures that were not finite to begin with")
    return (
        f"{where}: the loss is {loss}, the norm of its gradient {norm}: stopped, and nothing of "
        f"this step was saved; likely causes: {', '.join(causes)}"
    )


def out_of_memory(config: TrainConfig, device: object) -> str:
    """The message if a step does not fit in the device's memory."""
    return (
        f"{device} has too little memory for train.batch_size = {config.batch_size}: try "
        f"{max(1, config.batch_size // 2)} with train.accumulate = {2 * config.accumulate}, which "
        "learns the same; or raise train.checkpoint_blocks"
    )


def command_to_try(folder: Path, example: Example) -> str:
    """A command that shows what the captioner in `folder` has learned, on such an example."""
    run = shlex.quote(str(folder))
    if not isinstance(example, Scene):
        return f"python sample.py {shlex.quote(example.name)} --model {run}"
    scenes = shlex.quote(str(folder / "scenes"))
    draw = f"python -m smile.data draw {scenes} --count {SHEET}"
    return f"{draw} && python sample.py {scenes} --model {run}"


def write_log(
    folder: Path,
    records: Sequence[dict],
    examples: Sequence[Example],
    captions: Mapping[str, str],
    *,
    skip_broken: bool,
) -> None:
    """`log.jsonl`, a line for each validation, and the pictures of the last one."""
    log = b"".join(map(json_line, records))
    write_atomically(folder / LOG, lambda path: path.write_bytes(log))
    draw_captions(folder / "samples.png", examples, {"": captions}, skip_broken=skip_broken)
    loss_curve(records, folder / "loss.png")


def draw_captions(
    path: Path,
    examples: Sequence[Example],
    columns: Mapping[str, Mapping[str, str]],
    *,
    skip_broken: bool,
) -> None:
    """A sheet of the first images, each with its caption from every one of the `columns`.

    Args:
        examples: those that cannot be read, or lack a caption, are left out. What is false of a
            scene is marked.
        columns: captions by the examples' names, for each captioner's label.
    """
    shown: list[Shown] = []
    for example in examples:
        if len(shown) == SHEET:
            break
        if not all(example.name in captions for captions in columns.values()):
            continue
        told = [
            _told(label, captions[example.name], example) for label, captions in columns.items()
        ]
        if isinstance(example, Scene):
            picture: Image.Image | Broken = example.read(TILE)  # sharp, where it is enlarged
        else:
            picture = read_picture(example, skip_broken=skip_broken)
        if isinstance(picture, Image.Image):
            shown.append(Shown(image=picture, name=example.name, captions=told))
    if shown:
        contact_sheet(shown, path)


def _told(label: str, caption: str, example: Example) -> Told:
    """A caption, with its false words where the example is a scene, of which the truth is known."""
    false = false_words(caption, example) if isinstance(example, Scene) else ()
    return Told(text=caption, label=label, false=frozenset(false))
