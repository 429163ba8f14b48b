"""What `test_cuda_training.py` has torchrun start as the only process: NCCL with nobody to talk to.

    torchrun --nproc-per-node 1 tests/gpu/one_process.py FOLDER DEVICE SETTING …

A process that is alone does without torch.distributed (`smile/system/distributed.py`). This one
joins a group all the same, and trains wrapped as one of several would: its gradients go through
NCCL.
"""

import contextlib
import sys
from pathlib import Path

import torch
from torch import nn

TESTS = Path(__file__).parent.parent
sys.path[:0] = [str(TESTS.parent), str(TESTS)]

from helpers import config_of, trainer_of  # noqa: E402

from smile.system.device import pick_device  # noqa: E402
from smile.system.distributed import World  # noqa: E402


class Exchanging(World):
    """A process that is alone and does not know it."""

    def parallel(self, module: nn.Module) -> nn.Module:
        return nn.parallel.DistributedDataParallel(module, gradient_as_bucket_view=True)

    def sync_gradients(
        self, module: nn.Module, *, enabled: bool
    ) -> contextlib.AbstractContextManager:
        return contextlib.nullcontext() if enabled else module.no_sync()


def main() -> None:
    folder, device, *settings = sys.argv[1:]
    device = pick_device(device)
    backend = "gloo"
    if device.type == "cuda":
        torch.cuda.set_device(device)
        backend = "cpu:gloo,cuda:nccl"  # as World.join has it
    torch.distributed.init_process_group(backend)
    for where in ("cpu", device):
        value = torch.ones(3, device=where)
        torch.distributed.all_reduce(value)
        if value.tolist() != [1, 1, 1]:
            raise SystemExit(f"the sum of one process's ones on {where}: {value.tolist()}")
    trainer_of(config_of(*settings), Path(folder), Exchanging()).run()
    torch.distributed.destroy_process_group()


if __name__ == "__main__":
    main()
