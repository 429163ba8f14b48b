"""SMILE captioning: BLIP's captioner in plain PyTorch, trained with the SMILE loss.

import smile
captioner = smile.load("blip-base")
print(captioner.caption("dog.jpg"))
"""

import gc
from importlib import import_module
from typing import Any

_HOMES = {
    "load": "smile.weights.load",
    "Captioner": "smile.model.captioner",
    "Describer": "smile.captioning.describer",
    "open_image": "smile.model.images",
    "explain": "smile.captioning.explain",
    "smile_loss": "smile.loss",
    "UserError": "smile.errors",
    "__version__": "smile.version",
}
__all__ = sorted(_HOMES)


def __getattr__(name: str) -> Any:
    """Imports a public name when it is first used: most programs need only some of them."""
    if name not in _HOMES:
        raise AttributeError(f"module 'smile' has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    """The public names, and those that every module has."""
    return sorted([*__all__, *(name for name in globals() if name.startswith("__"))])


def _import_torch() -> None:
    """Imports torch with the garbage collector off, then freezes the new objects.

    Importing torch creates half a million objects that live until the end. The collector would
    traverse them again and again: half a second of the three that one caption takes.
    """
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        import_module("torch")
        gc.freeze()
    finally:
        if was_enabled:
            gc.enable()


_import_torch()
