"""What `tests/test_several_processes.py` has two processes do together, under torchrun.

    torchrun --nproc-per-node 2 tests/several_processes.py FOLDER

Each case is trained in FOLDER/case; "stopped" is stopped by a signal to one process three times,
and resumed.
"""

import json
import signal
import sys
from collections.abc import Iterable
from pathlib import Path

import torch

ROOT = Path(__file__).parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

from kill_training import TINY  # noqa: E402

import train  # noqa: E402
from smile.config import Config, load_config  # noqa: E402
from smile.system.distributed import World  # noqa: E402
from smile.training.checkpointing.signals import Stopped  # noqa: E402
from smile.training.splits import load_splits  # noqa: E402

SMALL = (
    *TINY, "data.augment=false", "data.num_train=13", "data.num_val=5", "data.num_test=3",
    "train.batch_size=5", "train.caption_images=5", "train.epochs=2", "loss.mle_epochs=1",
    "loss.objective=smile", "train.workers=0", "train.grad_clip=0.5",
)  # fmt: skip
NO_DROPOUT = ("vit.drop_path=0.0", "decoder.dropout=0.0")
# 13 images in batches of 5: the last batch has 3, and with 4 a batch, a single one. k = 2 leaves
# groups of 2, 2 and 1 captions.
CASES = {
    "pairs": (*NO_DROPOUT, "data.captions_per_image=1", "train.accumulate=1"),
    "groups": (
        *NO_DROPOUT,
        "data.captions_per_image=5",
        "train.batch_size=4",
        "train.accumulate=3",
    ),
    "uneven": (*NO_DROPOUT, "data.captions_per_image=2", "train.accumulate=2"),
}
DROPOUT = ("data.captions_per_image=5", "train.batch_size=4", "train.accumulate=2")


def walks_by_chance(name: str) -> bool:
    """Whether a weight learns nothing, so that rounding alone moves it.

    A key's bias adds the same to all scores of a query, which a softmax does not see
    (`test_model.test_a_key_s_bias_changes_nothing`): its gradient is zero but for rounding, and
    AdamW, which divides a gradient by its own size, makes whole steps of that. Two runs whose sums
    are rounded otherwise (several processes, another instruction set) need not agree on it.
    """
    return name.endswith("key.bias")


def config_of(*settings: str) -> Config:
    return load_config(ROOT / "configs" / "shapes.toml", [*SMALL, *settings])


def trainer_of(config: Config, folder: Path, world: World, *, resume: bool = False):
    """A trainer as train.py makes it; None if the run is finished."""
    folder.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(config.train.seed)
    examples = load_splits(config)
    return (train.resume if resume else train.start)(config, folder, examples, world)


def stop_after(trainer, pauses: int) -> None:
    """Lets a signal come to the last process, once it has paused so many times."""
    keeper, pause = trainer.keeper, trainer.keeper.pause

    def counting() -> None:
        nonlocal pauses
        pauses -= 1
        if pauses == 0 and keeper.world.rank == keeper.world.size - 1:
            keeper.signals.number = signal.SIGTERM
        pause()

    keeper.pause = counting


def train_in_bits(config: Config, folder: Path, world: World, pauses: Iterable[int]) -> int:
    """Trains, stopped after so many pauses, resumed, stopped after so many more …, to the end.

    Returns how often it was stopped.
    """
    trainer, stops = trainer_of(config, folder, world), 0
    for count in pauses:
        stop_after(trainer, count)
        try:
            trainer.run()
        except Stopped:
            stops += 1
        trainer = trainer_of(config, folder, world, resume=True)
    trainer.run()
    return stops


def train_noting_norms(config: Config, folder: Path, world: World) -> list[float]:
    """Trains to the end; the gradient's norm at each step, which neither AdamW nor clipping shows.

    The first process leaves them in FOLDER/norms.json too.
    """
    trainer, norms = trainer_of(config, folder, world), []
    step = trainer.precision.step

    def noting(*args) -> torch.Tensor:
        norm = step(*args)
        norms.append(norm.item())
        return norm

    trainer.precision.step = noting
    trainer.run()
    if world.is_first:
        (folder / "norms.json").write_text(json.dumps(norms))
    return norms


def main() -> None:
    folder, world = Path(sys.argv[1]), World.join()
    for name, settings in CASES.items():
        train_noting_norms(config_of(*settings), folder / name, world)
    trainer_of(config_of(*DROPOUT), folder / "whole", world).run()
    # In each epoch there are 2 steps, 2 batches to validate and one of captions: stopped after
    # step 1, in validation, at the next epoch's step 2 (validation and captions come again).
    stops = train_in_bits(config_of(*DROPOUT), folder / "stopped", world, pauses=[1, 2, 5])
    if world.is_first:
        (folder / "stops").write_text(str(stops))
    world.leave()


if __name__ == "__main__":
    main()
