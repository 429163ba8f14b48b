"""The images that captions are scored on, their references, and how caption files name them."""

import hashlib
import json
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from PIL import Image

from smile.config import DataConfig
from smile.data.batches import Example
from smile.data.caption_table import read_table
from smile.data.karpathy import karpathy_ids
from smile.data.layouts import image_folder, warn_outside
from smile.data.load import load_examples
from smile.data.places import Places, nfc
from smile.data.shapes import Scene
from smile.errors import UserError, first_few
from smile.model.images import Photo

__all__ = ["ImageIndex", "ImageSet", "lies_outside", "same_images", "thumbnail"]

_ALL_WORDS = 10**9  # references are never cut, whatever max_words a run trained with

_ENDS = 16  # last parts of a path that may name an image without those before
_DIGITS = 20  # most digits of an image's number


class ImageIndex:
    """Finds the image that a file of captions names, by number or by any unique end of its path.

    "photos/0/a.jpg" is also "0/a.jpg", "a.jpg" and "a", unless another image's path has the same
    end. A longer path, from another machine, is matched by its ends.
    """

    def __init__(self, names: Sequence[str], ids: Mapping[str | int, str] | None = None) -> None:
        self.numbers: dict[str | int, int | None] = {}
        for number, name in enumerate(names):
            for end in _ends(name):
                # None: several images' paths have this end, so it names none of them.
                self.numbers[end] = None if end in self.numbers else number
        self.numbers |= {name: number for number, name in enumerate(names)}
        for key, name in (ids or {}).items():
            if name in self.numbers:
                self.numbers[key] = self.numbers[name]

    def find(self, key: str | int) -> int | None:
        """The image's number in the set, or None."""
        if (found := self.numbers.get(key)) is not None:
            return found
        ends: list[str | int] = [*_ends(str(key))]
        if isinstance(key, str) and key.isdecimal() and len(key) <= _DIGITS:
            ends.insert(0, int(key))
        numbers = (self.numbers.get(end) for end in ends)
        return next((number for number in numbers if number is not None), None)


def _ends(name: str) -> list[str]:
    """A path, each of its ends from long to short, and the file's name without suffix.

    All in NFC, because disk, data set and captions may use different Unicode forms.
    """
    parts = [part for part in nfc(name).replace(os.sep, "/").split("/") if part]
    starts = range(max(0, len(parts) - _ENDS), len(parts))
    ends = ["/".join(parts[start:]) for start in (0, *starts)]
    stem = os.path.splitext(parts[-1])[0] if parts else ""
    return list(dict.fromkeys(ends + [stem] * bool(stem)))


@dataclass(frozen=True, kw_only=True)
class ImageSet:
    """Images with references, in a fixed order.

    examples: `name`, `captions` (the references, without the prompt) and `read()` of each.
    numbers: the examples' indices in the whole split, of which they may be a part.
    index: finds the indices of images in the whole split.
    num_in_split: how many images the whole split has.
    data: the data set's config; None if there are only references.
    """

    title: str
    examples: Sequence[Example]
    numbers: Sequence[int]
    index: ImageIndex
    num_in_split: int
    data: DataConfig | None = None

    @classmethod
    def from_data(cls, data: DataConfig, split: str, *, limit: int | None = None) -> "ImageSet":
        """A split of a data set, or its first `limit` images.

        References are the captions as the loaders clean them, but never cut. The metrics' tokenizer
        removes nearly all that the cleaning changes.

        Raises:
            UserError: data are missing or wrong.
        """
        examples = load_examples(replace(data, max_words=_ALL_WORDS), split)
        ids = None
        if data.format == "karpathy":
            ids = karpathy_ids(data.root, annotations=data.annotations)
        return cls(
            title=f"{data.format} {split}",
            examples=examples[:limit],
            numbers=range(len(examples))[:limit],
            index=ImageIndex([example.name for example in examples], ids),
            num_in_split=len(examples),
            data=data,
        )

    @classmethod
    def from_references(cls, path: str | Path, *, limit: int | None = None) -> "ImageSet":
        """The images of a file of references, a table as training takes.

        Images are looked for beside that file, then in the current folder; metrics of texts do not
        need them.

        Raises:
            UserError: the file has the wrong form, or an image has no reference.
        """
        photos, ids = _read_references(Path(path))
        return cls(
            title=str(path),
            examples=photos[:limit],
            numbers=range(len(photos))[:limit],
            index=ImageIndex([photo.name for photo in photos], ids),
            num_in_split=len(photos),
        )

    def part(self, numbers: Sequence[int]) -> "ImageSet":
        """The images of this set that have these indices in the whole split."""
        wanted = set(numbers)
        pairs = zip(self.numbers, self.examples, strict=True)
        kept = [(number, example) for number, example in pairs if number in wanted]
        return replace(
            self,
            examples=[example for _, example in kept],
            numbers=[number for number, _ in kept],
        )

    @property
    def names(self) -> list[str]:
        return [example.name for example in self.examples]

    @property
    def references(self) -> list[Sequence[str]]:
        return [example.captions for example in self.examples]

    @property
    def are_scenes(self) -> bool:
        """Whether all images are drawn scenes, whose content is known."""
        return all(isinstance(example, Scene) for example in self.examples)

    def at_size(self, size: int) -> Sequence[Example]:
        """The examples; scenes are drawn `size` pixels wide, for a model of that image size."""
        return [
            replace(example, image_size=size) if isinstance(example, Scene) else example
            for example in self.examples
        ]

    def training_captions(self) -> list[str]:
        """All captions of the training split.

        Raises:
            UserError: there is no data set, or its training split cannot be read.
        """
        if self.data is None:
            raise UserError("no training captions known: name the data set with --data")
        examples = load_examples(replace(self.data, max_words=_ALL_WORDS), "train")
        return [text for example in examples for text in example.captions]

    def why_no_pictures(self) -> str:
        """Why the pictures cannot be read; "" if they can."""
        missing = [
            example.name
            for example in self.examples
            if isinstance(example, Photo) and not os.path.isfile(example.path)
        ]
        if not missing:
            return ""
        return f"{len(missing)} of {len(self.examples)} images are missing: {first_few(missing)}"

    def fingerprint(self) -> str:
        """A hash of the images' names (without their folders) and references, in order."""
        digest = hashlib.sha256()
        for example in self.examples:
            row = [os.path.basename(example.name), *example.captions]
            digest.update(json.dumps(row).encode() + b"\n")
        return digest.hexdigest()


def same_images(sets: Iterable[ImageSet]) -> bool:
    """Whether all sets hold the same images with the same references in the same order."""
    return len({image_set.fingerprint() for image_set in sets}) == 1


def lies_outside(example: Example) -> bool:
    """Whether a picture is outside the folder of its data set or references."""
    return isinstance(example, Photo) and example.outside


def thumbnail(example: Example, side: int) -> Image.Image | None:
    """The picture, at most `side` pixels wide and high; None if it cannot be read."""
    if isinstance(example, Scene):
        return example.read(side)
    try:
        image = example.read()
    except UserError:
        return None
    image.thumbnail((side, side))
    return image


def _read_references(path: Path) -> tuple[list[Photo], dict[str | int, str]]:
    """The images of a file of references, and number → name for those with a number.

    Raises:
        UserError: the file has the wrong form, or an image has no reference.
    """
    places, beside = Places(path.parent), path.parent
    folders = (beside, image_folder(beside), "")
    references: dict[str, list[str]] = {}
    outside: dict[str, bool] = {}
    ids: dict[str | int, str] = {}
    names: dict[str, str] = {}  # a file's identity → the first name that it had
    for row in read_table(path):
        name = str(row.image)
        if found := places.find(name, *folders):
            name = names.setdefault(places.identity(found), found)
            outside[name] = places.is_outside(found)
        references.setdefault(name, []).extend(row.captions)
        if row.number is not None:
            ids[row.number] = name
    bare = [name for name, texts in references.items() if not any(map(str.strip, texts))]
    if bare:
        raise UserError(
            f"{path}: {len(bare)} of {len(references)} images have no reference: "
            f"{first_few(bare)}; give each at least one"
        )
    photos = [
        Photo(name, tuple(texts), outside=outside.get(name, False))
        for name, texts in references.items()
    ]
    warn_outside(photos, path)
    return photos, ids
