"""Several processes that work together, as torchrun starts them.

    world = World.join()                  # which process of how many
    world.wait()                          # a barrier
    world.total(count)                    # the sum over all
    world.first(write)                    # done by one of them; all get the result

A single process never touches torch.distributed.
"""

import contextlib
import gc
import os
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, TypeVar

import torch
from torch import nn

from smile.errors import UserError

# One process may be hours behind another (slow images, a slow disk), so the others wait long. A
# process that died is noticed at once, because its connection breaks.
PATIENCE = timedelta(days=30)

T = TypeVar("T")


@dataclass(frozen=True)
class World:
    """Which process this is (`rank`, counted from 0) of how many (`size`).

    The methods below communicate over the CPU (gloo), so none of them waits for a GPU.
    """

    rank: int = 0
    size: int = 1

    @classmethod
    def join(cls, device: torch.device | None = None) -> "World":
        """Joins the other processes that torchrun started, if there are any.

        Args:
            device: where the training tensors are: a GPU's gradients go over NCCL.

        Raises:
            UserError: several processes cannot share such a device, or torchrun did not start them.
        """
        size = _number_of_processes()
        if size == 1:
            return cls()
        backend = "gloo"
        if device is not None and device.type != "cpu":
            _check_device(device)
            torch.cuda.set_device(device)
            backend = "cpu:gloo,cuda:nccl"
        torch.distributed.init_process_group(backend, timeout=PATIENCE)
        return cls(torch.distributed.get_rank(), size)

    def leave(self, status: int = 0) -> None:
        """Waits for all processes, then ends this one with `status`; a single one returns.

        Exits with `os._exit`: a normal interpreter shutdown can race with gloo's threads, which
        sometimes crashed a finished run.
        """
        if self.size > 1:
            self.wait()
            gc.collect()  # unreferenced data loaders end their worker processes
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(status)

    @property
    def is_first(self) -> bool:
        """Whether this is the process that writes and prints."""
        return self.rank == 0

    def wait(self) -> None:
        """A barrier: returns once every process has called it."""
        self.sums([0])

    def total(self, count: int) -> int:
        """The sum of every process's count."""
        return int(self.sums([count])[0])

    def sums(self, numbers: Sequence[float]) -> list[float]:
        """The sum of every process's first number, of their second, and so on; exact for counts."""
        return self._reduce(numbers, "SUM")

    def largest(self, numbers: Sequence[float]) -> list[float]:
        """The largest of every process's first number, of their second, and so on."""
        return self._reduce(numbers, "MAX")

    def _reduce(self, numbers: Sequence[float], how: str) -> list[float]:
        if self.size == 1:
            return list(numbers)
        values = torch.tensor(numbers, dtype=torch.float64)
        torch.distributed.all_reduce(values, getattr(torch.distributed.ReduceOp, how))
        return values.tolist()

    def parallel(self, module: nn.Module) -> nn.Module:
        """The module in DDP, which averages gradients over the processes in `backward`.

        All start with the first process's weights. Every process must call the module equally
        often, and each weight must get a gradient.
        """
        if self.size == 1:
            return module
        return nn.parallel.DistributedDataParallel(module, gradient_as_bucket_view=True)

    def sync_gradients(
        self, module: nn.Module, *, enabled: bool
    ) -> contextlib.AbstractContextManager[None]:
        """Averages gradients over the processes in this pass, or else accumulates them locally."""
        if enabled or self.size == 1:
            return contextlib.nullcontext()
        assert isinstance(module, nn.parallel.DistributedDataParallel)
        return module.no_sync()

    def gather(self, value: T) -> list[T]:
        """Every process's value, by rank."""
        values = [value] * self.size
        if self.size > 1:
            torch.distributed.all_gather_object(values, value)
        return values

    def first(self, action: Callable[[], T]) -> T:
        """Runs `action` in the first process; every process returns its result.

        It may take hours, as a download does: the others wait.

        Raises:
            UserError: what `action` raises, in the first process only. The others exit silently
                (SystemExit, status 2), so that the message is printed once. Or another process has
                ended before its time, as one does that is killed.
        """
        if self.size == 1:
            return action()
        result: T | None = None
        failure: UserError | None = None
        if self.is_first:
            try:
                result = action()
            except UserError as error:
                failure = error
        news: list[Any] = [result, failure is not None]
        try:
            torch.distributed.broadcast_object_list(news, src=0, device=torch.device("cpu"))
        except RuntimeError as error:  # its connection is broken
            ended = UserError("another process of this run has ended: see what it said")
            raise failure or ended from error
        shared: T = news[0]
        if news[1]:
            raise failure or SystemExit(2)
        return shared


def _check_device(device: torch.device) -> None:
    if device.type != "cuda":
        raise UserError(f"several processes can share cpu or cuda, not {device.type}")
    processes, gpus = int(os.environ["LOCAL_WORLD_SIZE"]), torch.cuda.device_count()
    if processes > gpus:
        raise UserError(
            f"{processes} processes on this machine, but {gpus} GPUs: "
            f"torchrun --nproc-per-node {gpus}"
        )


def _number_of_processes() -> int:
    """How many processes torchrun started. Raises UserError where its variables make no sense."""
    found = os.environ.get("WORLD_SIZE", "1")
    if found == "1":
        return 1
    usual = {"WORLD_SIZE": "", "RANK": "", "LOCAL_RANK": "0", "LOCAL_WORLD_SIZE": "1"}
    wrong = [name for name, value in usual.items() if not os.environ.get(name, value).isdecimal()]
    wrong += [name for name in usual if name.endswith("SIZE") and os.environ.get(name) == "0"]
    wrong += [name for name in ("MASTER_ADDR", "MASTER_PORT") if not os.environ.get(name)]
    if wrong:
        shown = ", ".join(f"{name} {os.environ.get(name, 'missing')}" for name in wrong)
        raise UserError(
            f"WORLD_SIZE is {found}, but of the environment variables beside it: {shown}; start "
            "several processes with torchrun, or unset WORLD_SIZE"
        )
    return int(found)
