"""What is checked and unpacked before any run of the study begins."""

import json
import shutil
from collections.abc import Sequence
from fnmatch import fnmatch
from functools import partial
from pathlib import Path

from plan import Run

from smile.data.unzip import unpack
from smile.errors import UserError
from smile.system.files import read_json, write_text, writing

MOST_UNPACKED = 2 << 30  # bytes of an archive of photos
SETTINGS = "settings.json"  # in the out folder: what each run was told


def unpacked(archive: Path, folder: Path) -> Path:
    """Unpacks Flickr8k's photos and lists into a folder of ours, unless that is done; returns it.

    Raises:
        UserError: the archive is not whole or not safe, or the folder cannot be written.
    """
    done = folder / ".unpacked"
    if not done.exists():
        if folder.exists():  # an earlier call was interrupted
            with writing(folder):
                shutil.rmtree(folder)
        for place, pattern in ((folder / "images", "*.jpg"), (folder, "*.txt")):
            unpack(archive, place, wanted=partial(fnmatch, pat=pattern), most_bytes=MOST_UNPACKED)
        with writing(done):
            done.touch()
    return folder


def check_set(runs: Sequence[Run], given: Sequence[str]) -> None:
    """Refuses a `--set` that would make runs equal which are there to be compared.

    Raises:
        UserError: runs of the plan differ in that setting.
    """
    planned = [dict(setting.split("=", 1) for setting in run.settings) for run in runs]
    for setting in given:
        key = setting.partition("=")[0].strip()
        if len({settings.get(key) for settings in planned}) > 1:
            raise UserError(
                f"--set {setting}: the study's runs differ in {key}, so it cannot be the same in "
                "all of them; plan.py says what each has"
            )


def check_same_study(out: Path, runs: Sequence[Run], given: Sequence[str]) -> None:
    """Refuses an out folder of a study with other settings, and records these.

    Raises:
        UserError: a run of the folder was told something else, or the record cannot be written.
    """
    path = out / SETTINGS
    told = read_json(path) if path.exists() else {}
    now = {run.name: [*run.settings, *given] for run in runs}
    for name, settings in now.items():
        before = told.get(name, settings)
        if before != settings:
            changed = sorted(set(before) ^ set(settings))
            raise UserError(
                f"{out}: {name} was begun with other settings ({', '.join(changed)} differ); give "
                "the same options as before, or another --out"
            )
    with writing(path):
        write_text(path, json.dumps(told | now, indent=1) + "\n")
