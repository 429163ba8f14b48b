"""What `tests/training/test_several_processes.py` has two processes do together.

    torchrun --nproc-per-node 2 tests/several_processes.py FOLDER

Each case is trained in FOLDER/case; "stopped" is stopped by a signal to one process three times,
and resumed.
"""

import json
import sys
from pathlib import Path

import torch

ROOT = Path(__file__).parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

from helpers import config_of, train_in_bits, trainer_of  # noqa: E402

from smile.config import Config  # noqa: E402
from smile.system.distributed import World  # noqa: E402

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
