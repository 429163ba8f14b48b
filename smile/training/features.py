"""Features of a frozen encoder, computed once and read again in every epoch.

If the encoder is frozen and the pictures are not augmented, an image has the same features in each
epoch, so the encoder needs to run only once. The features are in a file in the run's folder that
all processes map. The file is unlinked as soon as it is mapped, so it is gone when they end.
(Windows keeps the name of a mapped file; the next run in the folder removes it.)
"""

import contextlib
import math
import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import BinaryIO

import torch
from torch import Tensor
from torch.utils.data import DataLoader

from smile.data.batches import (
    BatchRow,
    Broken,
    CaptionDataset,
    Example,
    batches_of,
    catching_dead_workers,
)
from smile.errors import UserError, counted
from smile.model.captioner import Captioner
from smile.system.distributed import World
from smile.system.files import writing
from smile.training.checkpointing.signals import leave_signals_to_the_parent
from smile.training.console import bar, say
from smile.training.precision import Precision

ZEROS = 2**24  # bytes written at a time where the system cannot set room aside
NEEDS_LESS = "train.workers = 0 and a smaller train.batch_size need less"  # memory


class Features(Mapping[int, Tensor | Broken]):
    """Features of all images of a split, by index; `Broken` for an image that cannot be read."""

    def __init__(self, values: Tensor, broken: dict[int, Broken]) -> None:
        self.stored = values
        self.broken = broken

    def __getitem__(self, index: int) -> Tensor | Broken:
        """(P + 1, D), or why there are none."""
        return self.broken.get(index, self.stored[index])

    def __iter__(self) -> Iterator[int]:
        return iter(range(len(self)))

    def __len__(self) -> int:
        return len(self.stored)


def compute_features(
    captioner: Captioner,
    examples: Sequence[Example],
    *,
    path: Path,
    precision: Precision,
    world: World,
) -> Features:
    """Encodes every image of a split, shared out over processes, which are all on one machine.

    Args:
        path: where the file is made, in the run's folder; of no other split.

    Raises:
        UserError: the disk is too full, or an image cannot be read (without `skip_broken`).
    """
    config = captioner.config
    shape = (len(examples), captioner.vit.positions.size(1), config.vit.dim)
    if world.is_first:
        size = 4 * math.prod(shape) / 1e9
        number = counted(len(examples), "image")
        say(f"features of {number}, computed once: {size:.2f} GB")
    world.first(lambda: _make_room(path, 4 * math.prod(shape)))
    values = torch.from_file(str(path), shared=True, size=math.prod(shape)).view(shape)
    world.wait()
    world.first(lambda: _unname(path))
    broken: dict[int, Broken] = {}
    for indices, pictures in _local_share(captioner, examples, world):
        whole = {i: p for i, p in zip(indices, pictures, strict=True) if not isinstance(p, Broken)}
        broken |= {i: p for i, p in zip(indices, pictures, strict=True) if isinstance(p, Broken)}
        if whole:
            with torch.inference_mode(), precision.autocast():
                images = torch.stack(list(whole.values())).to(captioner.device)
                values[list(whole)] = captioner.encode(images).float().cpu()
    return Features(values, {i: b for part in world.gather(broken) for i, b in part.items()})


def on_one_machine(world: World) -> bool:
    """Whether all processes can map the same file, according to torchrun."""
    return int(os.environ.get("LOCAL_WORLD_SIZE", world.size)) == world.size


def _make_room(path: Path, size: int) -> None:
    """Makes a file of `size` bytes, for which the disk space is reserved."""
    free = shutil.disk_usage(path.parent).free
    if size > free:
        raise UserError(
            f"train.freeze: the features take {size / 1e9:.1f} GB, but {path.parent} has "
            f"{free / 1e9:.1f} GB left; use another disk (--out), or set data.augment = true, with "
            "which no features are stored"
        )
    with writing(path), open(path, "wb") as file:
        _allocate(file, size)


def _allocate(file: BinaryIO, size: int) -> None:
    """Lengthens an empty file to `size` bytes of zeros that have their room on the disk."""
    if hasattr(os, "posix_fallocate"):
        os.posix_fallocate(file.fileno(), 0, size)
        return
    for start in range(0, size, ZEROS):  # macOS, Windows: what is only made longer has no room yet
        file.write(bytes(min(ZEROS, size - start)))


def _unname(path: Path) -> None:
    with contextlib.suppress(PermissionError):  # Windows, while it is mapped
        path.unlink()


def _local_share(
    captioner: Captioner, examples: Sequence[Example], world: World
) -> Iterator[tuple[Sequence[int], list[Tensor | Broken]]]:
    """Lists of indices with their pictures, (3, S, S) or Broken, for this process to encode."""
    config, size = captioner.config, captioner.config.train.batch_size
    local = range(len(examples))[world.rank :: world.size]
    batches = list(batches_of(local, size))
    loader = DataLoader(
        CaptionDataset(examples, captioner.transform, skip_broken=config.data.skip_broken),
        batch_sampler=[[BatchRow(index, (0,), 0) for index in batch] for batch in batches],
        collate_fn=_pictures,
        num_workers=config.train.workers,
        worker_init_fn=leave_signals_to_the_parent,
        generator=torch.Generator(),
    )
    pictures = bar(loader, desc="features", unit=" batches", world=world)
    with catching_dead_workers(loader.num_workers, NEEDS_LESS):
        yield from zip(batches, pictures, strict=True)


def _pictures(rows: list[tuple[str, Tensor, list[str]] | Broken]) -> list[Tensor | Broken]:
    return [row if isinstance(row, Broken) else row[1] for row in rows]
