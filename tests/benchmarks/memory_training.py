"""Memory of a long run: 50 epochs of `configs/shapes.toml`'s captioner, on few images.

    python tests/benchmarks/memory_training.py

Prints the process's resident memory after some epochs. It should not grow: all that does is the
log, by some kilobytes an epoch.
"""

import argparse
import contextlib
import gc
import io
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))

import project  # noqa: F401
from several_processes import trainer_of

from smile.config import load_config
from smile.distributed import World

FEW = (
    "data.num_train=160", "data.num_val=32", "data.num_test=8", "train.caption_images=16",
    "train.workers=0",
)  # fmt: skip


def resident_megabytes() -> float:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * 4096 / 1e6


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--epochs", type=int, default=50)
    args = parser.parse_args()
    config = load_config("configs/shapes.toml", [*FEW, f"train.epochs={args.epochs}"])
    memory: list[float] = []
    with tempfile.TemporaryDirectory() as folder:
        trainer = trainer_of(config, Path(folder), World())
        finish = trainer.finish_epoch

        def measured(phase) -> None:
            finish(phase)
            gc.collect()
            memory.append(resident_megabytes())

        trainer.finish_epoch = measured
        with contextlib.redirect_stderr(io.StringIO()), contextlib.redirect_stdout(io.StringIO()):
            trainer.run()
    for epoch in sorted({1, 2, 5, *range(10, args.epochs + 1, 10)}):
        print(f"after epoch {epoch:3}: {memory[epoch - 1]:6.1f} MB")


if __name__ == "__main__":
    main()
