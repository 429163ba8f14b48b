"""Flickr8k's captions by their ids, NAME.jpg#0 to NAME.jpg#4, as its human ratings name them.

Flickr8k.token.txt has the ids. captions.txt (Kaggle's) and dataset_flickr8k.json (Karpathy's) have
the captions in the same order without them. There a caption's place is its number, so every photo
must have all of its five.
"""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path

from smile.data import flickr8k, karpathy
from smile.data.flickr8k_archives import command
from smile.data.places import nfc
from smile.data.sources import find_file
from smile.errors import UserError, first_few

__all__ = ["Captions", "captions_by_id"]

NUMBER = 5  # captions of each photo

Captions = dict[str, dict[str, str]]
"""By a photo's name: its captions by their numbers, "0" to "4"."""


def captions_by_id(
    root: str | os.PathLike[str], *, annotations: str | os.PathLike[str] = ""
) -> tuple[Path, Captions]:
    """The file of captions that a folder of Flickr8k has, and what it says.

    Args:
        annotations: Karpathy's file, from here or from `root`; "" if it is the one in `root`.

    Raises:
        UserError: there is no such file, it is wrong, or its captions have no ids and a photo has
            more or fewer than five.
    """
    root, (table, tokens) = Path(root), flickr8k.CAPTIONS
    if os.path.isfile(root / tokens):
        return root / tokens, _with_ids(root / tokens)
    if os.path.isfile(root / table):
        path, captions = flickr8k.read_captions(root)
    elif (file := find_file(root, annotations)) is not None:
        path, captions = file, karpathy.read_captions(file)
    else:
        raise UserError(
            f"{root}: none of Flickr8k's files of captions is there ({tokens}, {table} or "
            f"dataset_flickr8k.json); to put the first one there: {command(root)}"
        )
    return path, _in_their_order(path, captions)


def _with_ids(path: Path) -> Captions:
    captions: Captions = {}
    for key, text in flickr8k.token_lines(path):
        name, _, number = key.rpartition("#")
        captions.setdefault(nfc(name), {})[number] = text
    return captions


def _in_their_order(path: Path, captions: Mapping[str, Sequence[str]]) -> Captions:
    wrong = [f"{name} has {len(texts)}" for name, texts in captions.items() if len(texts) != NUMBER]
    if wrong:
        raise UserError(
            f"{path}: {len(wrong)} of {len(captions)} photos do not have {NUMBER} captions: "
            f"{first_few(wrong)}; a caption's place there is its number in Flickr8k, so expected "
            f"the file as published, or {flickr8k.CAPTIONS[1]}, which has the numbers"
        )
    return {
        nfc(name): {str(number): text for number, text in enumerate(texts)}
        for name, texts in captions.items()
    }
