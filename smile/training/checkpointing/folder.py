"""A run's folder: it holds one run, and one process (or group of them) writes it at a time."""

import contextlib
import os
import shlex
import sys
from collections.abc import Iterator
from pathlib import Path

from smile.errors import UserError
from smile.system.distributed import World
from smile.system.files import make_folder, remove_empty, remove_unfinished, writing
from smile.system.lock import ProcessLock
from smile.training.checkpointing.checkpoints import Checkpoints
from smile.training.console import say
from smile.weights.checksum import check_sum
from smile.weights.run_folder import MLE_FOLDER, WEIGHTS, is_run


def default_folder(config: str) -> Path:
    """runs/shapes for configs/shapes.toml."""
    return Path("runs") / Path(config).stem


def run_folder(config: str, out: Path | None, *, resume: bool) -> Path:
    """The folder of a run: never one that holds another run, unless that is resumed.

    Args:
        config: path of its config, which gives the folder its name unless `out` does.

    Raises:
        UserError: there is nothing to resume, `out` holds another run, or it cannot be written.
    """
    folder = out or default_folder(config)
    resumable = bool(Checkpoints(folder).numbers())
    if resume and not resumable:
        raise UserError(f"--resume: {folder} holds no interrupted run (it has no checkpoints)")
    if resume or not (resumable or is_run(folder)):
        return _checked(folder)
    if out:
        raise UserError(
            f"--out {folder} holds a run: add --resume to resume it, or name another folder"
        )
    number = next(n for n in range(2, 10**6) if not Path(f"{folder}-{n}").exists())
    say(f"{folder} holds a run; this one goes to {folder}-{number} (--resume resumes the old one)")
    return _checked(Path(f"{folder}-{number}"))


def _checked(folder: Path) -> Path:
    """The folder, if it can be claimed: that shows before data and weights are downloaded."""
    lock = ProcessLock(folder / ".lock")
    _leave(lock, _claim(folder, lock))
    return folder


@contextlib.contextmanager
def claimed(folder: Path, world: World) -> Iterator[None]:
    """Keeps other runs out of the folder inside.

    A folder that is made for the run is removed if the run ends before it has written anything.

    Raises:
        UserError: another run is writing it, or not all processes see it.
    """
    lock = ProcessLock(folder / ".lock")
    made = world.first(lambda: _claim(folder, lock))
    try:
        if not folder.exists():
            raise UserError(f"{folder}: not seen from here; all machines of a run need one disk")
        yield
    finally:
        _leave(lock, made)


def _claim(folder: Path, lock: ProcessLock) -> list[Path]:
    """Locks the folder for this run, and removes half-written files of a killed run.

    Returns:
        The folders that had to be made, the innermost first.
    """
    made: list[Path] = []
    try:
        with writing(folder):
            made += make_folder(folder)
            if not lock.acquire():
                raise UserError(
                    f"{folder}: another run is writing it: wait for its end, or use --out"
                )
            remove_unfinished(folder)
    except UserError:
        _leave(lock, made)
        raise
    return made


def _leave(lock: ProcessLock, made: list[Path]) -> None:
    """Releases the lock, and removes the folders that were made, as far as they are empty."""
    lock.release()
    remove_empty(made)


def check_captioners(folder: Path) -> None:
    """Compares the captioners that are read at the end of a run with their checksums.

    Raises:
        UserError: one of them is damaged.
    """
    for part in (folder, folder / MLE_FOLDER):
        if is_run(part):
            check_sum(part / WEIGHTS)


def resume_command(config: str, out: Path | None, folder: Path, world: World) -> str:
    """The command that resumes this run."""
    words = [word for word in sys.argv[1:] if word != "--resume"]
    if out is None and folder != default_folder(config):
        words += ["--out", str(folder)]
    launcher, remark = ["python"], ""
    if world.size > 1:
        launcher = ["torchrun", "--nproc-per-node", os.environ["LOCAL_WORLD_SIZE"]]
        if (machines := os.environ.get("GROUP_WORLD_SIZE", "1")) != "1":
            launcher[1:1] = ["--nnodes", machines]
            remark = " (on each machine, with its --rdzv options)"
    return shlex.join([*launcher, sys.argv[0], *words, "--resume"]) + remark
