"""How a run fares: captions of a few images, what can be said of them, a line and two pictures."""

from collections.abc import Sequence
from pathlib import Path

from tqdm import tqdm

from smile.captioner import Captioner
from smile.data import Example
from smile.data.shapes import Scene, check_caption
from smile.pictures import contact_sheet, loss_curve

SHEET = 12  # images on a contact sheet


def describe(captioner: Captioner, examples: Sequence[Example], batch_size: int = 64) -> list[str]:
    """A caption for each example, by the run's own search settings."""
    captions: list[str] = []
    for start in tqdm(
        range(0, len(examples), batch_size), desc="captions", unit=" batches", leave=False
    ):
        batch = examples[start : start + batch_size]
        captions += captioner.caption([example.read() for example in batch])
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
        f"{record['images_per_second']:.0f} images/s, {record['seconds']:.0f} s; "
    )
    if record["broken_images"]:
        line += f"{record['broken_images']} broken images skipped so far; "
    return line + summary_line(record)


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
