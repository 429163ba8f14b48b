"""From examples to padded batches: which captions, in which order, augmented how.

One image is decoded and encoded once for several of its captions (`captions_per_image`), which
saves most of the work; 1 gives BLIP's one pair per row. All randomness depends on the seed, the
epoch and the example, and not on workers or their timing, so a run is reproducible with any number
of workers.
"""

import contextlib
import errno
import hashlib
import random
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import islice
from typing import NamedTuple, Protocol, Self

import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset, Sampler

from smile.errors import UserError
from smile.model.tokenizer import Tokenizer
from smile.system.distributed import World


def batches_of(items: Iterable, size: int) -> Iterator[list]:
    """Lists of up to `size` successive items; each item is read only when needed."""
    items = iter(items)
    while batch := list(islice(items, size)):
        yield batch


class Example(Protocol):
    """An item of a data set: a name to show, cleaned captions, and a picture to read."""

    @property
    def name(self) -> str: ...

    @property
    def captions(self) -> tuple[str, ...]: ...

    def read(self) -> Image.Image: ...


class BatchRow(NamedTuple):
    """One row of a batch: which example, which of its captions, in which epoch."""

    example: int
    captions: tuple[int, ...]
    epoch: int


@dataclass(frozen=True)
class Broken:
    """An image that could not be read."""

    name: str
    reason: str


class BrokenImage(UserError):
    """A broken image found while training.

    DataLoader passes an exception from a worker on by making a new one from the text of its
    traceback. Only the last line of that text is the message, so only that is kept.
    """

    def __init__(self, message: str) -> None:
        super().__init__(message.rpartition(f"{type(self).__name__}: ")[2].strip())


_DEATH = re.compile(r"DataLoader worker \(pid|Pin memory thread")


class WorkerKilled(UserError):
    """A process that reads images was killed or could not be started."""


@contextlib.contextmanager
def catching_dead_workers(workers: int, remedy: str) -> Iterator[None]:
    """Turns DataLoader's errors about workers that died or did not start into `WorkerKilled`.

    Args:
        workers: how many worker processes there are; with 0 nothing is changed.
        remedy: what needs less memory, for the message.
    """
    try:
        yield
    except (RuntimeError, OSError, EOFError) as error:
        died = isinstance(error, ConnectionError | EOFError) or _DEATH.search(str(error))
        not_started = getattr(error, "errno", None) in (errno.EAGAIN, errno.ENOMEM)
        raised_inside = "in DataLoader worker process" in str(error)  # by the code in the worker
        if not workers or raised_inside or not (died or not_started):
            raise
        what = "a process that reads images was killed: memory (or /dev/shm) ran out, or an image "
        what += "crashed its decoder"
        if not_started:
            what = "a process that reads images could not be started"
        raise WorkerKilled(f"{what}; {remedy} ({error})") from error


@dataclass(frozen=True, kw_only=True)
class Batch:
    """B images with up to K captions of up to T tokens each.

    images: (B, 3, S, S) float32, or uint8 for `augment_batch`, or (B, P + 1, D) precomputed
        features.
    ids: (B, K, T) int64, `[DEC] prompt caption [SEP]` padded with 0; a row of zeros where an image
        has fewer than K captions.
    names: B names to show. broken: the skipped images (only with `skip_broken`).
    """

    images: Tensor
    ids: Tensor
    names: list[str]
    broken: list[Broken] = field(default_factory=list)

    def to(self, device: torch.device | str) -> Self:
        """Return the batch on `device`; from pinned memory the copy does not wait."""
        return replace(
            self,
            images=self.images.to(device, non_blocking=True),
            ids=self.ids.to(device, non_blocking=True),
        )

    def ids_by_length(self) -> list[Tensor]:
        """`ids` without needless padding: one or two groups of slots, (B, K', T') each.

        Slots are in order of length, and are cut where the fewest tokens remain, so that a few long
        captions do not pad all the short ones.
        """
        slots, longest = self.ids.shape[1:]
        lengths = (self.ids != 0).sum(dim=2).amax(dim=0).tolist()  # of each slot's longest caption
        sizes = {cut: cut * lengths[cut - 1] + (slots - cut) * longest for cut in range(1, slots)}
        cut = min(sizes, key=sizes.__getitem__, default=0)
        if not cut or lengths[cut - 1] == longest:
            return [self.ids]
        return [self.ids[:, :cut, : lengths[cut - 1]], self.ids[:, cut:]]

    def pin_memory(self) -> Self:
        """Called by DataLoader where it pins memory."""
        return replace(self, images=self.images.pin_memory(), ids=self.ids.pin_memory())


def read_picture(example: Example, *, skip_broken: bool = False) -> Image.Image | Broken:
    """The RGB picture of an example, or why it cannot be read.

    Raises:
        BrokenImage: it cannot be read, and `skip_broken` is false.
    """
    try:
        return example.read()
    except UserError as error:
        if skip_broken:
            return Broken(example.name, str(error))
        raise BrokenImage(
            f"{error}; replace or remove it, or set data.skip_broken = true"
        ) from error


class EpochBatches(Sampler[list[BatchRow]]):
    """A batch sampler that deals every caption of every image exactly once an epoch.

    Each image's captions are shuffled and dealt in groups of `captions_per_image`, of which the
    last may be smaller; the groups of all images are shuffled and cut into batches of `batch_size`
    images. With `shuffle=False` everything stays in order.

    Each of several processes deals its share of every batch; together the shares are the batches of
    a single process. A share of the last batch may be empty.
    """

    def __init__(
        self,
        examples: Sequence[Example],
        *,
        batch_size: int,
        captions_per_image: int,
        seed: int,
        shuffle: bool = True,
        world: World | None = None,
    ) -> None:
        if batch_size < 1 or captions_per_image < 1:
            raise ValueError(
                "batch_size and captions_per_image must be at least 1, "
                f"not {batch_size} and {captions_per_image}"
            )
        self.num_captions = [len(example.captions) for example in examples]
        self.batch_size = batch_size
        self.captions_per_image = captions_per_image
        self.seed = seed
        self.shuffle = shuffle
        self.world = world or World()
        self.epoch = self.first = 0

    def set_epoch(self, epoch: int, *, first: int = 0) -> None:
        """Choose the epoch whose order the next iteration follows, and the batch it begins at."""
        self.epoch, self.first = epoch, first

    @property
    def num_groups(self) -> int:
        """Images (with up to `captions_per_image` captions each) dealt in a whole epoch."""
        return sum(-(-count // self.captions_per_image) for count in self.num_captions)

    def __len__(self) -> int:
        """Batches of a whole epoch."""
        return -(-self.num_groups // self.batch_size)

    def __iter__(self) -> Iterator[list[BatchRow]]:
        rows = self._rows(random.Random(f"{self.seed} {self.epoch}"))
        for start in range(self.first * self.batch_size, len(rows), self.batch_size):
            batch = rows[start : start + self.batch_size]
            yield batch[self.world.rank :: self.world.size]

    def _rows(self, rng: random.Random) -> list[BatchRow]:
        rows = []
        for example, count in enumerate(self.num_captions):
            order = list(range(count))
            if self.shuffle:
                rng.shuffle(order)
            for start in range(0, count, self.captions_per_image):
                captions = tuple(order[start : start + self.captions_per_image])
                rows.append(BatchRow(example, captions, self.epoch))
        if self.shuffle:
            rng.shuffle(rows)
        return rows


class CaptionDataset(Dataset):
    """Reads what a `BatchRow` asks for: (name, image tensor, captions).

    With `features` (by the examples' indices), an image is not read: its features replace its
    tensor.

    A picture that cannot be read raises BrokenImage, a UserError that names it; with
    `skip_broken` it is returned as `Broken`, which `Collate` puts aside.
    """

    def __init__(
        self,
        examples: Sequence[Example],
        transform: Callable[[Image.Image], Tensor],
        *,
        seed: int = 0,
        skip_broken: bool = False,
        features: Mapping[int, Tensor | Broken] | None = None,
    ) -> None:
        self.examples = examples
        self.features = features
        self.transform = transform
        self.seed = seed
        self.skip_broken = skip_broken

    def __len__(self) -> int:
        return len(self.examples)

    def __getitem__(self, row: BatchRow) -> tuple[str, Tensor, list[str]] | Broken:
        example = self.examples[row.example]
        captions = [example.captions[index] for index in row.captions]
        if self.features is not None:
            known = self.features[row.example]
            return known if isinstance(known, Broken) else (example.name, known, captions)
        image = read_picture(example, skip_broken=self.skip_broken)
        if isinstance(image, Broken):
            return image
        with torch.random.fork_rng(devices=[]):
            # Not torch.manual_seed: it would also reseed the GPU, which fork_rng does not restore.
            torch.default_generator.manual_seed(self._augmentation_seed(row))
            pixels = self.transform(image)
        return example.name, pixels, captions

    def _augmentation_seed(self, row: BatchRow) -> int:
        """One seed per row, unrelated between rows; the first caption tells an image's apart."""
        key = f"{self.seed} {row.epoch} {row.example} {row.captions[0]}"
        return int.from_bytes(hashlib.blake2b(key.encode(), digest_size=7).digest())


class Collate:
    """Rows from a `CaptionDataset` → `Batch`, padded no further than this batch needs.

    `prompt`, `max_tokens` and `shift_first` are passed to `tokenizer.encode`. If every image was
    broken, the batch has no rows: images (0, 3, 0, 0), ids (0, 0, 0).
    """

    def __init__(
        self, tokenizer: Tokenizer, *, prompt: str, max_tokens: int, shift_first: bool = False
    ) -> None:
        self.tokenizer = tokenizer
        self.encode = partial(
            tokenizer.encode, prompt=prompt, max_tokens=max_tokens, shift_first=shift_first
        )

    def __call__(self, rows: Sequence[tuple[str, Tensor, list[str]] | Broken]) -> Batch:
        broken = [row for row in rows if isinstance(row, Broken)]
        whole = [row for row in rows if not isinstance(row, Broken)]
        images = [pixels for _, pixels, _ in whole]
        return Batch(
            images=torch.stack(images) if images else torch.zeros(0, 3, 0, 0),
            ids=self._pad([self._encode(captions) for _, _, captions in whole]),
            names=[name for name, _, _ in whole],
            broken=broken,
        )

    def _encode(self, captions: list[str]) -> list[list[int]]:
        """Token ids of an image's captions, the shortest first."""
        return sorted(map(self.encode, captions), key=len)

    @staticmethod
    def _pad(images: list[list[list[int]]]) -> Tensor:
        """Token ids, ragged in both dimensions → (B, K, T) int64, padded with zeros."""
        most = max((len(captions) for captions in images), default=0)
        longest = max((len(ids) for captions in images for ids in captions), default=0)
        padded = torch.zeros(len(images), most, longest, dtype=torch.int64)
        for row, captions in zip(padded, images, strict=True):
            for slot, ids in zip(row[most - len(captions) :], captions, strict=True):
                slot[: len(ids)] = torch.tensor(ids)
        return padded
