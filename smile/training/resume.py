"""What must be the same for a run to be gone on with."""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from smile.config import Config
from smile.data import Example
from smile.data.layouts import SPLITS
from smile.errors import UserError, first_few
from smile.files import expect

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


def check_about(about: dict[str, Any], where: str) -> None:
    """Raises UserError unless a checkpoint's .json, called `where`, says what is written there."""
    expect(about.get("progress"), str, where=f"{where}: progress")
    if expect(about.get("processes"), int, where=f"{where}: processes") < 1:
        raise UserError(f"{where}: processes: found {about['processes']}, expected at least 1")
    run = expect(about.get("run"), dict, where=f"{where}: run")
    config = expect(run.get("config"), dict, where=f"{where}: run.config")
    for section, settings in config.items():
        expect(settings, dict, where=f"{where}: run.config.{section}")
    captions = expect(run.get("captions"), dict, where=f"{where}: run.captions")
    for split in SPLITS:
        expect(captions.get(split), str, where=f"{where}: run.captions.{split}")


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
