"""How a run fares: captions of a few images, what can be said of them, a line and two pictures."""

import shlex
from collections.abc import Callable, Sequence
from pathlib import Path

from smile.captioner import Captioner
from smile.config import TrainConfig
from smile.data import Example
from smile.data.shapes import Scene, check_caption
from smile.distributed import World
from smile.pictures import contact_sheet, loss_curve
from smile.training.console import bar

SHEET = 12  # images on a contact sheet


def describe(
    captioner: Captioner,
    examples: Sequence[Example],
    *,
    world: World | None = None,
    pause: Callable[[], None] = lambda: None,
    batch_size: int = 64,
) -> list[str]:
    """A caption for each example, by the run's own search settings.

    The processes of `world` share the work, and all have its outcome. `pause` is called between
    batches.
    """
    world = world or World()
    captions: list[str] = []
    starts = range(0, len(examples), batch_size * world.size)
    for start in bar(starts, desc="captions", unit=" batches", world=world):
        rows = range(start, min(start + batch_size * world.size, len(examples)))
        own = rows[world.rank :: world.size]
        images = [examples[row].read() for row in own]
        texts = captioner.caption(images, seeds=own, num_return=1) if images else []
        shares = world.gather(texts)
        captions += [shares[i % world.size][i // world.size] for i in range(len(rows))]
        pause()
    return captions


def summarise(captions: list[str], examples: Sequence[Example]) -> dict:
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
        f"{record['images_per_second']:.0f} images/s, {record['seconds']:.0f} s "
        f"({record['data_wait']:.0%} waiting for data); "
    )
    if record["broken_images"]:
        line += f"{record['broken_images']} broken images skipped so far; "
    return line + summary_line(record)


def divergence(*, where: object, loss: float, norm: float, lr: float, config: TrainConfig) -> str:
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


def command_to_try(folder: Path, example: Example) -> str:
    """A command that shows what the captioner in `folder` has learned, on such an example."""
    run = shlex.quote(str(folder))
    if not isinstance(example, Scene):
        return f"python sample.py {shlex.quote(example.name)} --model {run}"
    scenes = shlex.quote(str(folder / "scenes"))
    draw = f"python -m smile.data draw {scenes} --count {SHEET}"
    return f"{draw} && python sample.py {scenes} --model {run}"


def draw_epoch(
    folder: Path, records: Sequence[dict], examples: Sequence[Example], captions: Sequence[str]
) -> None:
    """`samples.png`, the first few images with their captions, and `loss.png`."""
    images = [example.read() for example in examples[:SHEET]]
    contact_sheet(images, [[text] for text in captions[:SHEET]], folder / "samples.png")
    loss_curve(records, folder / "loss.png")


def draw_comparison(
    path: Path, examples: Sequence[Example], columns: dict[str, Sequence[str]]
) -> None:
    """The first few images with each captioner's caption, `columns` by the captioner's label."""
    labelled = [[f"{label}: {text}" for text in texts] for label, texts in columns.items()]
    texts = list(zip(*labelled, strict=True))
    images = [example.read() for example in examples[:SHEET]]
    contact_sheet(images, texts[:SHEET], path)
