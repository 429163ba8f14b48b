"""Everything that a run's next step depends on: what a checkpoint holds."""

import contextlib
import math
import random
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import numpy
import torch

from smile.config import Config, DecoderConfig, ViTConfig
from smile.errors import UserError
from smile.model.captioner import Captioner
from smile.model.tokenizer import Tokenizer
from smile.system.distributed import World
from smile.training.ema import WeightAverage
from smile.training.precision import Precision
from smile.weights.run_folder import build


@dataclass
class Progress:
    """How far a run has come.

    epoch, step: the present epoch (counted from 0), and how many of its optimiser steps are done;
        after the last one it still has to be validated.
    loss, tokens, images: sums over the steps since the last record, of all processes.
    seconds, waited: the steps' time, and how much of it passed waiting for data, of the first.
    best: lowest validation loss under the present objective.
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
        """Raises ValueError where no run of so many epochs of so many steps can be so far."""
        whole = all(type(n) is int for n in (self.epoch, self.step, self.tokens, self.images))
        if not whole or not 0 <= self.epoch <= epochs or len(self.records) > self.epoch:
            raise ValueError(f"epoch {self.epoch} of {epochs} with {len(self.records)} in its log")
        if not 0 <= self.step <= (steps if self.epoch < epochs else 0):
            raise ValueError(f"step {self.step} of {steps} in epoch {self.epoch + 1} of {epochs}")
        if self.tokens < 0 or self.images < 0 or not math.isfinite(self.loss):
            raise ValueError(f"{self.tokens} tokens, {self.images} images, a loss of {self.loss}")

    def next_epoch(self, record: dict | None) -> None:
        """Keeps the record of the present epoch, and begins the next.

        Without a record the sums go on: the next one is about both epochs.
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
    """The things that change as a run goes on, in this process."""

    captioner: Captioner
    average: WeightAverage
    optimizer: torch.optim.Optimizer
    precision: Precision
    progress: Progress
    world: World

    def state_dict(self) -> dict[str, Any]:
        """What `restore` goes back to, of all processes: every one has to call this.

        Tensors and plain values only, which `torch.load` reads without running anything.
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
        """Goes back to a `state_dict`, whose weights `captioner_of` has built the captioner with.

        A process that was not there then draws random numbers of its own.
        """
        # A run older than the average has none.
        self.average.load_state_dict(state.get("average", {"average": [], "steps": 0}))
        self.optimizer.load_state_dict(state["optimizer"])
        self.precision.load_state_dict(state["precision"])
        vars(self.progress).update(state["progress"])
        if self.world.rank < len(state["random"]):
            set_random_state(state["random"][self.world.rank], self.captioner.device)
        else:
            seed_process(self.captioner.config.train.seed, self.world)

    def gather_broken(self) -> None:
        """Lets every process know which images the others have skipped."""
        names = self.world.gather(self.progress.broken)
        self.progress.broken = sorted({name for part in names for name in part})


@contextlib.contextmanager
def taking_up(source: object) -> Iterator[None]:
    """Says in one line that `source` is whole, but holds no state that a run could have had."""
    try:
        yield
    except (LookupError, TypeError, ValueError, AttributeError, RuntimeError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise UserError(
            f"{source}: not a state of this run: {reason}; "
            "remove it, so that --resume takes the checkpoint before"
        ) from error


def captioner_of(state: dict[str, Any], config: Config, *, source: object) -> Captioner:
    """The captioner as it was, with the run's present settings; `source` is for errors to name."""
    vit, decoder = ViTConfig(**state["vit"]), DecoderConfig(**state["decoder"])
    # Checkpoints of older runs do not say: they strip.
    tokenizer = Tokenizer(state["vocab"], strip_accents=state.get("strip_accents", True))
    config = replace(config, vit=vit, decoder=decoder)
    return build(config, tokenizer, state["model"], source=source)


def seed_process(seed: int, world: World) -> None:
    """Gives this process a dropout of its own; the first keeps what `seed` began."""
    if not world.is_first:
        torch.manual_seed(seed + world.rank)


@contextlib.contextmanager
def seeded(seed: int, device: torch.device) -> Iterator[None]:
    """Draws from `seed` inside, and goes on afterwards as if nothing had been drawn."""
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        torch.manual_seed(seed)
        yield


def random_state(device: torch.device) -> dict[str, Any]:
    """What this process's generators draw next: torch's (CPU and `device`), Python's, NumPy's."""
    name, keys, *rest = numpy.random.get_state()
    state = {
        "torch": torch.get_rng_state(),
        "python": random.getstate(),
        "numpy": (name, torch.from_numpy(keys.astype("int64")), *rest),
    }
    if device.type == "cuda":
        state["cuda"] = torch.cuda.get_rng_state(device)
    return state


def set_random_state(state: dict[str, Any], device: torch.device) -> None:
    """Goes back to a `random_state`."""
    torch.set_rng_state(state["torch"])
    random.setstate(state["python"])
    name, keys, *rest = state["numpy"]
    numpy.random.set_state((name, keys.numpy().astype("uint32"), *rest))
    if device.type == "cuda" and "cuda" in state:
        torch.cuda.set_rng_state(state["cuda"], device)
