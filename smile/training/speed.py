"""How fast a captioner trains, and in how much memory: settings that keep what is computed.

Results may differ in their last digits.
"""

import contextlib
import ctypes

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from smile.captioning.packed import use_views
from smile.errors import UserError
from smile.model.captioner import Captioner
from smile.model.layers import PreNormBlock
from smile.model.vit import ViT
from smile.system.onednn import outruns_mkl
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
    checkpoint_activations(vit, last=config.checkpoint_blocks)
    vit.requires_grad_(not is_frozen(captioner))
    use_views(captioner)
    if captioner.device.type == "cpu":
        if outruns_mkl():
            use_onednn(captioner)
        keep_freed_memory()
    if config.compile:
        blocks = [*vit.blocks, *captioner.decoder.blocks]
        # Blocks of one kind share compiled code only if their drop_path is the same.
        torch._dynamo.config.recompile_limit = 8 + len(blocks)
        for block in blocks:
            block.compile(dynamic=True)  # caption lengths differ, and the last batch is smaller
    return captioner


def flush_denormals() -> None:
    """Makes this process take numbers smaller than 1.2e-38 for 0. To be called before it computes.

    Processors compute slowly with such denormal numbers, which probabilities of unlikely words and
    AdamW's averages of their gradients may be: with random weights of BLIP base's size a backward
    pass on an Intel Xeon took 67 s with them and 6 s without. Threads inherit this from the thread
    that starts them.
    """
    torch.set_flush_denormal(True)


class CheckpointedBlock(PreNormBlock):
    """A block that keeps only its input and is computed again in the backward pass.

    Activation checkpointing (Chen et al. 2016): less memory for more time, and the same gradients.
    The call is wrapped, not `forward`, so that a compiled block stays compiled.
    """

    def __call__(self, x: Tensor) -> Tensor:
        """(B, T, D) → (B, T, D)."""
        if not torch.is_grad_enabled():
            return super().__call__(x)
        return checkpoint(super().__call__, x, use_reentrant=False)


def checkpoint_activations(vit: ViT, *, last: int) -> None:
    """Makes the `last` blocks of an encoder `CheckpointedBlock`s, and the others plain, in place.

    Weights, their names and hooks stay.
    """
    kept = len(vit.blocks) - last
    for number, block in enumerate(vit.blocks):
        block.__class__ = PreNormBlock if number < kept else CheckpointedBlock


def is_frozen(captioner: Captioner) -> bool:
    """Whether the encoder's weights are frozen."""
    return "vit" in captioner.config.train.freeze


def train_mode(captioner: Captioner) -> None:
    """Turns dropout and stochastic depth on, except in a frozen encoder."""
    captioner.train()
    captioner.vit.train(not is_frozen(captioner))


def uncompiled(captioner: Captioner) -> contextlib.AbstractContextManager:
    """Runs eagerly inside: the cache grows in every step, so the compiler would recompile."""
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
    """Keeps freed memory in this process, for the next step to use again.

    glibc returns large blocks to the system at once, and the system zeroes them page by page when
    they are allocated again: on two cores about 5 % of a step. Other C libraries are not changed.
    """
    if C is not None and hasattr(C, "mallopt"):
        C.mallopt(M_MMAP_MAX, 0)
        C.mallopt(M_TRIM_THRESHOLD, 2**31 - 1)


def give_back_freed_memory() -> None:
    """Returns unused heap to the system; otherwise fragmentation grows over many epochs."""
    if C is not None and hasattr(C, "malloc_trim"):
        C.malloc_trim(0)
