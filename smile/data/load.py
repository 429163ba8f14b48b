"""Data sets: their examples (`load_examples`), and how pictures and captions become batches.

`smile.data.augment` is not imported here: it imports torchvision, which takes seconds and which
only training needs.
"""

from collections.abc import Sequence

from smile.config import DataConfig
from smile.data import flickr8k, folder, karpathy
from smile.data.batches import (
    Example,
)
from smile.data.shapes import make_scenes
from smile.data.splits import SPLITS, EmptySplit
from smile.errors import UserError


def load_examples(data: DataConfig, split: str, *, image_size: int = 224) -> Sequence[Example]:
    """Return the examples of `split` ("train", "val" or "test") that `data` describes.

    `image_size` is the side at which scenes of the format "shapes" are drawn. Raises UserError if
    data are missing or wrong, and says where to get them.
    """
    if split not in SPLITS:
        raise ValueError(f"split must be one of {', '.join(SPLITS)}, not {split!r}")
    match data.format:
        case "shapes":
            count = {"train": data.num_train, "val": data.num_val, "test": data.num_test}[split]
            if count == 0:
                raise EmptySplit(f"data.num_{split} = 0: the {split} split is empty")
            return make_scenes(split, count, seed=data.seed, image_size=image_size)
        case "flickr8k":
            return flickr8k.load(
                data.root,
                split,
                val_fraction=data.val_fraction,
                test_fraction=data.test_fraction,
                max_words=data.max_words,
            )
        case "karpathy":
            return karpathy.load(
                data.root, split, annotations=data.annotations, max_words=data.max_words
            )
        case "folder":
            return folder.load(
                data.root,
                split,
                annotations=data.annotations,
                val_fraction=data.val_fraction,
                test_fraction=data.test_fraction,
                max_words=data.max_words,
            )
    raise UserError(
        f"data.format: {data.format!r} is not known; expected shapes, flickr8k, karpathy or folder"
    )
