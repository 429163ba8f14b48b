"""Pictures of a run: captioned images by Pillow, the losses over the epochs by matplotlib."""

import math
from collections.abc import Callable, Sequence
from itertools import groupby
from pathlib import Path
from typing import Any

from PIL import Image, ImageDraw

from smile.captioning.lettering import Colour, Lettering
from smile.captioning.typeset import Typesetter
from smile.data.notices import say_once
from smile.errors import UserError
from smile.system.files import check_writable, make_folder, write_atomically, writing

PAPER = (255, 255, 255)
INK = (38, 42, 51)
FAINT = (125, 132, 145)
GRID = (229, 232, 237)
FRAME = (244, 245, 248)
BLUE = (47, 111, 222)
ORANGE = (226, 113, 29)
LABELS = (BLUE, ORANGE, (24, 138, 98), (150, 70, 190))  # report.html's --c0 to --c3 are these
CHART = {  # matplotlib's settings for the chart of losses
    "font.size": 11,
    "axes.edgecolor": "none",
    "axes.labelcolor": "#262a33",
    "axes.grid": True,
    "axes.grid.axis": "y",
    "axes.axisbelow": True,
    "grid.color": "#e5e8ed",
    "xtick.color": "#7d8491",
    "ytick.color": "#7d8491",
    "lines.linewidth": 2.5,
    "lines.markersize": 6,
    "legend.frameon": False,
}
PLACES = {"mle": 0, "smile": 1, "before": 2}  # of labels that have the same colour everywhere


def colour_numbers(labels: Sequence[str]) -> list[int]:
    """Which of `LABELS` each label has: fixed for those in `PLACES`, the rest for the others.

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
    typesetter = Typesetter()
    lettering = Lettering(max(13, tile // 17), typesetter)
    margin, gap, leading = tile // 8, tile // 12, lettering.leading
    colours = _label_colours(captions)
    labels = [[_label(text, colours) for text in texts] for texts in captions]
    blocks = [
        [
            lettering.lines(text, tile, split=label[0] if label else 0)
            for text, label in zip(texts, ends, strict=True)
        ]
        for texts, ends in zip(captions, labels, strict=True)
    ]
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
            for lines, label in zip(blocks[index], labels[index], strict=True):
                for line in lines:
                    lettering.draw(draw, (left, y), line, tile, colour=INK, label=label)
                    y += leading
                y += leading // 3
        top += tile + gap // 2 + text_height + gap
    _save(sheet.save, path)
    _say_missing(typesetter)


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
    typesetter = Typesetter()
    large, small = (
        Lettering(size, typesetter) for size in (max(13, tile // 12), max(11, tile // 16))
    )
    height = max(1, round(tile * image.height / image.width))
    photo = image.convert("RGB").resize((tile, height), Image.Resampling.LANCZOS)
    panels = [(photo, "image", "")]
    panels += [
        (heated(photo, heat), word, f"{math.exp(logprob):.0%}") for word, logprob, heat in words
    ]
    names = [large.lines(word, tile * 3 / 4) for _, word, _ in panels]
    columns = min(columns, len(panels))
    rows = -(-len(panels) // columns)
    margin, gap = tile // 8, tile // 12
    label = large.size // 3 + large.leading * max(map(len, names)) + large.size // 3
    sheet = Image.new(
        "RGB",
        (
            2 * margin + columns * tile + (columns - 1) * gap,
            2 * margin + rows * (height + label) + (rows - 1) * gap,
        ),
        PAPER,
    )
    draw = ImageDraw.Draw(sheet)
    for index, (panel, _, probability) in enumerate(panels):
        left = margin + index % columns * (tile + gap)
        top = margin + index // columns * (height + label + gap)
        sheet.paste(panel, (left, top))
        y = top + height + large.size // 3
        for line in small.lines(probability, tile):
            width = small.width(line)
            small.draw(draw, (left + tile - width, y), line, width, colour=FAINT)
        for line in names[index]:
            large.draw(draw, (left, y), line, large.width(line), colour=INK)
            y += large.leading
    _save(sheet.save, path)
    _say_missing(typesetter)


def _say_missing(typesetter: Typesetter) -> None:
    """Says, once a process, which characters no font has."""
    if warning := typesetter.warning():
        say_once(warning, topic=warning)


def heated(photo: Image.Image, heat: Sequence[Sequence[float]]) -> Image.Image:
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

    Each record, one at least, has `epoch`, `objective`, `train_loss` and `val_loss`. Each phase
    colour, for training a light one. Where the objective changes stands a vertical line, and the
    curves break: losses of two objectives cannot be compared. A loss that is missing or not finite
    leaves a gap.
    """
    # Imported here, because it takes a second and most commands draw no chart.
    import matplotlib.style
    from matplotlib.backends.backend_agg import FigureCanvasAgg  # pyplot might open a window
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

    phases = [list(group) for _, group in groupby(records, key=lambda record: record["objective"])]
    with matplotlib.style.context(["default", CHART]):  # not what the user's matplotlibrc says
        figure = Figure(figsize=(9.6, 5.4))
        axes = figure.add_axes((0.08, 0.11, 0.89, 0.77))
        for name, key in (("training", "train_loss"), ("validation", "val_loss")):
            shade = light if name == "training" else full
            axes.plot([], [], "o-", color=_hex(shade(INK)), label=name)  # for the legend
            for phase in phases:
                colour = _hex(shade(objective_colour(phase[0]["objective"])))
                losses = [_finite(record.get(key)) for record in phase]
                axes.plot([record["epoch"] for record in phase], losses, "o-", color=colour)
        axes.axhline(0, color=_hex(FAINT), linewidth=1)
        axes.set(xlabel="epoch", ylabel="loss per token")
        axes.set_xlim(records[0]["epoch"] - 0.5, records[-1]["epoch"] + 0.5)
        axes.set_ylim(bottom=0)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
        for phase in phases:
            _name_phase(axes, phase, is_last=phase is phases[-1])
        figure.legend(loc="upper left", ncols=2)
        _save(FigureCanvasAgg(figure).print_png, path)


def _name_phase(axes: Any, phase: Sequence[dict], *, is_last: bool) -> None:
    """The objective's name above its epochs, and a dashed line after them if another follows."""
    first, last = phase[0]["epoch"], phase[-1]["epoch"]
    objective, above = phase[0]["objective"], axes.get_xaxis_transform()
    style = {"color": _hex(objective_colour(objective)), "ha": "center", "transform": above}
    axes.text((first + last) / 2, 1.02, objective.upper(), **style)
    if not is_last:
        axes.axvline(last + 0.5, color=_hex(FAINT), linestyle="--", linewidth=1)


def _hex(colour: Colour) -> str:
    return f"#{bytes(colour).hex()}"


def _finite(loss: float | None) -> float:
    """The loss, NaN where there is none: matplotlib leaves a gap there."""
    return math.nan if loss is None or not math.isfinite(loss) else loss


def full(colour: Colour) -> Colour:
    """The colour as it is."""
    return colour


def light(colour: Colour) -> Colour:
    """The colour, half faded into the paper."""
    red, green, blue = ((part + paper) // 2 for part, paper in zip(colour, PAPER, strict=True))
    return red, green, blue


def objective_colour(objective: str) -> Colour:
    """MLE's, or that of SMILE, which its variants share: they take its place."""
    return LABELS[PLACES["mle" if objective == "mle" else "smile"]]


def _fit(image: Image.Image, tile: int) -> Image.Image:
    """The whole image, as large as fits, centred on a square of side `tile`."""
    scale = tile / max(image.size)
    width, height = (max(1, round(side * scale)) for side in image.size)
    # Tiny images show the very pixels the model sees; others are smoothed.
    method = Image.Resampling.NEAREST if scale >= 3 else Image.Resampling.BICUBIC
    square = Image.new("RGB", (tile, tile), FRAME)
    resized = image.convert("RGB").resize((width, height), method)
    square.paste(resized, ((tile - width) // 2, (tile - height) // 2))
    return square


def enlarged(image: Image.Image, side: int, how: Image.Resampling) -> Image.Image:
    """The image, a whole number of times as large, so that a side has at least `side` pixels."""
    times = -(-side // max(image.size))
    return image.resize((image.width * times, image.height * times), how) if times > 1 else image


def _split_label(text: str) -> tuple[str, str]:
    """("MLE:", " a dog") for "MLE: a dog"; captions themselves hold no colon."""
    label, colon, rest = text.partition(":")
    return (label + colon, rest) if colon else ("", text)


def _label(text: str, colours: dict[str, Colour]) -> tuple[int, Colour] | None:
    """Where a text's label ends, and its colour; None if it has no label."""
    label, _ = _split_label(text)
    return (len(label), colours[label]) if label else None


def _label_colours(captions: Sequence[Sequence[str]]) -> dict[str, Colour]:
    labels = dict.fromkeys(_split_label(text)[0] for texts in captions for text in texts)
    labels.pop("", None)
    numbers = colour_numbers([label.removesuffix(":") for label in labels])
    return {label: LABELS[number] for label, number in zip(labels, numbers, strict=True)}


def check_picture(path: str | Path) -> None:
    """Raises UserError unless a picture can be written at `path`: its name, its folder, the disk.

    The folder may be missing. To be called before the work that the picture shows.
    """
    if Path(path).suffix.lower() not in SUFFIXES:
        raise UserError(f"{path}: expected a name that ends in {' or '.join(SUFFIXES)}")
    check_writable(path)


def _save(write: Callable[[Path], object], path: str | Path) -> None:
    """Write a picture whole or not at all. Raises UserError if it cannot be written."""
    try:
        with writing(path):
            make_folder(Path(path).parent)
            write_atomically(path, write)
    except ValueError as error:  # more pixels than the format allows
        raise UserError(f"{path}: cannot write: {error}") from error
