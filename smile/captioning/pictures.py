"""What all pictures of captions share: their colours, and how they are written."""

from collections.abc import Callable, Sequence
from pathlib import Path

from PIL import Image

from smile.captioning.lettering import Colour
from smile.captioning.typeset import Typesetter
from smile.data.notices import say_once
from smile.errors import UserError
from smile.system.files import check_writable, make_folder, write_atomically, writing

PAPER = (255, 255, 255)
INK = (38, 42, 51)
FAINT = (104, 112, 128)
GRID = (229, 232, 237)
FRAME = (244, 245, 248)
BLUE = (47, 111, 222)
ORANGE = (226, 113, 29)
RED = (190, 30, 45)  # of what is false
LABELS = (BLUE, ORANGE, (24, 138, 98), (150, 70, 190))  # report.html's --c0 to --c3 are these
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


def faded(colour: Colour, share: float) -> Colour:
    """A share of the colour, from 0 to 1, the rest paper."""
    red, green, blue = (
        round(share * part + (1 - share) * paper) for part, paper in zip(colour, PAPER, strict=True)
    )
    return red, green, blue


SUFFIXES = (".png", ".jpg", ".jpeg", ".webp")  # of what is saved


def enlarged(image: Image.Image, side: int, how: Image.Resampling) -> Image.Image:
    """The image, a whole number of times as large, so that a side has at least `side` pixels."""
    times = -(-side // max(image.size))
    return image.resize((image.width * times, image.height * times), how) if times > 1 else image


def check_picture(path: str | Path) -> None:
    """Raises UserError unless a picture can be written at `path`: its name, its folder, the disk.

    The folder may be missing. To be called before the work that the picture shows.
    """
    if Path(path).suffix.lower() not in SUFFIXES:
        raise UserError(f"{path}: expected a name that ends in {' or '.join(SUFFIXES)}")
    check_writable(path)


def save_picture(write: Callable[[Path], object], path: str | Path) -> None:
    """Writes a picture whole or not at all. Raises UserError if it cannot be written."""
    try:
        with writing(path):
            make_folder(Path(path).parent)
            write_atomically(path, write)
    except ValueError as error:  # more pixels than the format allows
        raise UserError(f"{path}: cannot write: {error}") from error


def say_missing(typesetter: Typesetter) -> None:
    """Says, once a process, which characters no font has."""
    if warning := typesetter.warning():
        say_once(warning, topic=warning)
