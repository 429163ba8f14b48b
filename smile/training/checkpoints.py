"""What `--resume` goes on from: whole files, of which the last two are kept.

    runs/shapes/checkpoints/
        000017.pt       everything that the run's next step depends on
        000017.json     how far it is, its config, and the other file's size and SHA-256
        000018.pt …

The .json is written last and makes the pair count. A process killed at any moment, a loss of power
or a full disk leaves the last pair as it was; should it be damaged later, there is the one before.
"""

import json
from pathlib import Path
from typing import Any

import torch

from smile.errors import UserError
from smile.files import sha256, write_atomically, write_text, writing

FOLDER = "checkpoints"
KEPT = 2


class Checkpoints:
    """The checkpoints of the run in `folder`.

    `number` is the one last saved or chosen, 0 if there is none.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder / FOLDER
        self.good: list[int] = []  # numbers known to be whole, oldest first

    @property
    def number(self) -> int:
        return self.good[-1] if self.good else 0

    def path(self, number: int) -> Path:
        return self.folder / f"{number:06}.pt"

    def numbers(self) -> list[int]:
        """Of all there are, oldest first."""
        names = (path.stem for path in self.folder.glob("*.json"))
        return sorted(int(name) for name in names if name.isdecimal())

    def save(self, state: dict[str, Any], about: dict[str, Any]) -> None:
        """Writes both files, and removes all but the last two that are good.

        Raises:
            UserError: they cannot be written; the earlier ones are untouched.
        """
        number = max([0, *self.numbers()]) + 1
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
        for path in self.folder.glob("*.*"):  # a .pt without .json too: its writer was killed
            if path.stem.isdecimal() and int(path.stem) not in self.good:
                path.unlink()

    def choose(self) -> tuple[int, dict[str, Any], list[str]]:
        """The newest checkpoint that is whole: its number, what its .json says, and complaints.

        There is a complaint for each newer one that is damaged.

        Raises:
            UserError: there is none.
        """
        complaints = []
        for number in reversed(self.numbers()):
            try:
                about = self._check(number)
            except UserError as error:
                complaints.append(str(error))
                continue
            self.good = [number]
            return number, about, complaints
        found = "; ".join(complaints) or "there is none"
        raise UserError(f"{self.folder}: no checkpoint to resume from: {found}")

    def _check(self, number: int) -> dict[str, Any]:
        path = self.path(number)
        try:
            about = json.loads(path.with_suffix(".json").read_text("utf-8"))
            whole = path.stat().st_size == about["bytes"] and sha256(path) == about["sha256"]
        except (OSError, ValueError, LookupError, TypeError) as error:
            raise UserError(f"{path} or its .json cannot be read ({error})") from error
        if not whole:
            raise UserError(f"{path} is damaged: it is not what was written")
        return about

    def load(self, number: int) -> dict[str, Any]:
        """The state of a checkpoint that `choose` chose, on the CPU."""
        path = self.path(number)
        try:
            return torch.load(path, map_location="cpu", weights_only=True)
        except OSError as error:
            raise UserError(
                f"{path}: cannot be read: {error.strerror}; of several machines, each must see it"
            ) from error


def _save(state: dict[str, Any], path: Path) -> None:
    """`torch.save`, whose own error does not say why a write failed."""
    with open(path, "wb") as file:
        try:
            torch.save(state, file)
        except RuntimeError as error:
            if isinstance(error.__context__, OSError):
                raise error.__context__ from None
            raise
