"""Where to compute: the one place that chooses among CPU, CUDA and MPS."""

import os

import torch

from smile.errors import UserError


def pick_device(name: str = "auto") -> torch.device:
    """The device called `name`; "auto" is the first of CUDA, MPS and CPU that is there.

    Of several processes that torchrun started on a machine, each takes its own GPU.

    Raises:
        UserError: there is no such device here.
    """
    if name == "auto":
        name = "mps" if torch.backends.mps.is_available() else "cpu"
        name = "cuda" if torch.cuda.is_available() else name
    if name == "cuda" and torch.cuda.is_available():
        name = f"cuda:{int(os.environ.get('LOCAL_RANK', 0)) % torch.cuda.device_count()}"
    try:
        torch.empty(0, device=name)
    except (RuntimeError, AssertionError) as error:  # torch built without CUDA asserts
        reason = str(error).partition("\n")[0]
        raise UserError(f"device {name}: not available here: {reason}") from error
    return torch.device(name)
