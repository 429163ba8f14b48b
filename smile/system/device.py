"""The one place that chooses among CPU, CUDA and MPS."""

import os

import torch

from smile.errors import UserError


def pick_device(name: str = "auto") -> torch.device:
    """The device called `name`; "auto" is the first available of CUDA, MPS and CPU.

    Each process that torchrun or Slurm's srun starts on a machine gets another GPU.

    Raises:
        UserError: there is no such device here.
    """
    if name == "auto":
        name = "mps" if torch.backends.mps.is_available() else "cpu"
        name = "cuda" if torch.cuda.is_available() else name
    if name == "cuda" and torch.cuda.is_available():
        local = os.environ.get("LOCAL_RANK", os.environ.get("SLURM_LOCALID", "0"))
        name = f"cuda:{int(local) % torch.cuda.device_count()}"
    try:
        torch.empty(0, device=name)
    except (RuntimeError, AssertionError) as error:  # torch built without CUDA asserts
        reason = str(error).partition("\n")[0]
        raise UserError(f"device {name}: not available here: {reason}") from error
    return torch.device(name)
