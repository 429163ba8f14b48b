"""Batches of a split, read ahead by worker processes."""

import multiprocessing
import signal
import threading
from collections.abc import Callable, Iterator, Sequence

import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader

from smile.data.batches import (
    Batch,
    BrokenImage,
    CaptionDataset,
    Collate,
    EpochBatches,
    Example,
    WorkerKilled,
    catching_dead_workers,
)
from smile.data.device_augment import Pixels
from smile.errors import UserError
from smile.model.captioner import Captioner
from smile.system.distributed import World
from smile.training.checkpointing.signals import leave_signals_to_the_parent
from smile.training.features import NEEDS_LESS, Features

PREFETCH = 4  # batches that each worker has ready, so that a few slow pictures delay no step


class BatchLoader(DataLoader):
    """`Batch`es, in the order of an `EpochBatches`."""

    batch_sampler: EpochBatches


def make_loader(
    captioner: Captioner,
    examples: Sequence[Example],
    *,
    training: bool,
    pin_memory: bool,
    world: World,
    features: Features | None = None,
) -> BatchLoader:
    """`Batch`es of `examples`: augmented and shuffled for training, in order otherwise.

    With `features`, no image is read: the batches hold the features instead. Settings are those of
    `captioner.config`.
    """
    config, data = captioner.config.train, captioner.config.data
    transform: Callable[[Image.Image], Tensor] = captioner.transform
    # Only forked workers inherit the memory map of the features. Without fork, the main process
    # reads them itself: they are in memory.
    forks = multiprocessing.get_start_method() == "fork"
    workers = config.workers if features is None or forks else 0
    if training and data.augment and data.augment_on == "device":
        transform = Pixels(captioner.config.vit.image_size)
    elif training and data.augment:
        from smile.data.augment import TrainTransform  # imports torchvision, which takes seconds

        transform = TrainTransform(captioner.config.vit.image_size)
    return BatchLoader(
        CaptionDataset(
            examples,
            transform,
            seed=config.seed,
            skip_broken=data.skip_broken,
            features=features,
        ),
        batch_sampler=EpochBatches(
            examples,
            batch_size=config.batch_size,
            captions_per_image=data.captions_per_image,
            seed=config.seed,
            shuffle=training,
            world=world,
        ),
        collate_fn=Collate(
            captioner.tokenizer,
            prompt=data.prompt,
            max_tokens=data.max_tokens,
            shift_first=captioner.config.loss.first_token == "shift",
        ),
        num_workers=workers,
        worker_init_fn=leave_signals_to_the_parent,
        pin_memory=pin_memory,
        prefetch_factor=PREFETCH if workers > 0 else None,
        persistent_workers=training and workers > 0,
        # A loader samples a seed for its workers, which do not use it. A separate generator keeps
        # that from changing dropout's random numbers.
        generator=torch.Generator(),
    )


class NoNextBatch(UserError):
    """A batch cannot be read. All processes of a run raise it together, between two batches."""


def read(loader: DataLoader, world: World) -> Iterator[Batch]:
    """The loader's batches, equally many in every process of the run.

    Raises:
        NoNextBatch: in any process, an image is broken or a worker died.
    """
    batches: Iterator[Batch] | None = None
    while True:
        batch, failure = None, None
        try:
            with catching_dead_workers(loader.num_workers, NEEDS_LESS):
                if batches is None:
                    batches = iter(loader)
                    _notice_deaths_while_waiting()
                batch = next(batches, None)
        except (BrokenImage, WorkerKilled) as error:
            failure = error
        if any(world.largest([failure is not None])):
            reasons = world.gather("" if failure is None else str(failure))
            raise NoNextBatch(next(filter(None, reasons))) from failure
        if batch is None:
            return
        yield batch


def _notice_deaths_while_waiting() -> None:
    """Lets a loader notice dead workers only while it waits for them, every few seconds.

    torch's SIGCHLD handler would raise an error wherever the main process happens to be, perhaps in
    the middle of a step, after which the run could not be saved.
    """
    if hasattr(signal, "SIGCHLD") and threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
