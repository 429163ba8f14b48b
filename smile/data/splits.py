"""Training, validation and test: the names of splits, and a split by a hash of names."""

import hashlib
from collections.abc import Iterable

from smile.errors import UserError
from smile.system.files import show

SPLITS = ("train", "val", "test")
# Common names of splits. "restval" is Karpathy's: COCO validation images used for training.
SPLIT_OF = {
    **{"train": "train", "training": "train", "restval": "train"},
    **{"val": "val", "valid": "val", "validation": "val", "dev": "val", "test": "test"},
}


class EmptySplit(UserError):
    """A split has no images; otherwise the data are right."""


def split_of(name: object, *, where: str) -> str:
    """A split's name in a file → train, val or test."""
    split = SPLIT_OF.get(name.strip().lower()) if isinstance(name, str) else None
    if split is None:
        raise UserError(f"{where}: unknown split {show(name)}, expected {', '.join(SPLIT_OF)}")
    return split


def hash_splits(names: Iterable[str], val_fraction: float, test_fraction: float) -> dict[str, str]:
    """Split by a hash of the name, so that added images move no other image to another split.

    Names may hold surrogate escapes (bytes that are not UTF-8). In a small folder no hash may fall
    into a fraction; the nearest name is then taken, so that a split with a fraction above 0 is not
    empty.
    """
    place = {name: _fraction(name) for name in names}
    order = sorted(place, key=place.__getitem__)
    num_val = sum(x < val_fraction for x in place.values()) or int(val_fraction > 0)
    num_test = sum(val_fraction <= x < val_fraction + test_fraction for x in place.values())
    num_test = num_test or int(test_fraction > 0)
    train = len(order) - num_val - num_test
    return dict(
        zip(order, ["val"] * num_val + ["test"] * num_test + ["train"] * train, strict=False)
    )


def _fraction(name: str) -> float:
    """A pseudo-random number from 0 to 1 that depends only on the name."""
    digest = hashlib.blake2b(name.encode("utf-8", "surrogateescape"), digest_size=8).digest()
    return int.from_bytes(digest) / 2**64
