"""Which units of work are this process's, by what torchrun and Slurm tell it.

Shares are dealt like cards: each process knows its own from its number. So the processes of an
array never wait for one another, and what one of them leaves is done by the next run of the same
command.
"""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

from smile.errors import UserError
from smile.system.distributed import World

T = TypeVar("T")

_ARRAY = ("SLURM_ARRAY_TASK_ID", "SLURM_ARRAY_TASK_MIN", "SLURM_ARRAY_TASK_COUNT")
_STEP = "SLURM_ARRAY_TASK_STEP"


@dataclass(frozen=True)
class Share:
    """Share `index`, counted from 0, of `count`."""

    index: int = 0
    count: int = 1

    def of(self, units: Sequence[T]) -> Sequence[T]:
        return units[self.index :: self.count]

    def within(self, other: "Share") -> "Share":
        """This share of another one's."""
        return Share(other.index * self.count + self.index, other.count * self.count)

    def __str__(self) -> str:
        return f"task {self.index + 1} of {self.count}"


def find_share(world: World, told: Mapping[str, str] | None = None) -> Share:
    """This process's share: of its Slurm array, and in that of torchrun's or srun's processes.

    Args:
        told: the environment. (`datasets` puts another `os.environ` in place, so it is no default.)

    Raises:
        UserError: Slurm's variables make no sense together.
    """
    told = os.environ if told is None else told
    inner = Share(world.rank, world.size) if world.size > 1 else _of_srun(told)
    return inner.within(_of_array(told))


def _of_array(told: Mapping[str, str]) -> Share:
    if _ARRAY[0] not in told:
        return Share()
    task, first, count = (_number(told, name) for name in _ARRAY)
    step = _number(told, _STEP) if _STEP in told else 1
    index, rest = divmod(task - first, max(1, step))
    if rest or not 0 <= index < count:
        raise UserError(
            f"task {task} of a Slurm array of {count} from {first} in steps of {step}: its share "
            "cannot be told: give the array's numbers without gaps, as in --array=0-15"
        )
    return Share(index, count)


def _of_srun(told: Mapping[str, str]) -> Share:
    """Without SLURM_PROCID nothing was started by Slurm, only in what it allotted."""
    if "SLURM_PROCID" not in told or "SLURM_NTASKS" not in told:
        return Share()
    index, count = _number(told, "SLURM_PROCID"), _number(told, "SLURM_NTASKS")
    if index >= count:
        raise UserError(f"SLURM_PROCID is {index} and SLURM_NTASKS {count}: expected it to be less")
    return Share(index, count)


def lonely(told: Mapping[str, str] | None = None) -> str:
    """A warning if other tasks were allotted that nobody started, "" otherwise."""
    told = os.environ if told is None else told
    count = _of_srun(told).count
    if count == 1 or "SLURM_STEP_ID" in told or "SLURM_STEPID" in told or "RANK" in told:
        return ""
    return (
        f"SLURM_NTASKS is {count}, but this was not started by srun: only one share of {count} is "
        "done here; put srun before the command, or ask for one task"
    )


def _number(told: Mapping[str, str], name: str) -> int:
    text = told.get(name, "")
    if not (text.isdecimal() and len(text) <= 18):
        raise UserError(f"{name} is {text[:40]!r}, which Slurm sets: expected a whole number")
    return int(text)
