"""Pictures of a run, drawn with Pillow alone: captioned images, and the losses over the epochs.

Charts are drawn at a multiple of their size and reduced, because Pillow's own lines are jagged.
"""

import math
from collections.abc import Sequence
from itertools import groupby
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

from smile.errors import UserError
from smile.system.files import check_writable, write_atomically, writing

PAPER = (255, 255, 255)
INK = (38, 42, 51)
FAINT = (125, 132, 145)
GRID = (229, 232, 237)
FRAME = (244, 245, 248)
BLUE = (47, 111, 222)
ORANGE = (226, 113, 29)
LABELS = (BLUE, ORANGE, (24, 138, 98), (150, 70, 190))  # report.html's --c0 to --c3 are these
PLACES = {"mle": 0, "smile": 1, "before": 2}  # of labels that have the same colour everywhere


def colour_numbers(labels: Sequence[str]) -> list[int]:
    """Which of `LABELS` each label has: some always their own (`PLACES`), the others the rest.

    Of a path the last part counts, so that the folder "runs/shapes/mle" is blue like "MLE".
    """
    fixed = [PLACES.get(Path(label).name.lower()) for label in labels]
    rest = [number for number in range(len(LABELS)) if number not in fixed] or [0]
    places, others = [], 0
    for number in fixed:
        if number is None:
            number = rest[others % len(rest)]
            others += 1
        places.append(number)
    return places


SUFFIXES = (".png", ".jpg", ".jpeg", ".webp")  # of what is saved


def contact_sheet(
    images: Sequence[Image.Image],
    captions: Sequence[Sequence[str]],
    path: str | Path,
    *,
    columns: int = 4,
    tile: int = 240,
) -> None:
    """Save images in rows, each `tile` pixels wide, with its captions wrapped beneath.

    A caption may start with a label, as in "SMILE: a red circle"; each label has its colour.

    Raises:
        ValueError: no images, or not one list of captions per image.
    """
    if not images or len(images) != len(captions):
        raise ValueError(f"{len(images)} images and {len(captions)} lists of captions")
    columns = min(columns, len(images))
    font_size = max(13, tile // 16)
    font = ImageFont.load_default(size=font_size)
    margin, gap, leading = tile // 8, tile // 12, round(font_size * 1.3)
    colours = _label_colours(captions)
    blocks = [[_wrap(text, font, tile) for text in texts] for texts in captions]
    heights = [sum(len(lines) * leading + leading // 3 for lines in block) for block in blocks]
    rows = range(0, len(images), columns)
    text_heights = [max(heights[first : first + columns]) for first in rows]

    width = 2 * margin + columns * tile + (columns - 1) * gap
    height = 2 * margin + sum(tile + gap // 2 + h for h in text_heights) + gap * (len(rows) - 1)
    sheet = Image.new("RGB", (width, height), PAPER)
    draw = ImageDraw.Draw(sheet)
    top = margin
    for first, text_height in zip(rows, text_heights, strict=True):
        for column, index in enumerate(range(first, min(first + columns, len(images)))):
            left = margin + column * (tile + gap)
            sheet.paste(_fit(images[index], tile), (left, top))
            y = top + tile + gap // 2
            for lines in blocks[index]:
                for number, line in enumerate(lines):
                    _draw_caption_line(draw, (left, y), line, font, colours if not number else {})
                    y += leading
                y += leading // 3
        top += tile + gap // 2 + text_height + gap
    _save(sheet, path)


def attention_sheet(
    image: Image.Image,
    words: Sequence[tuple[str, float, Sequence[Sequence[float]]]],
    path: str | Path,
    *,
    columns: int = 6,
    tile: int = 200,
) -> None:
    """Save an image once plain and once for each word, where its heat map lets the image shine.

    Each word comes with its log-probability, shown as a probability, and its map: rows of numbers,
    of which only the proportions matter. What was looked at little is darkened.
    """
    font = ImageFont.load_default(size=max(13, tile // 12))
    small = ImageFont.load_default(size=max(11, tile // 16))
    height = max(1, round(tile * image.height / image.width))
    photo = image.convert("RGB").resize((tile, height), Image.Resampling.LANCZOS)
    panels = [(photo, "image", "")]
    panels += [
        (_heated(photo, heat), word, f"{math.exp(logprob):.0%}") for word, logprob, heat in words
    ]
    columns = min(columns, len(panels))
    rows = -(-len(panels) // columns)
    margin, gap, label = tile // 8, tile // 12, round(font.size * 2.0)
    sheet = Image.new(
        "RGB",
        (
            2 * margin + columns * tile + (columns - 1) * gap,
            2 * margin + rows * (height + label) + (rows - 1) * gap,
        ),
        PAPER,
    )
    draw = ImageDraw.Draw(sheet)
    for index, (panel, word, probability) in enumerate(panels):
        left = margin + index % columns * (tile + gap)
        top = margin + index // columns * (height + label + gap)
        sheet.paste(panel, (left, top))
        below = top + height + font.size // 3
        draw.text((left, below), word, font=font, fill=INK)
        draw.text((left + tile, below), probability, font=small, fill=FAINT, anchor="ra")
    _save(sheet, path)


def _heated(photo: Image.Image, heat: Sequence[Sequence[float]]) -> Image.Image:
    """The photo, dark where `heat` is low, in full light with a warm tint where it is high."""
    low = min(map(min, heat))
    scale = 255 / max(max(map(max, heat)) - low, 1e-12)
    mask = Image.new("L", (len(heat[0]), len(heat)))
    mask.putdata([round((value - low) * scale) for row in heat for value in row])
    mask = mask.resize(photo.size, Image.Resampling.BICUBIC)
    dark = Image.blend(photo.convert("L").convert("RGB"), Image.new("RGB", photo.size), 0.65)
    warm = Image.blend(photo, Image.new("RGB", photo.size, (255, 120, 0)), 0.25)
    return Image.composite(warm, dark, mask)


def loss_curve(records: Sequence[dict], path: str | Path) -> None:
    """Save training and validation loss over the epochs as a line chart.

    Each record has `epoch`, `objective`, `train_loss` and `val_loss`. Each objective has its
    colour, for training a light one. Where the objective changes stands a vertical line, and the
    curves break: losses of two objectives cannot be compared. A loss that is missing or not finite
    leaves a gap.
    """
    chart = _Chart(records)
    chart.draw_axes()
    chart.draw_phases()
    for key, name, is_light in (
        ("train_loss", "training", True),
        ("val_loss", "validation", False),
    ):
        chart.draw_curve(key, is_light=is_light)
        chart.draw_legend(name, light(INK) if is_light else INK)
    _save(chart.finish(), path)


def light(colour: tuple[int, int, int]) -> tuple[int, int, int]:
    """The colour, half faded into the paper."""
    return tuple((part + paper) // 2 for part, paper in zip(colour, PAPER, strict=True))


def objective_colour(objective: str) -> tuple[int, int, int]:
    """MLE's, or that of SMILE, which its variants share: they take its place."""
    return LABELS[PLACES["mle" if objective == "mle" else "smile"]]


class _Chart:
    """A line chart of 960 x 540 pixels, drawn three times as large."""

    SCALE = 3
    WIDTH, HEIGHT = 960, 540
    LEFT, RIGHT, TOP, BOTTOM = 84, 36, 64, 64

    def __init__(self, records: Sequence[dict]) -> None:
        self.records = records
        self.image = Image.new("RGB", (self.WIDTH * self.SCALE, self.HEIGHT * self.SCALE), PAPER)
        self.draw = ImageDraw.Draw(self.image)
        self.font = ImageFont.load_default(size=16 * self.SCALE)
        self.legend_left = self.LEFT
        losses = [r.get(key) for r in records for key in ("train_loss", "val_loss")]
        self.step = _nice_step(max([x for x in losses if _is_finite(x)], default=1.0) / 5)
        top_loss = max([x for x in losses if _is_finite(x)], default=1.0)
        self.top_loss = self.step * max(1, math.ceil(top_loss / self.step))
        epochs = [record["epoch"] for record in records] or [0]
        self.first_epoch, self.last_epoch = min(epochs), max(epochs)

    def point(self, epoch: float, loss: float) -> tuple[float, float]:
        """Where a value stands, in pixels of the finished chart."""
        span = self.last_epoch - self.first_epoch
        # One epoch alone stands in the middle.
        across = (epoch - self.first_epoch + 0.25) / (span + 0.5) if span else 0.5
        x = self.LEFT + across * (self.WIDTH - self.LEFT - self.RIGHT)
        y = self.HEIGHT - self.BOTTOM
        return x, y - loss / self.top_loss * (y - self.TOP)

    def line(self, points: Sequence[tuple[float, float]], colour, width: float) -> None:
        scaled = [(x * self.SCALE, y * self.SCALE) for x, y in points]
        if len(scaled) < 2:  # a point alone is drawn as a dot
            return
        self.draw.line(scaled, fill=colour, width=round(width * self.SCALE), joint="curve")

    def text(self, x: float, y: float, text: str, anchor: str, colour=FAINT) -> None:
        where = (x * self.SCALE, y * self.SCALE)
        self.draw.text(where, text, fill=colour, font=self.font, anchor=anchor)

    def dot(self, x: float, y: float, colour, radius: float = 3.5) -> None:
        box = [(v + d) * self.SCALE for d in (-radius, radius) for v in (x, y)]
        self.draw.ellipse(box, fill=colour)

    def draw_axes(self) -> None:
        bottom, right = self.HEIGHT - self.BOTTOM, self.WIDTH - self.RIGHT
        decimals = max(0, -math.floor(math.log10(self.step) + 1e-9))
        for tick in range(round(self.top_loss / self.step) + 1):
            y = self.point(0, tick * self.step)[1]
            self.line([(self.LEFT, y), (right, y)], GRID if tick else FAINT, 1)
            self.text(self.LEFT - 10, y, f"{tick * self.step:.{decimals}f}", "rm")
        every = max(1, math.ceil(_nice_step((self.last_epoch - self.first_epoch) / 12 or 1)))
        for epoch in range(self.first_epoch, self.last_epoch + 1):
            if epoch % every == 0 or self.first_epoch == self.last_epoch:
                x = self.point(epoch, 0)[0]
                self.line([(x, bottom), (x, bottom + 5)], FAINT, 1)
                self.text(x, bottom + 10, str(epoch), "mt")
        self.text((self.LEFT + right) / 2, self.HEIGHT - 10, "epoch", "mb", INK)
        self.text(right, 20, "loss per token", "rt", INK)

    def draw_phases(self) -> None:
        """Each objective's name over its epochs, and a dashed line between two."""
        left = self.LEFT
        for objective, group in groupby(self.records, key=lambda record: record["objective"]):
            last = list(group)[-1]["epoch"]
            right = self.WIDTH - self.RIGHT
            if last != self.last_epoch:
                right = self.point(last + 0.5, 0)[0]
                for y in range(self.TOP, self.HEIGHT - self.BOTTOM, 10):
                    self.line([(right, y), (right, y + 5)], FAINT, 1.5)
            name, colour = objective.upper(), objective_colour(objective)
            self.text((left + right) / 2, self.TOP + 4, name, "mt", colour)
            left = right

    def draw_curve(self, key: str, *, is_light: bool) -> None:
        for objective, group in groupby(self.records, key=lambda record: record["objective"]):
            colour = objective_colour(objective)
            colour, points = light(colour) if is_light else colour, []
            for record in group:
                if not _is_finite(record.get(key)):
                    self.line(points, colour, 2.5)
                    points = []
                    continue
                points.append(self.point(record["epoch"], record[key]))
                self.dot(*points[-1], colour)
            self.line(points, colour, 2.5)

    def draw_legend(self, name: str, colour) -> None:
        x, y = self.legend_left, 28
        self.line([(x, y), (x + 28, y)], colour, 2.5)
        self.dot(x + 14, y, colour)
        self.text(x + 36, y, name, "lm", INK)
        self.legend_left += 36 + self.font.getlength(name) / self.SCALE + 28

    def finish(self) -> Image.Image:
        return self.image.reduce(self.SCALE)


def _nice_step(value: float) -> float:
    """The smallest of 1, 2, 5, 10, … times a power of ten that is at least the value."""
    power = 10.0 ** math.floor(math.log10(value)) if value > 0 else 1.0
    return next(m * power for m in (1, 2, 5, 10) if m * power >= value * (1 - 1e-9))


def _is_finite(value: float | None) -> bool:
    return value is not None and math.isfinite(value)


def _fit(image: Image.Image, tile: int) -> Image.Image:
    """The whole image, as large as fits, centred on a square of side `tile`."""
    scale = tile / max(image.size)
    size = tuple(max(1, round(side * scale)) for side in image.size)
    # Tiny images show the very pixels the model sees; others are smoothed.
    method = Image.Resampling.NEAREST if scale >= 3 else Image.Resampling.BICUBIC
    square = Image.new("RGB", (tile, tile), FRAME)
    resized = image.convert("RGB").resize(size, method)
    square.paste(resized, ((tile - size[0]) // 2, (tile - size[1]) // 2))
    return square


def _split_label(text: str) -> tuple[str, str]:
    """("MLE:", " a dog") for "MLE: a dog"; captions themselves hold no colon."""
    label, colon, rest = text.partition(":")
    return (label + colon, rest) if colon else ("", text)


def _label_colours(captions: Sequence[Sequence[str]]) -> dict[str, tuple[int, int, int]]:
    labels = dict.fromkeys(_split_label(text)[0] for texts in captions for text in texts)
    labels.pop("", None)
    numbers = colour_numbers([label.removesuffix(":") for label in labels])
    return {label: LABELS[number] for label, number in zip(labels, numbers, strict=True)}


def _wrap(text: str, font: ImageFont.FreeTypeFont, width: int) -> list[str]:
    """Break a text into lines no wider than `width` pixels, inside a word where it must."""
    lines = [""]
    for word in text.split():
        joined = f"{lines[-1]} {word}".lstrip()
        if font.getlength(joined) <= width:
            lines[-1] = joined
            continue
        if lines[-1]:
            lines.append("")
        for letter in word:
            if lines[-1] and font.getlength(lines[-1] + letter) > width:
                lines.append("")
            lines[-1] += letter
    return lines


def _draw_caption_line(draw, where, line: str, font, colours: dict) -> None:
    label, rest = _split_label(line)
    if label not in colours:
        label, rest = "", line
    x, y = where
    if label:
        draw.text((x, y), label, fill=colours[label], font=font)
    draw.text((x + font.getlength(label), y), rest, fill=INK, font=font)


def check_picture(path: str | Path) -> None:
    """Raises UserError unless a picture can be written at `path`: its name, its folder, the disk.

    Makes the folder. To be called before the work that the picture shows.
    """
    if Path(path).suffix.lower() not in SUFFIXES:
        raise UserError(f"{path}: expected a name that ends in {' or '.join(SUFFIXES)}")
    check_writable(path)


def _save(image: Image.Image, path: str | Path) -> None:
    """Write a picture whole or not at all. Raises UserError if it cannot be written."""
    try:
        with writing(path):
            write_atomically(path, image.save)
    except ValueError as error:  # more pixels than the format allows
        raise UserError(f"{path}: cannot write: {error}") from error
