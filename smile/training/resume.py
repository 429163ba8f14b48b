"""What must be the same for a run to be gone on with."""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from smile.config import Config
from smile.data import Example
from smile.errors import UserError, first_few

# Settings that do not change what is learned. Where the data lie is free too: what they say is
# compared instead.
FREE = {
    "model.trained_on",
    "data.root",
    "data.annotations",
    "train.device",
    "train.workers",
    "train.save_minutes",
    "train.compile",
    "train.checkpoint_blocks",
    "train.caption_images",
}


def identity(config: Config, examples: dict[str, Sequence[Example]]) -> dict[str, Any]:
    """What a run is: its config, and a hash of all captions of each split."""
    hashes = {}
    for split, part in examples.items():
        text = json.dumps([example.captions for example in part])
        hashes[split] = hashlib.sha256(text.encode()).hexdigest()
    return json.loads(json.dumps({"config": asdict(config), "captions": hashes}))


def check_same(old: dict[str, Any], new: dict[str, Any]) -> None:
    """Raises UserError, naming keys and both values, where two runs' `identity` differs."""
    before, after = (_flat(run["config"]) for run in (old, new))
    keys = [key for key in before.keys() | after.keys() if key not in FREE]
    changed = [
        f"{key} = {json.dumps(before.get(key))} there, {json.dumps(after.get(key))} now"
        for key in keys
        if before.get(key) != after.get(key)
    ]
    if changed:
        raise UserError(
            f"--resume: the run was begun with other settings: {first_few(changed, 8)}; "
            "resume it with its own, or begin another with --out"
        )
    splits = [
        split for split in new["captions"] if old["captions"][split] != new["captions"][split]
    ]
    if splits:
        raise UserError(
            f"--resume: the captions of {', '.join(splits)} are not those the run was begun with; "
            "put them back, or begin another run with --out"
        )


def _flat(config: dict[str, dict]) -> dict[str, Any]:
    return {f"{section}.{key}": v for section, keys in config.items() for key, v in keys.items()}
