"""Captioners on all machines of a Ray cluster, as many as it has room for at the time.

A captioner is an actor: a process with a GPU or some processors, which loads its model once. Twice
as many are asked for as there is room for: that tells Ray's autoscaler what would be of use, and
those that wait take the place of one that is lost, whose unit goes to the next that is free.
"""

import contextlib
import os
import socket
from collections import Counter, deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

from smile.captioning.describe import Model
from smile.data.batches import WorkerKilled
from smile.errors import UserError, brief, counted
from smile.scale.output import Output
from smile.scale.store import require
from smile.scale.work import Outcome, Unit, caption_units
from smile.system.processors import usable_processors

TRIES = 5  # of a unit whose captioners are lost
MOST_CPUS = {"cpu": 4, "cuda": 16}  # of one captioner, unless told otherwise
# Gives, on any machine, a model, what its captions depend on, and the arguments of `caption_units`.
Ready = Callable[[], tuple[Model, dict[str, Any], dict[str, Any]]]


class Captioner:
    """The actor. `load` comes first; `images`, of those done, runs in a thread beside `caption`."""

    def load(self, ready: Ready, out: str, folder: str) -> None:
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
        if is_again:
            self.output.wait_for(unit.name)
        self.batches: list[int] = []
        how = self.how | {"progress": self.batches.append}
        [outcome] = caption_units([unit], self.output, self.model, **how)
        if is_again and outcome.by_another:  # by the one that was lost, which could not say so
            return replace(outcome, by_another=False, **self.output.counts(unit.name))
        return outcome

    def images(self) -> int:
        return sum(self.batches)


@dataclass(eq=False)
class _Job:
    actor: Any
    unit: Any = None  # None while it loads
    images: int = 0  # of the unit, that are done


class RayCluster:
    """A cluster that is there already, or one of this machine that ends with the `with` block.

    Raises UserError: Ray is missing, there is no such cluster, or it cannot have captioners.
    """

    def __init__(
        self, address: str | None, *, device: str, cpus: int | None, say: Callable[[str], object]
    ) -> None:
        require("ray", "captions by --engine ray", "requirements-ray.txt")
        self.address = address or os.environ.get("RAY_ADDRESS") or "local"
        self.device, self.cpus, self.say = device, cpus or 0, say
        if self.device not in ("auto", *MOST_CPUS):  # Ray chooses which GPU
            raise UserError(f"--device {device}: expected cpu or cuda for --engine ray")
        self.jobs: dict[Any, _Job] = {}  # by the answer that is to come
        self.unfit: list[_Job] = []  # could not load, and keep others from their places
        self.losses: Counter[str] = Counter()  # by the name of the unit; "" while they load

    def __enter__(self) -> "RayCluster":
        os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
        how: dict[str, Any] = {"log_to_driver": False, "logging_level": "CRITICAL"}
        if self.address == "local":
            os.environ["RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"] = "0"  # that is, listen to 127.0.0.1
            how |= {"num_cpus": usable_processors(), "include_dashboard": False}
            how["object_store_memory"] = 80 * 2**20  # the least there is: images do not go that way
        import ray

        self.ray: Any = ray
        try:
            host, _, port = self.address.removeprefix("ray://").rpartition(":")
            if port.isdecimal():  # Ray itself would wait for minutes
                socket.create_connection((host, int(port)), timeout=10).close()
            ray.init(self.address, **how)
        except Exception as error:  # of many types
            reason = brief(" ".join(str(error).split()))
            raise UserError(f"--ray-address {self.address}: no Ray there: {reason}") from error
        if self.device == "auto":
            self.device = "cuda" if "GPU" in ray.cluster_resources() else "cpu"
        self.gpus = int(self.device == "cuda")
        shares = [cpus // (gpus or 1) for cpus, gpus in self._machines()]
        self.cpus = self.cpus or max(1, int(min([MOST_CPUS[self.device], *shares])))
        if not self._room():
            needs = f"{counted(self.cpus, 'processor')}{' and a GPU' if self.gpus else ''}"
            if self.address == "local":
                raise UserError(f"--engine ray: a captioner needs {needs}: this machine has less")
            self.say(f"no machine of the cluster has {needs} for a captioner: waiting for one")
        return self

    def __exit__(self, *_: object) -> None:
        self.ray.shutdown()

    def _machines(self) -> list[tuple[float, float]]:
        """The processors, and the GPUs if they are wanted, of each machine that is of use."""
        all_of_them = [node["Resources"] for node in self.ray.nodes() if node["Alive"]]
        numbers = [(has.get("CPU", 0), self.gpus * has.get("GPU", 0)) for has in all_of_them]
        return [each for each in numbers if each[0] and each[1] >= self.gpus]

    def _room(self) -> int:
        """How many captioners the cluster has room for, if nobody else uses it."""
        return sum(int(min(cpus // self.cpus, gpus or cpus)) for cpus, gpus in self._machines())

    def caption_units(
        self, units: Sequence[Unit], output: Output, *, ready: Ready, progress: Callable[..., Any]
    ) -> Iterator[Outcome]:
        """As that of `smile.scale.work`, but in the order in which units are finished."""
        self.waiting, self.needs = deque(units), (ready, output.address, os.getcwd())
        finished = shown = 0
        try:
            while self.waiting or self._busy():
                self._ask_for_captioners()
                for outcome in self._next_outcomes():
                    finished += outcome.num_described + outcome.num_failed
                    yield outcome
                images = finished + self._images_under_way()
                progress(images - shown)  # less than 0 if a captioner was lost
                shown = images
        finally:
            for job in self._busy():
                self.ray.kill(job.actor)
                output.wait_for(job.unit.name)

    def _busy(self) -> list[_Job]:
        return [job for job in self.jobs.values() if job.unit]

    def _ask_for_captioners(self) -> None:
        how = {"num_cpus": self.cpus, "num_gpus": self.gpus, "max_concurrency": 2}
        wanted = min(2 * self._room() + 1 - len(self.unfit), len(self.waiting) + len(self._busy()))
        for _ in range(wanted - len(self.jobs)):
            actor = self.ray.remote(Captioner).options(**how).remote()
            self.jobs[actor.load.remote(*self.needs)] = _Job(actor)

    def _next_outcomes(self) -> Iterator[Outcome]:
        """Waits for up to a second. An actor that gets no further unit ends."""
        for answer in self.ray.wait([*self.jobs], timeout=1)[0]:
            job = self.jobs.pop(answer)
            try:
                outcome = self.ray.get(answer)
            except self.ray.exceptions.RayError as error:
                yield from self._failed(job, error)
                continue
            if job.unit:
                yield outcome
            else:
                self.losses[""] = 0
            if self.waiting:
                unit = self.waiting.popleft()
                answer = job.actor.caption.remote(unit, self.losses[unit.name] > 0)
                self.jobs[answer] = _Job(job.actor, unit)

    def _failed(self, job: _Job, error: Exception) -> Iterator[Outcome]:
        """Goes on without a captioner that was lost, or raises what others would meet with too."""
        cause, unit = getattr(error, "cause", None), job.unit
        if isinstance(cause, WorkerKilled) or not isinstance(cause, UserError):
            cause = None
        reason = brief(str(cause or error).strip().splitlines()[-1])
        if cause or (not unit and isinstance(error, self.ray.exceptions.RayTaskError)):
            if unit or not self._busy():
                raise cause or error
            self.unfit.append(job)
            self.say(f"a captioner is of no use, {reason}")
            return
        self.ray.kill(job.actor)  # it may live on, but what failed once in it may fail again
        self.losses[unit.name if unit else ""] += 1
        if not unit and self.losses[""] > TRIES + self._room():
            raise UserError(f"captioners are lost before they have loaded: {reason}")
        if unit and self.losses[unit.name] < TRIES:
            self.waiting.appendleft(unit)
        elif unit:
            yield Outcome(unit.name, unit.source, f"{TRIES} captioners were lost at it: {reason}")

    def _images_under_way(self) -> int:
        asked = {job.actor.images.remote(): job for job in self._busy()}
        for answer in asked and self.ray.wait([*asked], num_returns=len(asked), timeout=1)[0]:
            with contextlib.suppress(self.ray.exceptions.RayError):
                asked[answer].images = self.ray.get(answer)
        return sum(job.images for job in asked.values())
