"""Everything that a run's next step depends on: the content of a checkpoint."""

import contextlib
import math
import random
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import numpy
import torch

from smile.config import Config, DecoderConfig, ViTConfig
from smile.data.batches import Broken
from smile.errors import UserError
from smile.model.captioner import Captioner
from smile.model.tokenizer import Tokenizer
from smile.system.distributed import World
from smile.training.console import say
from smile.training.ema import WeightAverage
from smile.training.precision import Precision
from smile.weights.run_folder import build


@dataclass
class Progress:
    """How far a run has come.

    epoch, step: the current epoch (counted from 0), and how many of its optimiser steps are done;
        after the last step the epoch still has to be validated.
    loss, tokens, images: sums over the steps since the last record, over all processes.
    seconds, waited: in the first process, the steps' time, and how much of it was spent waiting
        for data.
    best: lowest validation loss under the current objective.
    records: one per validation, as in log.jsonl.
    broken: names of the images skipped as unreadable.
    """

    epoch: int = 0
    step: int = 0
    loss: float = 0.0
    tokens: int = 0
    images: int = 0
    seconds: float = 0.0
    waited: float = 0.0
    best: float = math.inf
    records: list[dict] = field(default_factory=list)
    broken: list[str] = field(default_factory=list)

    def check(self, *, epochs: int, steps: int) -> None:
        """Raises ValueError if no run of `epochs` epochs of `steps` steps can be at this point."""
        whole = all(type(n) is int for n in (self.epoch, self.step, self.tokens, self.images))
        if not whole or not 0 <= self.epoch <= epochs or len(self.records) > self.epoch:
            raise ValueError(f"epoch {self.epoch} of {epochs} with {len(self.records)} in its log")
        if not 0 <= self.step <= (steps if self.epoch < epochs else 0):
            raise ValueError(f"step {self.step} of {steps} in epoch {self.epoch + 1} of {epochs}")
        if self.tokens < 0 or self.images < 0 or not math.isfinite(self.loss):
            raise ValueError(f"{self.tokens} tokens, {self.images} images, a loss of {self.loss}")

    def add_step(self, loss: float, tokens: int, images: int) -> None:
        """Counts an optimiser step and what it summed up."""
        self.step += 1
        self.loss += loss
        self.tokens += tokens
        self.images += images

    def next_epoch(self, record: dict | None) -> None:
        """Stores the record of the current epoch and starts the next.

        Without a record the sums are kept, so that the next record covers both epochs.
        """
        self.epoch += 1
        self.step = 0
        if record is not None:
            self.records.append(record)
            self.tokens = self.images = 0
            self.loss = self.seconds = self.waited = 0.0

    def __str__(self) -> str:
        return f"epoch {self.epoch + 1}, step {self.step}" if self.step else f"epoch {self.epoch}"


@dataclass(frozen=True, kw_only=True)
class RunState:
    """Everything that changes during a run, in this process."""

    captioner: Captioner
    average: WeightAverage
    optimizer: torch.optim.Optimizer
    precision: Precision
    progress: Progress
    world: World

    def state_dict(self) -> dict[str, Any]:
        """The state of all processes, for `restore`; every process must call it.

        Holds only tensors and plain values, which `torch.load` reads without running code.
        """
        self.gather_broken()
        config = self.captioner.config
        with self.average.shown(False):
            model, average = self.captioner.state_dict(), self.average.state_dict()
        return {
            "model": model,
            "average": average,
            "vit": asdict(config.vit),
            "decoder": asdict(config.decoder),
            "vocab": self.captioner.tokenizer.vocab,
            "strip_accents": self.captioner.tokenizer.strip_accents,
            "optimizer": self.optimizer.state_dict(),
            "precision": self.precision.state_dict(),
            "progress": asdict(self.progress),
            "random": self.world.gather(random_state(self.captioner.device)),
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Restores a `state_dict`, except the weights, which `captioner_of` has already loaded.

        If the run now has more processes, those without a saved random state are seeded from
        `train.seed` and their rank.
        """
        # Checkpoints from before the moving average have none.
        self.average.load_state_dict(state.get("average", {"average": [], "steps": 0}))
        self.optimizer.load_state_dict(state["optimizer"])
        self.precision.load_state_dict(state["precision"])
        vars(self.progress).update(state["progress"])
        if self.world.rank < len(state["random"]):
            set_random_state(state["random"][self.world.rank], self.captioner.device)
        else:
            seed_process(self.captioner.config.train.seed, self.world)

    def note_broken(self, images: Iterable[Broken]) -> None:
        """Says of each image that cannot be read, once, that it is skipped."""
        for broken in images:
            if broken.name not in self.progress.broken:
                say(f"skipped: {broken.reason}")
                self.progress.broken.append(broken.name)

    def gather_broken(self) -> None:
        """Collects the names of the images that all processes skipped."""
        names = self.world.gather(self.progress.broken)
        self.progress.broken = sorted({name for part in names for name in part})


@contextlib.contextmanager
def restoring(source: object) -> Iterator[None]:
    """Turns errors while restoring into one line: `source` is whole, but not a state of the run."""
    try:
        yield
    except (LookupError, TypeError, ValueError, AttributeError, RuntimeError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise UserError(
            f"{source}: not a state of this run: {reason}; "
            "remove it, so that --resume takes the previous checkpoint"
        ) from error


def completed_settings(state: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """The settings that data or weights may have completed, as a checkpoint has them."""
    return {
        "vit": state["vit"],
        "decoder": state["decoder"],
        # Checkpoints of older runs lack the setting: they strip accents.
        "tokenizer": {"strip_accents": state.get("strip_accents", True)},
    }


def captioner_of(state: dict[str, Any], config: Config, *, source: object) -> Captioner:
    """The checkpoint's captioner, with the run's current settings; `source` is named in errors."""
    completed = completed_settings(state)
    vit, decoder = ViTConfig(**completed["vit"]), DecoderConfig(**completed["decoder"])
    config = replace(config, vit=vit, decoder=decoder)
    tokenizer = Tokenizer(state["vocab"], **completed["tokenizer"])
    return build(config, tokenizer, state["model"], source=source)


def seed_process(seed: int, world: World) -> None:
    """Seeds each process differently, for dropout; the first keeps the state that `seed` gave."""
    if not world.is_first:
        torch.manual_seed(seed + world.rank)


@contextlib.contextmanager
def seeded(seed: int, device: torch.device) -> Iterator[None]:
    """Seeds torch with `seed` inside; restores the previous random state afterwards."""
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        torch.manual_seed(seed)
        yield


def random_state(device: torch.device) -> dict[str, Any]:
    """The state of this process's generators: torch's (CPU and `device`), Python's, NumPy's."""
    of_numpy = numpy.random.get_state(legacy=True)
    assert isinstance(of_numpy, tuple)
    name, keys, *rest = of_numpy
    state = {
        "torch": torch.get_rng_state(),
        "python": random.getstate(),
        "numpy": (name, torch.from_numpy(keys.astype("int64")), *rest),
    }
    if device.type == "cuda":
        state["cuda"] = torch.cuda.get_rng_state(device)
    return state


def set_random_state(state: dict[str, Any], device: torch.device) -> None:
    """Restores a `random_state`."""
    torch.set_rng_state(state["torch"])
    random.setstate(state["python"])
    name, keys, *rest = state["numpy"]
    numpy.random.set_state((name, keys.numpy().astype("uint32"), *rest))
    if device.type == "cuda" and "cuda" in state:
        torch.cuda.set_rng_state(state["cuda"], device)
