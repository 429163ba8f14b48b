"""The data that a run trains and validates on.

With `data.cache`, pictures are decoded once for all epochs. With a frozen encoder and no
augmentation, its features are computed once.
"""

from collections.abc import Callable
from pathlib import Path

from smile.data.picture_cache import cached, make_cache
from smile.model.captioner import Captioner
from smile.system.distributed import World
from smile.system.files import UNFINISHED, write_atomically
from smile.training.features import Features, compute_features, on_one_machine
from smile.training.loader import BatchLoader, make_loader
from smile.training.precision import Precision
from smile.training.speed import is_frozen
from smile.training.splits import Splits


class TrainingData:
    """The splits of a run. `loader` makes batches of a split, before or after `prepare`."""

    def __init__(self, captioner: Captioner, splits: Splits, *, world: World) -> None:
        self.captioner, self.world = captioner, world
        self.splits = splits
        self.features: dict[str, Features] = {}

    def prepare(self, *, folder: Path, precision: Precision, say: Callable[[str], None]) -> None:
        """Decodes pictures and computes features, as far as the config lets this be done once.

        Raises:
            UserError: as `decode_once` and `compute_features` do.
        """
        self.splits = decode_once(self.captioner, self.splits, world=self.world, say=say)
        self.features = encode_once(
            self.captioner,
            self.splits,
            folder=folder,
            precision=precision,
            world=self.world,
            say=say,
        )

    def loader(self, split: str) -> BatchLoader:
        return make_loader(
            self.captioner,
            self.splits[split],
            features=self.features.get(split),
            training=split == "train",
            pin_memory=self.captioner.device.type == "cuda",
            world=self.world,
        )


def decode_once(
    captioner: Captioner, splits: Splits, *, world: World, say: Callable[[str], None]
) -> Splits:
    """The splits unchanged, or with `data.cache`, train and val with pictures read from that file.

    Raises:
        UserError: a picture cannot be read (without `data.skip_broken`), or the disk is too full.
    """
    data, size = captioner.config.data, captioner.config.vit.image_size
    if not data.cache:
        return splits
    train, val = splits["train"], splits["val"]
    both = [*train, *val]

    def make() -> None:
        make_cache(
            both,
            data.cache,
            size=size,
            write=write_atomically,
            skip_broken=data.skip_broken,
            say=say,
        )

    world.first(make)
    decoded = cached(both, data.cache, size=size)
    return {"train": decoded[: len(train)], "val": decoded[len(train) :]}


def encode_once(
    captioner: Captioner,
    splits: Splits,
    *,
    folder: Path,
    precision: Precision,
    world: World,
    say: Callable[[str], None],
) -> dict[str, Features]:
    """A frozen encoder's features of all pictures of train and val, by split.

    Empty if the features change from epoch to epoch, or if the processes cannot share a file.
    """
    if not is_frozen(captioner) or captioner.config.data.augment:
        return {}
    if not on_one_machine(world):
        say("the frozen encoder runs in every step: several machines cannot map one file")
        return {}
    captioner.eval()
    return {
        split: compute_features(
            captioner,
            splits[split],
            path=folder / f"{UNFINISHED}features-{split}",
            precision=precision,
            world=world,
        )
        for split in ("train", "val")
        if splits[split]
    }
