"""The images captions are scored on, with their references, and how files of captions name them."""

import hashlib
import json
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from PIL import Image

from smile.config import DataConfig
from smile.data import Example, Photo, load_examples
from smile.data.karpathy import karpathy_ids
from smile.data.shapes import Scene
from smile.errors import UserError, first_few

__all__ = ["ImageIndex", "ImageSet", "read_references", "same_images", "thumbnail"]

_ALL_WORDS = 10**9  # references are never cut short, whatever a run trained on

REFERENCES_FORM = (
    '{"a.jpg": ["a caption", ...], ...} or COCO\'s {"images": [{"id", "file_name"}], '
    '"annotations": [{"image_id", "caption"}]}'
)


class ImageIndex:
    """Finds the image that a file of captions means, by number or by any unique end of its path.

    "photos/0/a.jpg" is also "0/a.jpg", "a.jpg" and "a", unless another image's path ends so too;
    and a longer path to it, as another machine wrote it, is tried by its ends.
    """

    def __init__(self, names: Sequence[str], ids: Mapping[int, str] | None = None) -> None:
        self.numbers: dict[str | int, int | None] = {}
        for number, name in enumerate(names):
            for end in _ends(name):
                # None: the end of several images' paths, so nobody's name.
                self.numbers[end] = None if end in self.numbers else number
        self.numbers |= {name: number for number, name in enumerate(names)}
        for key, name in (ids or {}).items():
            if name in self.numbers:
                self.numbers[key] = self.numbers[name]

    def find(self, key: str | int) -> int | None:
        """The image's number in the set, or None."""
        if (found := self.numbers.get(key)) is not None:
            return found
        if isinstance(key, str) and key.isdecimal() and int(key) in self.numbers:
            return self.numbers[int(key)]
        for end in _ends(str(key)):
            if (found := self.numbers.get(end)) is not None:
                return found
        return None


def _ends(name: str) -> list[str]:
    """A path, each of its ends from long to short, and the file's name without suffix."""
    parts = [part for part in name.replace(os.sep, "/").split("/") if part]
    ends = ["/".join(parts[start:]) for start in range(len(parts))]
    stem = os.path.splitext(parts[-1])[0] if parts else ""
    return ends + [stem] * (stem not in ("", *ends))


@dataclass(frozen=True, kw_only=True)
class ImageSet:
    """Images with references, in a fixed order.

    examples: `name`, `captions` (the references, without the prompt) and `read()` of each.
    index: finds images of the whole split, of which `examples` may be the first few.
    num_in_split: how many images the whole split has.
    data: what describes the data set; None where there are only references.
    """

    title: str
    examples: Sequence[Example]
    index: ImageIndex
    num_in_split: int
    data: DataConfig | None = None

    @classmethod
    def from_data(cls, data: DataConfig, split: str, *, limit: int | None = None) -> "ImageSet":
        """A split of a data set, or its first `limit` images.

        References are those captions as the loaders clean them, but never cut short: after the
        metrics' own tokenizer nearly nothing of the cleaning is left to see.

        Raises:
            UserError: data are missing or amiss.
        """
        examples = load_examples(replace(data, max_words=_ALL_WORDS), split)
        ids = None
        if data.format == "karpathy":
            ids = karpathy_ids(data.root, annotations=data.annotations)
        return cls(
            title=f"{data.format} {split}",
            examples=examples[:limit],
            index=ImageIndex([example.name for example in examples], ids),
            num_in_split=len(examples),
            data=data,
        )

    @classmethod
    def from_references(cls, path: str | Path, *, limit: int | None = None) -> "ImageSet":
        """The images of a references file; they are looked for from here and beside that file.

        Raises:
            UserError: the file is of the wrong form, or an image has no reference.
        """
        references, ids = read_references(path)
        places = {name: _place(name, Path(path).parent) for name in references}
        photos = [Photo(places[name], tuple(texts)) for name, texts in references.items()]
        return cls(
            title=str(path),
            examples=photos[:limit],
            index=ImageIndex(
                [photo.name for photo in photos], {key: places[name] for key, name in ids.items()}
            ),
            num_in_split=len(photos),
        )

    @property
    def names(self) -> list[str]:
        return [example.name for example in self.examples]

    @property
    def references(self) -> list[Sequence[str]]:
        return [example.captions for example in self.examples]

    @property
    def are_scenes(self) -> bool:
        """Whether everything in the images is known."""
        return all(isinstance(example, Scene) for example in self.examples)

    def at_size(self, size: int) -> Sequence[Example]:
        """The examples, scenes drawn `size` pixels wide as for a model of that size."""
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
        """Why the pictures cannot be looked at; "" where they can."""
        missing = [
            example.name
            for example in self.examples
            if isinstance(example, Photo) and not os.path.isfile(example.path)
        ]
        if not missing:
            return ""
        return f"{len(missing)} of {len(self.examples)} images are not there: {first_few(missing)}"

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


def thumbnail(example: Example, side: int) -> Image.Image | None:
    """The picture, at most `side` pixels wide and high; None where it cannot be read."""
    if isinstance(example, Scene):
        return example.read(side)
    try:
        image = example.read()
    except UserError:
        return None
    image.thumbnail((side, side))
    return image


# References -----------------------------------------------------------------------------------


def read_references(path: str | Path) -> tuple[dict[str, list[str]], dict[int, str]]:
    """A file of references: image → its captions, and image → name for those known by number.

    Raises:
        UserError: the file is of the wrong form, or an image has no reference.
    """
    try:
        text = Path(path).read_text(encoding="utf-8-sig")
        content = _lines(text) if Path(path).suffix == ".jsonl" else json.loads(text)
    except OSError as error:
        raise UserError(f"--references {path}: cannot be read: {error.strerror}") from error
    except ValueError as error:
        raise UserError(f"--references {path}: not JSON ({error})") from error
    try:
        references, ids = _coco(content) if "annotations" in content else (content, {})
        well_formed = isinstance(references, dict) and all(
            isinstance(texts, list) and all(isinstance(text, str) for text in texts)
            for texts in references.values()
        )
    except (KeyError, TypeError, AttributeError):
        well_formed = False
    if not well_formed or not references:
        raise UserError(f"--references {path}: expected {REFERENCES_FORM}")
    bare = [name for name, texts in references.items() if not any(map(str.strip, texts))]
    if bare:
        raise UserError(
            f"--references {path}: {len(bare)} of {len(references)} images have no reference: "
            f"{first_few(bare)}; give each at least one"
        )
    return references, ids


def _lines(text: str) -> dict[str, list[str]]:
    """A training folder's captions.jsonl: {"image", "caption" or "captions"} on each line."""
    references: dict[str, list[str]] = {}
    for line in filter(str.strip, text.split("\n")):
        row = json.loads(line)
        captions = row["captions"] if "captions" in row else [row["caption"]]
        references.setdefault(row["image"], []).extend(captions)
    return references


def _coco(content: dict) -> tuple[dict[str, list[str]], dict[int, str]]:
    """COCO's file of annotations."""
    ids = {image["id"]: image["file_name"] for image in content["images"]}
    references: dict[str, list[str]] = {name: [] for name in ids.values()}
    for annotation in content["annotations"]:
        references[ids[annotation["image_id"]]].append(annotation["caption"])
    return references, ids


def _place(name: str, folder: Path) -> str:
    """Where the image is: as named, or beside the file that names it; else just its name."""
    beside = folder / name
    return str(beside) if not os.path.isfile(name) and beside.is_file() else name
