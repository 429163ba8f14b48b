"""The settings that change how a captioner is trained but not what it computes."""

import contextlib
import ctypes

import torch

from smile.errors import UserError
from smile.model.captioner import Captioner
from smile.training.onednn import use_onednn

M_TRIM_THRESHOLD, M_MMAP_MAX = -1, -4  # from glibc's malloc.h


def prepare(captioner: Captioner) -> Captioner:
    """Freezes, checkpoints and compiles as `[train]` says, in place, for the device it is on.

    Names of weights stay as they are.

    Raises:
        UserError: more blocks are to be checkpointed than there are.
    """
    config, vit = captioner.config.train, captioner.vit
    if config.checkpoint_blocks > len(vit.blocks):
        raise UserError(
            f"train.checkpoint_blocks = {config.checkpoint_blocks}: expected at most "
            f"{len(vit.blocks)}, the encoder's blocks"
        )
    vit.checkpoint_blocks = config.checkpoint_blocks
    vit.requires_grad_(not is_frozen(captioner))
    if captioner.device.type == "cpu":
        use_onednn(captioner)
        keep_freed_memory()
    if config.compile:
        blocks = [*vit.blocks, *captioner.decoder.blocks]
        # Blocks of one kind share their code, but for stochastic depth, which is each one's own.
        torch._dynamo.config.recompile_limit = 8 + len(blocks)
        for block in blocks:
            block.compile(dynamic=True)  # captions are of any length, the last batch of any size
    return captioner


def is_frozen(captioner: Captioner) -> bool:
    """Whether the encoder does not learn."""
    return "vit" in captioner.config.train.freeze


def train_mode(captioner: Captioner) -> None:
    """Dropout and stochastic depth on, but in what is frozen."""
    captioner.train()
    captioner.vit.train(not is_frozen(captioner))


def uncompiled(captioner: Captioner) -> contextlib.AbstractContextManager:
    """For searches, whose cache grows with each word: a compiler would begin anew each time."""
    if captioner.config.train.compile:
        return torch.compiler.set_stance("force_eager")
    return contextlib.nullcontext()


def _c_library() -> ctypes.CDLL | None:
    """This process's C library; None where a process is no library, as on Windows."""
    try:
        return ctypes.CDLL(None)
    except (OSError, TypeError):
        return None


C = _c_library()


def keep_freed_memory() -> None:
    """Lets freed memory stay with this process, for the next step to use again.

    glibc hands large blocks back at once. Taken anew, they come zeroed page by page, which on two
    cores is about a twentieth of a step. Other C libraries are left alone.
    """
    if hasattr(C, "mallopt"):
        C.mallopt(M_MMAP_MAX, 0)
        C.mallopt(M_TRIM_THRESHOLD, 2**31 - 1)


def give_back_freed_memory() -> None:
    """Once in a while, or what lies unused between blocks in use adds up over many epochs."""
    if hasattr(C, "malloc_trim"):
        C.malloc_trim(0)
