"""A byte-pair vocabulary small enough to write down: all bytes, and a few words."""

import json
from pathlib import Path

from tokenizers.pre_tokenizers import ByteLevel

WORDS = ("a", "dog", "dogs", "on", "the", "beach", "photo", "depicts", "don", "caf")


def write_tiny_bpe(folder: Path, *, suffix: str, space: str, special: tuple[str, ...]) -> int:
    """Writes `vocab.json` and `merges.txt`. Returns the vocabulary's size.

    Args:
        suffix: marks pieces that end a word (CLIP's "</w>"), or "".
        space: what a space before a word is written as (GPT-2's "Ġ"), or "".
        special: tokens that get the last ids.
    """
    letters = sorted(ByteLevel.alphabet())
    pieces = [*letters, *(letter + suffix for letter in letters if suffix)]
    merges = []
    for word in WORDS:
        parts = [*space, *word]
        parts[-1] += suffix
        while len(parts) > 1:
            pair = (parts[0], parts[1])
            parts[:2] = ["".join(pair)]
            if pair not in merges:
                merges.append(pair)
                pieces.append(parts[0])
    pieces = [*dict.fromkeys(pieces), *special]
    vocab = {piece: i for i, piece in enumerate(pieces)}
    (folder / "vocab.json").write_text(json.dumps(vocab), encoding="utf-8")
    lines = ["#version: 0.2", *(" ".join(pair) for pair in merges)]
    (folder / "merges.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return len(pieces)
