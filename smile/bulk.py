"""Captions by the folder: read ahead in other processes, describe batch by batch, in order.

    for results, broken in describe_all(names, models, batch_size=8, workers=1):
        ...

Nothing here grows with the number of images: names are a stream, and only a few batches are ever
under way.
"""

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

from smile.captioner import Caption, Captioner
from smile.config import GenerateConfig, override
from smile.data import Broken, EvalTransform, Example, open_image
from smile.data.batches import readers_may_die
from smile.distributed import World
from smile.errors import UserError
from smile.files import write_text
from smile.results import Result

PREFETCH = 2  # batches that each worker has ready


@dataclass(frozen=True, kw_only=True)
class Model:
    """A captioner and how it is asked.

    label: what to call it beside others; "" if it is the only one.
    source: where it came from; weights: their `fingerprint`, for a file of captions to remember.
    settings: those of `[generate]` that are not the captioner's own; prompt: if not its own.

    Raises:
        UserError: a setting is impossible.
    """

    captioner: Captioner
    label: str = ""
    source: str = ""
    weights: str = ""
    prompt: str | None = None
    settings: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        _ = self.options

    @property
    def options(self) -> GenerateConfig:
        """The captioner's own settings with ours instead of some."""
        return override(self.captioner.config, "generate", self.settings).generate

    def describe(self, pixels: Tensor, seeds: Sequence[int]) -> list[list[Caption]]:
        return self.captioner.describe(
            pixels, prompts=self.prompt, seeds=list(seeds), **self.settings
        )

    def record(self, *, seed: int) -> dict[str, Any]:
        """Everything that its captions depend on, for a file of captions to remember."""
        own = self.captioner.config.data.prompt
        return {
            "source": self.source,
            "weights": self.weights,
            "prompt": own if self.prompt is None else self.prompt,
            "seed": seed if self.options.samples else None,
            **asdict(self.options),
        }


def fingerprint(captioner: Captioner) -> str:
    """A hash of all weights, the sizes that they do not show, and the vocabulary."""
    config = captioner.config
    digest = hashlib.sha256(repr((config.vit, config.decoder, captioner.tokenizer.vocab)).encode())
    for name, tensor in captioner.state_dict().items():
        digest.update(f"{name} {tuple(tensor.shape)} {tensor.dtype}".encode())
        digest.update(tensor.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy())
    return digest.hexdigest()


def name_seed(seed: int, name: str) -> int:
    """The seed of one image: of the file's own name, so neither batch nor folder matters."""
    key = f"{seed} {os.path.basename(name)}".encode("utf-8", "surrogateescape")
    return int.from_bytes(hashlib.blake2b(key, digest_size=7).digest())


# Reading ahead ------------------------------------------------------------------------------------


class Reader(Dataset):
    """`reader[image]`: (name, {size: (3, size, size) pixels}), or why it cannot be read.

    An image is a path, or a data set's example.
    """

    def __init__(self, sizes: Iterable[int]) -> None:
        self.transforms = {size: EvalTransform(size) for size in sizes}

    def __getitem__(self, image: str | Example | Broken) -> tuple[str, dict[int, Tensor]] | Broken:
        if isinstance(image, Broken):
            return image
        name = image if isinstance(image, str) else image.name
        try:
            image = open_image(image) if isinstance(image, str) else image.read()
        except UserError as error:
            return Broken(name, str(error).removeprefix(f"{name}: "))
        return name, {size: transform(image) for size, transform in self.transforms.items()}


@dataclass(frozen=True)
class Pictures:
    """A batch: B names, their (B, 3, size, size) pixels by size, and the images left out."""

    names: list[str]
    pixels: dict[int, Tensor]
    broken: list[Broken]

    def pin_memory(self) -> "Pictures":
        """Called by DataLoader where it pins memory."""
        pixels = {size: pixels.pin_memory() for size, pixels in self.pixels.items()}
        return Pictures(self.names, pixels, self.broken)


def _stack(rows: Sequence[tuple[str, dict[int, Tensor]] | Broken]) -> Pictures:
    whole = [row for row in rows if not isinstance(row, Broken)]
    sizes = whole[0][1] if whole else ()
    return Pictures(
        names=[name for name, _ in whole],
        pixels={size: torch.stack([pixels[size] for _, pixels in whole]) for size in sizes},
        broken=[row for row in rows if isinstance(row, Broken)],
    )


def read_ahead(
    names: Iterable[str | Example | Broken],
    sizes: Iterable[int],
    *,
    batch_size: int,
    workers: int = 0,
    pin_memory: bool = False,
) -> Iterator[Pictures]:
    """Batches of pictures in the order of `names`, decoded and transformed by `workers` processes.

    What fits in one batch is read here: to start a process would take longer. A `Broken` among
    `names` is handed on in its place.

    Raises:
        ReaderKilled: a worker died.
    """
    names = iter(names)
    first = list(itertools.islice(names, batch_size + 1))
    if len(first) <= batch_size:
        workers = 0
    loader = DataLoader(
        Reader(sizes),
        batch_sampler=_batches(itertools.chain(first, names), batch_size),
        collate_fn=_stack,
        num_workers=workers,
        prefetch_factor=PREFETCH if workers else None,
        pin_memory=pin_memory,
    )
    with readers_may_die(workers, "--workers 0 and a smaller --batch-size need less"):
        yield from loader


def _batches(names: Iterator, size: int) -> Iterator[list[str | Example | Broken]]:
    while batch := list(itertools.islice(names, size)):
        yield batch


# Describing ---------------------------------------------------------------------------------------


def describe_all(
    names: Iterable[str | Example | Broken],
    models: Sequence[Model],
    *,
    batch_size: int,
    workers: int = 0,
    seed: int = 0,
    bfloat16: bool = False,
) -> Iterator[tuple[list[Result], list[Broken]]]:
    """Captions by every model, batch by batch in the order of `names`, and the images left out.

    Raises:
        UserError: memory does not suffice for `batch_size`, or a process that reads was killed.
    """
    device = models[0].captioner.device
    sizes = {model.captioner.transform.size for model in models}
    on_cuda = device.type == "cuda"
    for batch in read_ahead(
        names, sizes, batch_size=batch_size, workers=workers, pin_memory=on_cuda
    ):
        seeds = [name_seed(seed, name) for name in batch.names]
        columns = {}
        if batch.names:
            for model in models:
                pixels = batch.pixels[model.captioner.transform.size]
                pixels = pixels.to(device, non_blocking=True)
                with torch.autocast(device.type, dtype=torch.bfloat16, enabled=bfloat16):
                    try:
                        columns[model.label] = model.describe(pixels, seeds)
                    except torch.OutOfMemoryError as error:
                        raise UserError(
                            f"{device} has too little memory for --batch-size {batch_size}: "
                            f"try {max(1, batch_size // 2)}"
                        ) from error
        results = [
            Result(name, {label: captions[row] for label, captions in columns.items()})
            for row, name in enumerate(batch.names)
        ]
        yield results, batch.broken


# What is left to do -------------------------------------------------------------------------------


class TextFiles:
    """One .txt beside each image, a caption a line: the form that training tools read.

    A .txt that is there already may be somebody's own work: it stays, unless `overwrite`.
    """

    def __init__(self, *, overwrite: bool = False) -> None:
        self.overwrite = overwrite
        self.num_kept = 0

    def has(self, name: str) -> bool:
        """Whether this image needs no more: it has a .txt, and that one is to be kept."""
        return _text_path(name).exists() and not self.overwrite

    def add(self, results: Iterable[Result]) -> None:
        for result in results:
            path = _text_path(result.name)
            if path == Path(result.name) or self.has(result.name):
                self.num_kept += 1
                continue
            text = "".join(line + "\n" for line in result.lines())
            try:
                write_text(path, text)
            except OSError as error:
                raise UserError(f"{path}: cannot write: {error.strerror}") from error


def _text_path(name: str) -> Path:
    return Path(name).with_suffix(".txt")


class Todo:
    """The share of `names` that falls to this process, without what is done; a `Broken` stays.

    Image i goes to process i % world.size. An image is done if it is in `done` and has its text in
    `texts`; None for what is not asked for.

    After an iteration, `num_done` is how many were left out, and `in_order` whether a file that
    held `done` in order is still so with the others appended.
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
            if index % self.world.size != self.world.rank:
                continue
            if isinstance(name, Broken):
                yield name
                continue
            is_new = self.done is not None and name not in self.done
            self.in_order &= is_new or not anything_new
            anything_new |= is_new
            has_text = self.texts is not None and self.texts.has(name)
            nothing_asked = self.done is None and self.texts is None
            if is_new or nothing_asked or (self.texts is not None and not has_text):
                yield name
            else:
                self.num_done += 1
