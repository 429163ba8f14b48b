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

from project import ROOT

sys.path.insert(0, str(ROOT / "tests"))

from helpers import SMALL, trainer_of

from smile.config import load_config
from smile.system.distributed import World

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
    parser.add_argument("--tiny", action="store_true", help="one round of tiny sizes, as a test")
    args = parser.parse_args()
    settings = (*FEW, f"train.epochs={args.epochs}")
    if args.tiny:
        args.epochs = 2
        settings = (*SMALL, "train.epochs=2")
    config = load_config(ROOT / "configs" / "shapes.toml", settings)
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
    for epoch in sorted({1, 2, 5, *range(10, args.epochs + 1, 10)} & set(range(args.epochs + 1))):
        print(f"after epoch {epoch:3}: {memory[epoch - 1]:6.1f} MB")


if __name__ == "__main__":
    main()
