"""Sees to it that nothing can lose a run: when to save, when to stop, what to say then."""

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from smile.errors import UserError
from smile.system.distributed import World
from smile.system.files import writing
from smile.training.checkpointing.checkpoints import Checkpoints
from smile.training.checkpointing.signals import Stopped, StopSignals
from smile.training.checkpointing.state import RunState
from smile.training.console import say


class Keeper:
    """Writes the checkpoints and everything else of a run's folder.

    Args:
        state: what a checkpoint is to hold.
        folder: the run's.
        identity: what `resume.check_same` is to compare later.
        save_minutes: between two checkpoints, at most.
        checkpoints: those of the folder, where the run goes on from one of them.

    All methods are for every process to call; the first of them writes. `signals` are to be entered
    by whoever wants them heeded; `go_on` is the command to tell a user whose run has stopped.
    """

    def __init__(
        self,
        state: RunState,
        folder: Path,
        *,
        world: World,
        identity: dict[str, Any],
        save_minutes: float,
        checkpoints: Checkpoints | None = None,
    ) -> None:
        self.state, self.folder, self.world = state, folder, world
        self.identity = identity
        self.save_minutes = save_minutes
        self.checkpoints = checkpoints or Checkpoints(folder)
        self.saved_at = time.monotonic()
        self.signals = StopSignals()
        self.go_on = "--resume"

    def pause(self) -> None:
        """Between two steps: saves if it is time to, and stops if a signal came to any process.

        Raises:
            Stopped: it did.
        """
        minutes = (time.monotonic() - self.saved_at) / 60
        due = self.world.is_first and minutes >= self.save_minutes
        number, due = self.world.largest([self.signals.number, float(due)])
        if number:
            stopped = Stopped(int(number))
            self.save()
            self.say_how_to_resume(stopped)
            raise stopped
        if due:
            self.save(may_fail=True)

    def stop(self, reason: str) -> None:
        """Between two steps: saves, and raises UserError with the reason."""
        self.save()
        self.say_how_to_resume("an error")

        def fail() -> None:
            raise UserError(reason)

        self.world.first(fail)

    def say_how_to_resume(self, stopped_by: object) -> None:
        if self.world.is_first:
            say(
                f"stopped by {stopped_by} after {self.state.progress}, all saved; "
                f"resume with:\n  {self.go_on}"
            )

    def save(self, *, may_fail: bool = False) -> None:
        """Writes a checkpoint.

        With `may_fail` a full disk is only complained about: in a while there may be room.

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
        """Has the first process do what writes to the run's folder."""

        def act() -> None:
            try:
                with writing(self.folder):
                    action()
            except UserError as error:
                if not may_fail:
                    raise UserError(f"{error}; {self.last_good()}") from error
                say(
                    f"{error}; {self.last_good()}; "
                    f"going on, and trying again in {self.save_minutes:g} minutes"
                )

        self.world.first(act)

    def give_up(self, message: str) -> None:
        """Raises UserError: the message, and where the run can be taken up again."""

        def fail() -> None:
            raise UserError(f"{message}; {self.last_good()}")

        self.world.first(fail)

    def last_good(self) -> str:
        if not (number := self.checkpoints.number):
            return "there is no checkpoint yet"
        return f"the last good checkpoint is {self.checkpoints.path(number)}"
