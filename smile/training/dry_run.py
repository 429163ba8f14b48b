"""`--dry-run`: one batch through everything, with the methods of the trainer."""

from typing import Protocol

import torch
from torch import Tensor, nn

from smile.config import Config
from smile.data.batches import Batch, Example, batches_of
from smile.model.captioner import Captioner
from smile.system.distributed import World
from smile.training.estimate import Estimate, timed
from smile.training.loader import BatchLoader, read
from smile.training.objective import Objective
from smile.training.once import TrainingData
from smile.training.precision import Precision
from smile.training.schedule import Phase
from smile.training.speed import train_mode, uncompiled


class Trainer(Protocol):
    """What a dry run needs of train.py's `Trainer`, which explains it."""

    config: Config
    captioner: Captioner
    device: torch.device
    world: World
    precision: Precision
    objective: Objective
    data: TrainingData
    batches: BatchLoader
    shown: dict[str, list[Example]]

    @property
    def num_steps(self) -> int: ...
    def choose_shown(self) -> None: ...
    def advise(self) -> None: ...
    def step(self, batches: list[Batch], phase: Phase, lr: float) -> tuple[float, int, int]: ...
    def loss(self, model: nn.Module, batch: Batch, phase: Phase) -> Tensor: ...
    def describe(self, captioner: Captioner, examples: list[Example]) -> dict[str, str]: ...
    def say(self, line: str) -> None: ...


def dry_run(trainer: Trainer) -> None:
    """Runs one batch through everything and prints an estimate for the whole run."""
    trainer.choose_shown()
    trainer.say("\n".join(["dry run: no run is written", *try_out(trainer).lines()]))
    trainer.advise()


def try_out(trainer: Trainer) -> Estimate:
    """What one batch and a few captions take. Two steps are made, which change the weights."""
    config, phase = trainer.config.train, Phase.of(trainer.config, 0)
    captioner, world, shown = trainer.captioner, trainer.world, trainer.shown["val"]
    lr = phase.learning_rate(config, epoch=0, step=0, steps=trainer.num_steps)
    groups = batches_of(read(trainer.batches, world), config.accumulate)
    train_mode(captioner)
    batches, data_seconds = timed(lambda: next(groups))
    trainer.step(batches, phase, lr)  # the first takes longer, as it sets things up
    (loss, tokens, images), step_seconds = timed(lambda: trainer.step(batches, phase, lr))
    captioner.eval()
    with torch.inference_mode():
        _, val_seconds = timed(lambda: trainer.loss(trainer.objective, batches[0], phase).item())
    count = min(len(shown), 8 * world.size)
    with uncompiled(captioner):
        captions, caption_seconds = timed(lambda: trainer.describe(captioner, shown[:count]))
    return Estimate(
        device=trainer.device,
        precision=trainer.precision.name,
        parameters=sum(p.numel() for p in captioner.parameters()),
        images=images,
        captions=world.total(sum(int((b.ids[:, :, 0] != 0).sum()) for b in batches)),
        tokens=max(batch.ids.size(2) for batch in batches),
        steps=trainer.num_steps,
        val_batches=len(trainer.data.loader("val")),
        val_captions=len(shown),
        epochs=config.epochs,
        workers=config.workers,
        data_seconds=data_seconds,
        step_seconds=step_seconds,
        val_seconds=val_seconds,
        caption_seconds=caption_seconds / max(count, 1),
        loss=loss / max(tokens, 1),
        caption=next(iter(captions.values()), "none: no validation images"),
    )
