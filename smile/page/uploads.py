"""Pictures that visitors bring, within limits; what cannot be taken is a line of text.

A picture stays the bytes of its file: captions are of that, and so equal those of `sample.py`.
"""

import contextlib
import io
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from PIL import Image

from smile.captioning.pictures import enlarged
from smile.data.shapes import make_scenes
from smile.errors import UserError, brief, counted, printable
from smile.model.images import read_image

MOST_PICTURES = 40  # in the list of pictures to describe
MOST_MB = 25  # a file; Streamlit's `server.maxUploadSize` refuses larger ones first
MOST_TOTAL_MB = 300  # of all files in the list
MB = 1_000_000
LIMITS = (
    f"JPEG, PNG, HEIC, WebP and others; up to {MOST_PICTURES} pictures, {MOST_MB} MB each, "
    f"{MOST_TOTAL_MB} MB together. They stay on the machine that runs this page, in its memory."
)
SHORT = 32  # characters of a short title
PREVIEW_SIDE, LEAST_SIDE = 1200, 240  # pixels of what the page shows
DRAWN_SIDE = 336  # pixels of an example scene: whole pixels for each of its 48 units


@dataclass(frozen=True)
class Picture:
    """A picture as its visitor gave it.

    number: which one it is of the visitor's; never given twice.
    name: the file's, which may hold anything; `title` is for people to read.
    data: the bytes of the file.
    preview: a JPEG of it for the page, upright.
    note: what is to be said of it, such as that it is an animation; "" if nothing.
    """

    number: int
    name: str
    data: bytes
    preview: bytes
    note: str = ""

    @property
    def title(self) -> str:
        return readable(self.name)

    @property
    def short_title(self) -> str:
        """The beginning and the end of the title, for where there is little room."""
        title = self.title
        half = SHORT // 2
        return title if len(title) <= SHORT else f"{title[:half]}…{title[-half:]}"


def readable(name: str) -> str:
    """A file's name in one line and not too long."""
    return brief(printable(name)) or "a picture without a name"


class TooMany(UserError):
    """There is no room for another picture."""


def read_upload(number: int, name: str, data: bytes) -> Picture:
    """A file as a picture, read once to the end, so that later nothing can be wrong with it.

    Raises:
        UserError: it is too large, or not a picture that is read.
    """
    if len(data) > MOST_MB * MB:
        raise UserError(f"{readable(name)}: {len(data) / MB:.0f} MB, expected at most {MOST_MB} MB")
    image = read_image(data, readable(name), longest=PREVIEW_SIDE)
    image = enlarged(image, LEAST_SIDE, Image.Resampling.NEAREST)  # else hardly to be seen
    kept = io.BytesIO()
    image.save(kept, "JPEG", quality=85)
    moves = "an animation: only its first picture counts" if _is_animated(data) else ""
    return Picture(number, name, data, kept.getvalue(), moves)


def _is_animated(data: bytes) -> bool:
    with contextlib.suppress(Exception), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with Image.open(io.BytesIO(data), formats=("GIF", "PNG", "WEBP", "AVIF")) as image:
            return bool(getattr(image, "is_animated", False))
    return False


def check_room(pictures: Sequence[Picture], size: int) -> None:
    """Raises TooMany if a file of `size` bytes does not fit beside `pictures`."""
    if len(pictures) >= MOST_PICTURES:
        raise TooMany(f"the list holds {MOST_PICTURES} pictures at most")
    if sum(len(picture.data) for picture in pictures) + size > MOST_TOTAL_MB * MB:
        raise TooMany(f"the list holds {MOST_TOTAL_MB} MB of pictures at most")


def left_out(names: Sequence[str], why: TooMany) -> str:
    """A line about files that were not taken for want of room."""
    shown = ", ".join(map(readable, names[:3])) + (", …" if len(names) > 3 else "")
    return f"{counted(len(names), 'file')} left out, since {why}: {shown}"


# Examples -----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Example:
    """A picture to try: a file's name and bytes, what it is called, and what it shows."""

    name: str
    title: str
    shows: str
    data: bytes


PHOTOS = {  # the files of docs/photos
    "chelsea.jpg": ("Cat", "a cat's face"),
    "astronaut.jpg": ("Astronaut", "a woman in an orange space suit before a flag"),
    "coffee.jpg": ("Coffee", "a cup of coffee on a wooden table"),
    "rocket.jpg": ("Rocket", "a rocket on its launch pad at night"),
    "camera.jpg": ("Camera man", "a man with a camera on a tripod, in grey"),
}


def photo_examples(folder: Path) -> Iterator[Example]:
    """The photographs that come with the project, as far as they are in `folder`."""
    for name, (title, shows) in PHOTOS.items():
        with contextlib.suppress(OSError):
            yield Example(name, title, shows, (folder / name).read_bytes())


@cache
def drawn_examples(count: int = 3) -> tuple[Example, ...]:
    """Drawn scenes, of those that no captioner is trained on; drawn once, not at every click."""
    examples = []
    for number, scene in enumerate(make_scenes("test", count), 1):
        file = io.BytesIO()
        scene.read(DRAWN_SIDE).save(file, "PNG")
        name, title = f"scene-{number}.png", f"Scene {number}"
        examples.append(Example(name, title, f"coloured shapes, {number}", file.getvalue()))
    return tuple(examples)
