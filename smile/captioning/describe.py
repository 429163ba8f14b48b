"""Captions for many images: read ahead in worker processes, described batch by batch, in order.

    for results, broken in describe_all(names, models, batch_size=8, workers=1):
        ...

Memory does not grow with the number of images: names are a stream, and only a few batches exist at
a time.
"""

import contextlib
import errno
import hashlib
import itertools
import os
from collections.abc import Container, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from smile.captioning.caption_file import Result
from smile.config import GenerateConfig
from smile.data.batches import Broken, Example, batches_of, catching_dead_workers
from smile.errors import UserError, printable
from smile.model.captioner import Caption, Captioner
from smile.model.generate import asked_options
from smile.model.images import EvalTransform, open_image
from smile.system.distributed import World
from smile.system.files import write_text, writing

PREFETCH = 2  # batches that each worker has ready


@dataclass(frozen=True, kw_only=True)
class Model:
    """A captioner and the settings that it captions with.

    label: its name among several models; "" if it is the only one.
    source, weights: where it was loaded from and its `fingerprint`, recorded in captions files.
    settings, prompt: these override the captioner's `[generate]` settings and prompt.
    prefix, suffix: put around each caption.

    Raises:
        UserError: a setting is impossible.
    """

    captioner: Captioner
    label: str = ""
    source: str = ""
    weights: str = ""
    prompt: str | None = None
    prefix: str = ""
    suffix: str = ""
    settings: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        prompt = self.captioner.config.data.prompt if self.prompt is None else self.prompt
        self.captioner.check(self.options, prompt=prompt)

    @property
    def options(self) -> GenerateConfig:
        """The captioner's `[generate]` settings, overridden by `settings`."""
        return asked_options(self.captioner.config, self.settings)

    def describe(self, pixels: Tensor, seeds: Sequence[int]) -> list[list[Caption]]:
        return self.captioner.describe(
            pixels,
            prompts=self.prompt,
            prefix=self.prefix,
            suffix=self.suffix,
            seeds=list(seeds),
            **self.settings,
        )

    def record(self, *, seed: int) -> dict[str, Any]:
        """Everything that the captions depend on, as a captions file records it."""
        default = self.captioner.config.data.prompt
        around = {"prefix": self.prefix, "suffix": self.suffix}
        forbidden = self.options.forbid
        return {
            "source": self.source,
            "weights": self.weights,
            "prompt": default if self.prompt is None else self.prompt,
            "seed": seed if self.options.samples else None,
            **{name: text for name, text in around.items() if text},  # older files have neither
            **asdict(self.options),
            # In any order and case they forbid the same.
            "forbid": tuple(sorted({" ".join(text.casefold().split()) for text in forbidden})),
        }


def name_seed(seed: int, name: str) -> int:
    """The seed of one image, from its file name: neither its batch nor its folder matters."""
    key = f"{seed} {os.path.basename(name)}".encode("utf-8", "surrogateescape")
    return int.from_bytes(hashlib.blake2b(key, digest_size=7).digest())


# Reading ahead ------------------------------------------------------------------------------------


class Reader(Dataset):
    """`reader[image]`: (name, {size: (3, size, size) pixels}), or a `Broken` that says why not.

    An image is a path, or a data set's example.
    """

    def __init__(self, sizes: Iterable[int]) -> None:
        self.transforms = {size: EvalTransform(size) for size in sizes}

    def __getitem__(self, image: str | Example | Broken) -> tuple[str, dict[int, Tensor]] | Broken:
        if isinstance(image, Broken):
            return image
        name = image if isinstance(image, str) else image.name
        try:
            picture = open_image(image) if isinstance(image, str) else image.read()
        except UserError as error:
            return Broken(name, str(error).removeprefix(printable(f"{name}: ")))
        return name, {size: transform(picture) for size, transform in self.transforms.items()}


@dataclass(frozen=True)
class ImageBatch:
    """A batch: B names, their (B, 3, size, size) pixels by size, and the unreadable images."""

    names: list[str]
    pixels: dict[int, Tensor]
    broken: list[Broken]

    def pin_memory(self) -> "ImageBatch":
        """Called by DataLoader where it pins memory."""
        pixels = {size: pixels.pin_memory() for size, pixels in self.pixels.items()}
        return ImageBatch(self.names, pixels, self.broken)


def _stack(rows: Sequence[tuple[str, dict[int, Tensor]] | Broken]) -> ImageBatch:
    whole = [row for row in rows if not isinstance(row, Broken)]
    sizes = whole[0][1] if whole else ()
    return ImageBatch(
        names=[name for name, _ in whole],
        pixels={size: torch.stack([pixels[size] for _, pixels in whole]) for size in sizes},
        broken=[row for row in rows if isinstance(row, Broken)],
    )


def read_batches(
    batches: Iterable[list[str | Example | Broken]],
    sizes: Iterable[int],
    *,
    workers: int = 0,
    pin_memory: bool = False,
) -> Iterator[ImageBatch]:
    """Batches of pictures in this order, decoded and transformed by `workers` processes.

    A single batch is read in this process: starting a worker would take longer. A `Broken` in a
    batch is passed on in its place.

    Raises:
        WorkerKilled: a worker died.
    """
    batches = iter(batches)
    first = list(itertools.islice(batches, 2))
    if len(first) < 2:
        workers = 0
    loader = DataLoader(
        Reader(sizes),
        batch_sampler=itertools.chain(first, batches),
        collate_fn=_stack,
        num_workers=workers,
        prefetch_factor=PREFETCH if workers else None,
        pin_memory=pin_memory,
    )
    with catching_dead_workers(workers, "--workers 0 and a smaller --batch-size need less"):
        yield from loader


# Describing ---------------------------------------------------------------------------------------


def describe_all(
    names: Iterable[str | Example | Broken],
    models: Sequence[Model],
    *,
    batch_size: int,
    workers: int = 0,
    seed: int = 0,
    autocast: bool = False,
) -> Iterator[tuple[list[Result], list[Broken]]]:
    """`describe_batches` of `names` in batches of `batch_size`."""
    yield from describe_batches(
        batches_of(names, batch_size),
        models,
        batch_size=batch_size,
        workers=workers,
        seed=seed,
        autocast=autocast,
    )


def describe_batches(
    batches: Iterable[list[str | Example | Broken]],
    models: Sequence[Model],
    *,
    batch_size: int,
    workers: int = 0,
    seed: int = 0,
    autocast: bool = False,
) -> Iterator[tuple[list[Result], list[Broken]]]:
    """Captions by every model and the unreadable images, batch by batch in this order.

    With `autocast`, weights in float32 are multiplied in bfloat16.

    Raises:
        UserError: there is too little memory for `batch_size`, the largest batch, or a worker was
            killed.
    """
    device = models[0].captioner.device
    sizes = {model.captioner.transform.size for model in models}
    on_cuda = device.type == "cuda"
    for batch in read_batches(batches, sizes, workers=workers, pin_memory=on_cuda):
        seeds = [name_seed(seed, name) for name in batch.names]
        columns = {}
        if batch.names:
            for model in models:
                pixels = batch.pixels[model.captioner.transform.size]
                pixels = pixels.to(device, non_blocking=True)
                rounding = torch.autocast(device.type, dtype=torch.bfloat16, enabled=autocast)
                with rounding, _memory_may_end(f"{device} has", batch_size):
                    columns[model.label] = model.describe(pixels, seeds)
        results = [
            Result(name, {label: captions[row] for label, captions in columns.items()})
            for row, name in enumerate(batch.names)
        ]
        yield results, batch.broken


@contextlib.contextmanager
def _memory_may_end(where: str, batch_size: int) -> Iterator[None]:
    """Turns running out of memory, on a GPU or the CPU, into one line that says what to do."""
    try:
        yield
    except RuntimeError as error:  # the CPU's allocator raises no type of its own
        if not isinstance(error, torch.OutOfMemoryError) and "allocate memory" not in str(error):
            raise
        raise UserError(
            f"{where} too little memory for --batch-size {batch_size}: "
            f"try {max(1, batch_size // 2)}"
        ) from error


# What is left to do -------------------------------------------------------------------------------


class TextFiles:
    """One .txt beside each image, a caption a line: the form that training tools read.

    An existing .txt may be written by hand: it is kept, unless `overwrite`. Of images that differ
    only in their suffix (a.jpg, a.png), the first one gets the .txt.
    """

    def __init__(self, *, overwrite: bool = False) -> None:
        self.overwrite = overwrite
        self._suffixes: dict[int, str] = {}  # hash of a .txt's path → suffix of its image

    def has(self, name: str) -> bool:
        """Whether this image is done: it has a .txt, which is to be kept."""
        return os.path.isfile(_text_path(name)) and not self.overwrite

    def conflict(self, name: str) -> str:
        """Why an image cannot have a .txt, "" if it can. Call it in the order of the images."""
        text = _text_path(name)
        if text == Path(name):
            return "its captions would replace the image itself: give it another suffix"
        if os.path.isdir(text):
            return f"its captions would go to {text}, which is a folder"
        suffix = Path(name).suffix
        if (first := self._suffixes.setdefault(hash(text), suffix)) != suffix:
            return (
                f"its captions would go to {text}, where those of {text.with_suffix(first).name} "
                "are: rename one of the two"
            )
        return ""

    def add(self, results: Iterable[Result]) -> list[Broken]:
        """Writes the captions; returns the images whose .txt cannot have that name.

        Raises:
            UserError: a file cannot be written: the disk is full or permission is missing.
        """
        broken = []
        for result in results:
            path, reason = _text_path(result.name), self.conflict(result.name)
            if not reason and not self.has(result.name):
                text = "".join(line + "\n" for line in result.lines())
                try:
                    with writing(path):
                        write_text(path, text)
                except UserError as error:
                    if getattr(error.__cause__, "errno", 0) != errno.ENAMETOOLONG:
                        raise
                    reason = str(error)
            if reason:
                broken.append(Broken(result.name, reason))
        return broken


def _text_path(name: str) -> Path:
    return Path(name).with_suffix(".txt")


class Todo:
    """This process's share of `names`, without the images that are done; a `Broken` is kept.

    Image i goes to process i % world.size. An image is done if it is in `done` and has its text in
    `texts`; None means that this output is not asked for. An image that cannot have a text becomes
    a `Broken`.

    After an iteration, `num_done` is how many were skipped. `in_order` is whether a file that holds
    `done` in order stays in order when the others are appended.
    """

    def __init__(
        self,
        names: Iterable[str | Broken],
        *,
        done: Container[str] | None = None,
        texts: TextFiles | None = None,
        world: World | None = None,
    ) -> None:
        self.names, self.done, self.texts, self.world = names, done, texts, world or World()
        self.num_done = 0
        self.in_order = True

    def __iter__(self) -> Iterator[str | Broken]:
        self.num_done, self.in_order = 0, True
        anything_new = False
        for index, name in enumerate(self.names):
            conflict = ""
            if self.texts is not None and isinstance(name, str):  # for all: it remembers names
                conflict = self.texts.conflict(name)
            if index % self.world.size != self.world.rank:
                continue
            if isinstance(name, Broken):
                yield name
                continue
            is_new = self.done is not None and name not in self.done
            self.in_order &= is_new or not anything_new
            anything_new |= is_new
            has_text = self.texts is None or self.texts.has(name)
            nothing_asked = self.done is None and self.texts is None
            if is_new or nothing_asked or not (has_text or conflict):
                yield name
            elif conflict:
                yield Broken(name, conflict)
            else:
                self.num_done += 1
