"""The checkpoints that `--resume` reads: whole files, of which the last two are kept.

    runs/shapes/checkpoints/
        000017.pt       everything that the run's next step depends on
        000017.json     its progress, its config, and the other file's size and SHA-256
        000018.pt …

The .json is written last; a pair without it does not count. A process killed at any moment, a loss
of power or a full disk leaves the last pair unchanged. If that is damaged later, the previous one
is used.
"""

import json
import pickle
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from smile.errors import UserError, reason_of
from smile.system.files import (
    check_regular,
    expect,
    read_json,
    reading,
    sha256,
    write_atomically,
    write_text,
    writing,
)
from smile.training.console import say
from smile.weights.run_folder import CHECKPOINTS

KEPT = 2


class Checkpoints:
    """The checkpoints of the run in `folder`.

    `number` is the one last saved or chosen, 0 if there is none. A folder with a checkpoint's name
    is not ours: it is kept, with one message.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder / CHECKPOINTS
        self.good: list[int] = []  # numbers known to be whole, oldest first
        self.left_alone: set[Path] = set()

    @property
    def number(self) -> int:
        return self.good[-1] if self.good else 0

    def path(self, number: int) -> Path:
        return self.folder / f"{number:06}.pt"

    def numbers(self) -> list[int]:
        """The numbers of all checkpoints, oldest first."""
        return sorted(int(path.stem) for path in self._files() if path.suffix == ".json")

    def _files(self) -> list[Path]:
        """All files and folders with a checkpoint's name."""
        return [path for path in self.folder.glob("*.*") if re.fullmatch(r"[0-9]{1,18}", path.stem)]

    def save(self, state: dict[str, Any], about: dict[str, Any]) -> None:
        """Writes both files, and removes all but the last two good checkpoints.

        Raises:
            UserError: they cannot be written; earlier ones are unchanged.
        """
        number = max([0, *(int(path.stem) for path in self._files())]) + 1
        path = self.path(number)
        seal: dict[str, Any] = {}

        def write(temporary: Path) -> None:
            _save(state, temporary)
            seal.update(bytes=temporary.stat().st_size, sha256=sha256(temporary))

        with writing(path):
            self.folder.mkdir(parents=True, exist_ok=True)
            write_atomically(path, write)
            text = json.dumps(about | seal, indent=2) + "\n"
            write_text(path.with_suffix(".json"), text)
            self.good = [*self.good, number][-KEPT:]
            self._remove_others()

    def _remove_others(self) -> None:
        for path in self._files():  # also a .pt without .json, whose writer was killed
            if path.is_dir() and path not in self.left_alone:
                say(f"{path}: a folder with a checkpoint's name: left as it is")
                self.left_alone.add(path)
            if int(path.stem) not in self.good and not path.is_dir():
                path.unlink()

    def choose(
        self, check: Callable[[dict[str, Any], str], None] = lambda about, where: None
    ) -> tuple[int, dict[str, Any], list[str]]:
        """The newest whole checkpoint: its number, its .json, and complaints about newer ones.

        Args:
            check: raises UserError if a .json does not have the form of `save`'s `about`; its
                second argument is the file's name for the message.

        Raises:
            UserError: there is none.
        """
        complaints = []
        for number in reversed(self.numbers()):
            try:
                about = self._read(number)
                check(about, str(self.path(number).with_suffix(".json")))
            except UserError as error:
                complaints.append(str(error))
                continue
            self.good = [number]
            return number, about, complaints
        found = "; ".join(complaints) or "there is none"
        raise UserError(f"{self.folder}: no checkpoint to resume from: {found}")

    def _read(self, number: int) -> dict[str, Any]:
        """A checkpoint's .json, if the size and checksum in it match the other file."""
        path = self.path(number)
        json_path = path.with_suffix(".json")
        about = read_json(json_path)
        size = expect(about.get("bytes"), int, where=f"{json_path}: bytes")
        seal = expect(about.get("sha256"), str, where=f"{json_path}: sha256")
        check_regular(path)
        with reading(path):
            whole = path.stat().st_size == size and sha256(path) == seal
        if not whole:
            raise UserError(f"{path} is damaged: it is not what was written")
        return about

    def load(self, number: int) -> dict[str, Any]:
        """The state of the checkpoint that `choose` returned, on the CPU.

        Raises:
            UserError: this process cannot read it, or it is not a checkpoint.
        """
        path = self.path(number)
        try:
            state = torch.load(path, map_location="cpu", weights_only=True)
        except OSError as error:
            raise UserError(
                f"{path}: cannot be read: {reason_of(error)}; of several machines, each must see it"
            ) from error
        except (RuntimeError, ValueError, LookupError, EOFError, pickle.UnpicklingError) as error:
            raise UserError(f"{path}: not a checkpoint: {type(error).__name__}") from error
        if not isinstance(state, dict):
            raise UserError(f"{path}: not a checkpoint: it holds a {type(state).__name__}")
        return state


def _save(state: dict[str, Any], path: Path) -> None:
    """`torch.save`, but raises the system's error if a write fails, which names the reason."""
    with open(path, "wb") as file:
        try:
            torch.save(state, file)
        except RuntimeError as error:
            if isinstance(error.__context__, OSError):
                raise error.__context__ from None
            raise
