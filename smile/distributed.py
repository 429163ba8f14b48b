"""Several processes that work together, as torchrun starts them; alone, nothing of this happens.

    world = World.join()                  # which process of how many
    world.wait()                          # until all have come here
    world.total(count)                    # the sum over all

A process that is alone never touches torch.distributed.
"""

import os
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import torch

# One process may be hours behind another (a share of images that take long, a slow disk): they
# wait. One that died is noticed at once, because its connection breaks.
PATIENCE = timedelta(days=30)


@dataclass(frozen=True)
class World:
    """Which process this is (`rank`, counted from 0) of how many (`size`)."""

    rank: int = 0
    size: int = 1

    @classmethod
    def join(cls) -> "World":
        """What torchrun says; joins the other processes where there are any."""
        size = int(os.environ.get("WORLD_SIZE", 1))
        if size == 1:
            return cls()
        torch.distributed.init_process_group("gloo", timeout=PATIENCE)
        return cls(torch.distributed.get_rank(), size)

    def wait(self) -> None:
        """Returns when every process has come here."""
        if self.size > 1:
            torch.distributed.barrier()

    def total(self, count: int) -> int:
        """The sum of every process's count."""
        if self.size == 1:
            return count
        counts = torch.tensor(count)
        torch.distributed.all_reduce(counts)
        return int(counts)

    def gather(self, value: Any) -> list:
        """Every process's value, by rank."""
        values = [value] * self.size
        if self.size > 1:
            torch.distributed.all_gather_object(values, value)
        return values
