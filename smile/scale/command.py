"""What `sample.py` does with shards, and with a folder in parts: who, what, and what people see."""

import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any

from smile.captioning.find_images import ImageNames
from smile.errors import counted
from smile.scale.output import TABLE, Output
from smile.scale.parts import Cut, cut
from smile.scale.shards import find_shards
from smile.scale.share import find_share, lonely
from smile.scale.store import open_folder, require
from smile.scale.work import Outcome, Shard, Unit
from smile.system.distributed import World

# `caption_units` of `smile.scale.work` or of Ray, with the model.
Engine = Callable[..., Iterator[Outcome]]


class Tables:
    """One process's share of the tables of a command line.

    Args:
        out: the address of the folder of tables.
        images: shards, or with `part_size` what a folder of images is named by.
        say: shows a line to people.

    Call `open`, `caption`, and `report` at the end.

    Raises:
        UserError: a package is missing, or the arguments or Slurm's variables make no sense.
    """

    def __init__(
        self,
        out: str,
        images: Sequence[str],
        *,
        part_size: int | None,
        world: World,
        say: Callable[[str], object],
    ) -> None:
        for package in ("pyarrow", "fsspec"):
            require(package, "tables")
        self.out, self.part_size, self.world, self.say = out, part_size, world, say
        self.share = find_share(world)
        self.shards = [Shard(address) for address in find_shards(images)] if not part_size else []
        self.names = ImageNames(images) if part_size else None
        self.noun = "part" if part_size else "shard"
        open_folder(out)  # its package may be missing
        self.start = time.perf_counter()
        self.outcomes: list[Outcome] = []
        self.num_units = self.num_done = self.num_broken = 0

    def open(self, run: dict[str, Any]) -> list[Unit]:
        """The units that are left to do, of this process's share."""
        self.output = Output(self.out, run=run)
        self.world.first(self.output.prepare)
        units: Sequence[Unit] = self.shards
        if self.names is not None and self.part_size:
            found = self.world.first(partial(cut, self.out, self.names, size=self.part_size))
            if self.world.is_first:
                self._say_cut(found)
            units = found.parts
        if self.share.count > 1:
            self.say(f"{self.share}: {counted(len(self.share.of(units)), self.noun)}")
        if self.world.is_first and (warning := lonely()):
            self.say(warning)
        mine = self.share.of(units)
        done = self.output.done()
        self.num_units = len(mine)
        left = [unit for unit in mine if unit.name not in done]
        self.num_done = len(mine) - len(left)
        return left

    def _say_cut(self, found: Cut) -> None:
        for image in found.broken:
            self.say(f"{image.name}: {image.reason}")
        self.num_broken = len(found.broken)
        if words := [*found.words(), *(self.names.left_out() if self.names else [])]:
            self.say("; ".join(words))

    def caption(self, units: Sequence[Unit], engine: Engine, **how: Any) -> Iterator[Outcome]:
        """What became of each unit; says what people need to know of it."""
        for outcome in engine(units, self.output, **how):
            self.outcomes.append(outcome)
            if line := self._line(outcome):
                self.say(line)
            yield outcome

    def _line(self, outcome: Outcome) -> str:
        """What is to be said of a unit, "" for one that is as it should be."""
        if outcome.problem:
            return f"{outcome.source}: {outcome.problem}"
        if outcome.by_another:
            return f"{outcome.source}: another job has written its table meanwhile, to this --out"
        rows = outcome.num_described + outcome.num_failed
        if outcome.num_failed:
            first = f"; the first: {outcome.first_error}" if outcome.first_error else ""
            return (
                f"{outcome.source}: {outcome.num_failed} of {counted(rows, 'image')} failed, see "
                f"error in {outcome.name}{TABLE}{first}"
            )
        if not rows:
            others = f" among {counted(outcome.num_others, 'file')}" if outcome.num_others else ""
            return f"{outcome.source}: there is no image in it{others}"
        return ""

    def progress(self) -> str:
        """How far we are, for a bar."""
        return f"{self.num_done + len(self.outcomes)} of {counted(self.num_units, self.noun)}"

    def report(self) -> int:
        """Says in a line what this process did; returns how many images and units failed."""
        described = sum(outcome.num_described for outcome in self.outcomes)
        failed = sum(outcome.num_failed for outcome in self.outcomes)
        problems = sum(bool(outcome.problem) for outcome in self.outcomes)
        seconds = time.perf_counter() - self.start
        rate = f" ({described / seconds:.1f} a second)" if described else ""
        task = f"{self.share}: " if self.share.count > 1 else ""
        parts = [f"{task}{counted(described, 'image')} described in {seconds:.1f} s{rate}"]
        if self.num_done:
            parts.append(f"{counted(self.num_done, self.noun)} had tables already")
        if failed:
            parts.append(f"{counted(failed, 'image')} failed, see error in the tables")
        if problems:
            parts.append(f"{counted(problems, self.noun)} without a table: the same command again")
        self.say("; ".join(parts))
        return failed + problems + self.num_broken
