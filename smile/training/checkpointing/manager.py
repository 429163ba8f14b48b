"""Decides when a run saves and stops, so that it can always be resumed."""

import contextlib
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch

from smile.errors import UserError
from smile.system.files import writing
from smile.training.checkpointing.checkpoints import Checkpoints
from smile.training.checkpointing.signals import Stopped, StopSignals
from smile.training.checkpointing.state import RunState
from smile.training.console import say
from smile.training.loader import NoNextBatch


class CheckpointManager:
    """Writes the checkpoints and everything else of a run's folder.

    Args:
        state: the content of a checkpoint.
        folder: the run's folder.
        identity: what `resume.check_same` compares when the run is resumed.
        checkpoints: the folder's checkpoints, if the run was resumed from one of them.

    Every process must call every method; the first process writes. Steps are made inside
    `watching`. `resume_command` is the command that resumes the run, for messages.
    """

    def __init__(
        self,
        state: RunState,
        folder: Path,
        *,
        identity: dict[str, Any],
        checkpoints: Checkpoints | None = None,
    ) -> None:
        self.state, self.folder, self.world = state, folder, state.world
        self.identity = identity
        self.save_minutes = state.captioner.config.train.save_minutes
        self.checkpoints = checkpoints or Checkpoints(folder)
        self.saved_at = time.monotonic()
        self.signals = StopSignals()
        self.resume_command = "--resume"

    @contextlib.contextmanager
    def watching(self, out_of_memory: str) -> Iterator[None]:
        """Handles signals inside, and raises a one-line error if no further step is possible.

        Raises:
            UserError: a batch cannot be read, which is saved before; or the device's memory is too
                small, about which `out_of_memory` is what to say.
        """
        with self.signals:
            try:
                yield
            except NoNextBatch as error:
                self.stop(str(error))
            except torch.OutOfMemoryError as error:  # in the middle of a step: not to be saved
                raise UserError(f"{out_of_memory}; {self.last_good()}") from error

    def between_steps(self) -> None:
        """Saves if it is time to; saves and stops if any process received a signal.

        Raises:
            Stopped: a process received a signal.
        """
        minutes = (time.monotonic() - self.saved_at) / 60
        due = self.world.is_first and minutes >= self.save_minutes
        number, any_due = self.world.largest([self.signals.number, float(due)])
        if number:
            stopped = Stopped(int(number))
            self.save()
            self.say_how_to_resume(stopped)
            raise stopped
        if any_due:
            self.save(may_fail=True)

    def stop(self, reason: str) -> None:
        """Saves, and raises UserError with the reason; for use between two steps."""
        self.save()
        self.say_how_to_resume("an error")

        def fail() -> None:
            raise UserError(reason)

        self.world.first(fail)

    def say_how_to_resume(self, stopped_by: object) -> None:
        if self.world.is_first:
            say(
                f"stopped by {stopped_by} after {self.state.progress}, all saved; "
                f"resume with:\n  {self.resume_command}"
            )

    def save(self, *, may_fail: bool = False) -> None:
        """Writes a checkpoint.

        With `may_fail`, an error such as a full disk is only printed: the next save may succeed.

        Raises:
            UserError: it cannot be written.
        """
        state = self.state.state_dict()
        about = {
            "progress": str(self.state.progress),
            "processes": self.world.size,
            "run": self.identity,
        }
        try:
            self.write(lambda: self.checkpoints.save(state, about), may_fail=may_fail)
        finally:
            self.saved_at = time.monotonic()

    def write(self, action: Callable[[], None], *, may_fail: bool = False) -> None:
        """Runs `action`, which writes to the run's folder, in the first process."""

        def act() -> None:
            try:
                with writing(self.folder):
                    action()
            except UserError as error:
                if not may_fail:
                    raise UserError(f"{error}; {self.last_good()}") from error
                say(
                    f"{error}; {self.last_good()}; "
                    f"training continues, next try in {self.save_minutes:g} minutes"
                )

        self.world.first(act)

    def give_up(self, message: str) -> None:
        """Raises UserError with the message and the checkpoint to resume from."""

        def fail() -> None:
            raise UserError(f"{message}; {self.last_good()}")

        self.world.first(fail)

    def last_good(self) -> str:
        if not (number := self.checkpoints.number):
            return "there is no checkpoint yet"
        return f"the last good checkpoint is {self.checkpoints.path(number)}"
