"""Captioners on all machines of a Ray cluster, as many as it has room for at the time.

A captioner is an actor: a process with a GPU or some processors, which loads its model once. A unit
of work is a task of one actor. Twice as many captioners are asked for as there is room for: that
tells Ray's autoscaler what would be of use, and those that wait for a place take that of a machine
that joins, or of a captioner that is lost. Its unit goes to the next one that is free.
"""

import os
import socket
import time
from collections import Counter, deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch

from smile.captioning.describe import Model
from smile.captioning.options import AnyOptions, precision, usual_workers
from smile.data.batches import WorkerKilled
from smile.errors import UserError, brief, counted, printable
from smile.scale.output import Output
from smile.scale.store import require
from smile.scale.work import Outcome, Unit, caption_units
from smile.system.processors import usable_processors

TRIES = 5  # of a unit whose captioners are lost
MOST_CPUS = {"cpu": 4, "cuda": 16}  # of one captioner, unless told otherwise

# What a captioner has: its model, what its captions depend on, and how `caption_units` is to work.
Ready = tuple[Model, dict[str, Any], dict[str, Any]]


class Captioner:
    """The actor. `load` comes first; `images` runs in a thread beside `caption`."""

    num_images = 0  # of the unit under way, that are done

    def load(self, ready: Callable[[], Ready], out: str, folder: str) -> None:
        """Raises UserError: this machine lacks something."""
        try:
            os.chdir(folder)
            self.model, run, self.how = ready()
            self.output = Output(out, run=run)
            self.output.prepare()
        except (UserError, OSError) as error:
            raise UserError(f"on {socket.gethostname()}: {error}") from error

    def caption(self, unit: Unit, is_again: bool) -> Outcome:
        """Captions a unit; `is_again` if another captioner was lost at it."""
        self.num_images = 0
        if is_again:
            wait_until_free(self.output, unit)
        units = caption_units([unit], self.output, self.model, progress=self._count, **self.how)
        [outcome] = units
        if is_again and outcome.by_another:  # by the one that was lost, which could not say so
            return replace(outcome, by_another=False, **self.output.counts(unit.name))
        return outcome

    def _count(self, more: int) -> None:
        self.num_images += more

    def images(self) -> int:
        """The number of images, in a second from now."""
        time.sleep(1)
        return self.num_images


def wait_until_free(output: Output, unit: Unit) -> None:
    """Waits for a process that was killed, and removes what it had begun."""
    for _ in range(100):
        claim = output.claim(unit.name)
        claim.release()
        if claim.free:
            break
        time.sleep(0.1)


@dataclass(eq=False)
class _Job:
    """An actor and the unit that it is at; None while it loads. `images` of it are done."""

    actor: Any
    unit: Unit | None = None
    images: int = 0


class RayCluster:
    """A cluster that is there already, or one of this machine that ends with the `with` block.

    Args:
        address: "auto" for the cluster that this machine belongs to; None for a new one.
        device: "cuda" or "cpu"; "auto" for what the cluster has.
        cpus: of one captioner; None for its share of the smallest machine.
        say: shows a line to people.

    Raises:
        UserError: Ray is missing, there is no such cluster, or a captioner can never fit.
    """

    def __init__(
        self, address: str | None, *, device: str, cpus: int | None, say: Callable[[str], object]
    ) -> None:
        require("ray", "--engine ray", "requirements-ray.txt")
        self.address = address or os.environ.get("RAY_ADDRESS") or "local"
        self.device, self.cpus, self.say = device.partition(":")[0], cpus or 0, say
        self.jobs: list[_Job] = []
        self.answers: dict[Any, tuple[str, _Job]] = {}  # that are to come, and from which method
        self.losses: Counter[str] = Counter()  # by the name of the unit; "" while they load
        self.useless: list[_Job] = []  # cannot load, and keep others from their places
        self.is_useful = False  # whether one could load

    def __enter__(self) -> "RayCluster":
        how: dict[str, Any] = {}
        os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
        if self.address == "local":
            os.environ["RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"] = "0"  # that is, listen to 127.0.0.1
            how = {"num_cpus": usable_processors(), "include_dashboard": False}
            how["object_store_memory"] = 80 * 2**20  # the least there is: images do not go that way
        import ray

        self.ray = ray
        try:
            ray.init(self.address, log_to_driver=False, logging_level="CRITICAL", **how)
        except Exception as error:  # of many types
            reason = brief(printable(" ".join(str(error).split())))
            raise UserError(f"--ray-address {self.address}: {reason}; ray start --head") from error
        self._choose()
        return self

    def __exit__(self, *_: object) -> None:
        self.ray.shutdown()

    def _choose(self) -> None:
        """Decides what a captioner gets."""
        if self.device == "auto":
            self.device = "cuda" if self.ray.cluster_resources().get("GPU") else "cpu"
        self.gpus = int(self.device == "cuda")
        shares = [cpus // (gpus or 1) for cpus, gpus in self._machines()]
        self.cpus = self.cpus or max(1, int(min([MOST_CPUS[self.device], *shares])))
        if not self.room():
            needs = f"{counted(self.cpus, 'processor')}{' and a GPU' if self.gpus else ''}"
            if self.address == "local":
                raise UserError(f"--engine ray: a captioner needs {needs}: this machine has less")
            self.say(f"no machine of the cluster has {needs} for a captioner: waiting for one")

    def _machines(self) -> list[tuple[float, float]]:
        """The processors, and the GPUs if they are wanted, of each machine that is of use."""
        all_of_them = [node["Resources"] for node in self.ray.nodes() if node["Alive"]]
        numbers = [(has.get("CPU", 0), self.gpus * has.get("GPU", 0)) for has in all_of_them]
        return [(cpus, gpus) for cpus, gpus in numbers if cpus and gpus >= self.gpus]

    def room(self) -> int:
        """How many captioners the cluster has room for, if nobody else uses it."""
        return sum(int(min(cpus // self.cpus, gpus or cpus)) for cpus, gpus in self._machines())

    def settle(self, options: AnyOptions) -> AnyOptions:
        """The options of every captioner, so that they are the same on every machine."""
        device = torch.device(self.device)
        workers = usual_workers(device, self.cpus) if options.workers is None else options.workers
        found = precision(options, device)
        return replace(options, device=self.device, precision=found, workers=workers)

    def caption_units(
        self,
        units: Sequence[Unit],
        output: Output,
        *,
        ready: Callable[[], Ready],
        progress: Callable[[int], object],
    ) -> Iterator[Outcome]:
        """As that of `smile.scale.work`, but in the order in which units are finished.

        `ready` makes a captioner, on any machine.
        """
        self.waiting, self.needs = deque(units), (ready, output.address, os.getcwd())
        finished = shown = 0
        try:
            while self.waiting or self._busy():
                self._ask_for_captioners()
                for outcome in self._next_outcomes():
                    finished += outcome.num_described + outcome.num_failed
                    yield outcome
                images = finished + sum(job.images for job in self._busy())
                progress(images - shown)  # less than 0 if a captioner was lost
                shown = images
        finally:
            busy = self._busy()
            for job in busy:
                self.ray.kill(job.actor)
            for job in busy:
                wait_until_free(output, job.unit)

    def _busy(self) -> list[_Job]:
        return [job for job in self.jobs if job.unit]

    def _ask(self, job: _Job, method: str, *words: Any) -> None:
        self.answers[getattr(job.actor, method).remote(*words)] = method, job

    def _ask_for_captioners(self) -> None:
        how = {"num_cpus": self.cpus, "num_gpus": self.gpus, "max_concurrency": 2}
        wanted = min(2 * self.room() + 1, len(self.waiting) + len(self._busy()))
        while len(self.jobs) + len(self.useless) < wanted:
            self.jobs.append(_Job(self.ray.remote(Captioner).options(**how).remote()))
            self._ask(self.jobs[-1], "load", *self.needs)

    def _next_outcomes(self) -> Iterator[Outcome]:
        """Waits for up to a second. An actor that gets no further unit ends."""
        for coming in self.ray.wait([*self.answers], timeout=1)[0]:
            method, job = self.answers.pop(coming)
            try:
                answer = self.ray.get(coming)
            except self.ray.exceptions.RayError as error:
                if job in self.jobs and method != "images":
                    self.jobs.remove(job)
                    yield from self._failed(job, error)
                continue
            if method == "images":
                job.images = answer
                if job in self.jobs:
                    self._ask(job, "images")
                continue
            self.jobs.remove(job)
            if method == "caption":
                yield answer
            else:
                self.is_useful, self.losses[""] = True, 0
            if self.waiting:
                unit = self.waiting.popleft()
                self.jobs.append(_Job(job.actor, unit))
                self._ask(self.jobs[-1], "caption", unit, self.losses[unit.name] > 0)
                self._ask(self.jobs[-1], "images")

    def _failed(self, job: _Job, error: Exception) -> Iterator[Outcome]:
        """Goes on where a process or a machine was lost. Raises what is not of that kind."""
        cause, unit = getattr(error, "cause", None), job.unit
        if isinstance(cause, UserError) and not unit and self.is_useful:
            self.useless.append(job)
            self.say(f"a captioner is of no use {cause}")
            return
        is_ours = isinstance(error, self.ray.exceptions.RayTaskError)
        if is_ours and not isinstance(cause, WorkerKilled):
            raise cause if isinstance(cause, UserError) else error
        reason = brief(str(error).strip().splitlines()[-1])
        self.losses[unit.name if unit else ""] += 1
        if not unit and self.losses[""] > TRIES * (1 + self.room()):
            raise UserError(f"captioners are lost while they load, for lack of memory? {reason}")
        if unit and self.losses[unit.name] < TRIES:
            self.waiting.appendleft(unit)
        elif unit:
            problem = f"{TRIES} captioners were lost at it, one after another: {reason}"
            yield Outcome(unit.name, unit.source, problem)
