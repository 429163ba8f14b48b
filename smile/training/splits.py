"""The images of a run: for training, for validation and to show; checked before the first step."""

import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

from smile.config import Config
from smile.data.batches import Broken, Example, read_picture
from smile.data.load import load_examples
from smile.data.splits import SPLITS, EmptySplit
from smile.errors import UserError, first_few
from smile.system.distributed import World
from smile.training.console import bar

Splits = dict[str, Sequence[Example]]


def load_splits(config: Config) -> Splits:
    """The examples of each split; those for validation and test may be empty.

    Raises:
        UserError: data are missing or wrong.
    """
    splits: Splits = {}
    for split in SPLITS:
        try:
            splits[split] = load_examples(config.data, split, image_size=config.vit.image_size)
        except EmptySplit:
            if split == "train":
                raise
            splits[split] = []
    return splits


def choose_shown(
    config: Config, splits: Splits, *, world: World
) -> tuple[dict[str, list[Example]], list[Broken]]:
    """The images of "val" and "test" to caption and draw, and those that cannot be read.

    They are the first `train.caption_images` whose pictures can be read. Without
    `data.skip_broken`, all other validation images are opened too, so that an unreadable one is
    found now and not after an epoch.

    Raises:
        UserError: a picture cannot be read, and `data.skip_broken` is false.
    """
    shown: dict[str, list[Example]] = {}
    broken: list[Broken] = []
    for split in ("val", "test"):
        examples = splits.get(split, [])
        count = config.train.caption_images or len(examples)
        if config.data.format == "shapes":  # drawn in memory: no file to read
            shown[split] = list(examples[:count])
            continue
        shown[split], unreadable, rest = _first_readable(examples, count, world)
        if split == "val" and not config.data.skip_broken:
            unreadable += find_broken(rest, world=world).values()
        broken += unreadable
    if not config.data.skip_broken:
        world.first(lambda: _refuse(broken))
    return shown, broken


def _refuse(broken: list[Broken]) -> None:
    if broken:
        raise UserError(
            f"{first_few([item.reason for item in broken])}; "
            "replace or remove it, or set data.skip_broken = true"
        )


def _first_readable(
    examples: Sequence[Example], count: int, world: World
) -> tuple[list[Example], list[Broken], Sequence[Example]]:
    """The first `count` readable examples, the unreadable ones among them, and the rest."""
    readable: list[Example] = []
    broken: list[Broken] = []
    start = 0
    while len(readable) < count and start < len(examples):
        part = examples[start : start + count - len(readable)]
        found = find_broken(part, world=world)
        readable += [example for index, example in enumerate(part) if index not in found]
        broken += found.values()
        start += len(part)
    return readable, broken, examples[start:]


def find_broken(examples: Sequence[Example], *, world: World) -> dict[int, Broken]:
    """Index → `Broken` for examples whose pictures cannot be read; each process opens its share.

    Threads open the pictures, since decoders release the GIL.
    """

    def why_not(index: int) -> Broken | None:
        picture = read_picture(examples[index], skip_broken=True)
        return picture if isinstance(picture, Broken) else None

    share = range(len(examples))[world.rank :: world.size]
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        reasons = pool.map(why_not, share)
        checked = bar(reasons, total=len(share), desc="opening", unit=" pictures", world=world)
        found = {i: reason for i, reason in zip(share, checked, strict=True) if reason is not None}
    return {i: part[i] for part in world.gather(found) for i in sorted(part)}
