"""A run's folder: it holds one run, and one process (or group of them) writes it at a time."""

import contextlib
import os
import shlex
import sys
from collections.abc import Iterator
from pathlib import Path

from smile.errors import UserError
from smile.system.distributed import World
from smile.system.files import remove_unfinished, writing
from smile.system.lock import ProcessLock
from smile.training.checkpointing.checkpoints import Checkpoints
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
        UserError: there is nothing to resume, or `out` holds another run.
    """
    folder = out or default_folder(config)
    resumable = bool(Checkpoints(folder).numbers())
    if resume and not resumable:
        raise UserError(f"--resume: {folder} holds no interrupted run (it has no checkpoints)")
    if resume or not (resumable or is_run(folder)):
        return folder
    if out:
        raise UserError(
            f"--out {folder} holds a run: add --resume to resume it, or name another folder"
        )
    number = next(n for n in range(2, 10**6) if not Path(f"{folder}-{n}").exists())
    print(
        f"{folder} holds a run; this one goes to {folder}-{number} (--resume resumes the old one)"
    )
    return Path(f"{folder}-{number}")


@contextlib.contextmanager
def claimed(folder: Path, world: World) -> Iterator[None]:
    """Keeps other runs out of the folder inside.

    Raises:
        UserError: another run is writing it, or not all processes see it.
    """
    lock = ProcessLock(folder / ".lock")
    world.first(lambda: _claim(folder, lock))
    try:
        if not folder.exists():
            raise UserError(f"{folder}: not seen from here; all machines of a run need one disk")
        yield
    finally:
        _leave(folder, lock)


def _claim(folder: Path, lock: ProcessLock) -> None:
    """Locks the folder for this run, and removes half-written files of a killed run."""
    with writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
        if not lock.acquire():
            raise UserError(f"{folder}: another run is writing it: wait for its end, or use --out")
        remove_unfinished(folder)


def _leave(folder: Path, lock: ProcessLock) -> None:
    """Releases the lock, and removes the folder if the run wrote nothing into it."""
    claimed = lock.held
    lock.release()
    if claimed:
        with contextlib.suppress(OSError):  # not empty
            folder.rmdir()


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
