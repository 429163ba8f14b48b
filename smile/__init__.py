"""SMILE captioning: BLIP's captioner in plain PyTorch, trained with the SMILE loss.

import smile
captioner = smile.load("runs/shapes")
print(captioner.caption(Image.open("dog.jpg")))
"""

from importlib import import_module

_HOMES = {
    "load": "smile.pretrained",
    "Captioner": "smile.captioner",
    "smile_loss": "smile.loss",
    "UserError": "smile.errors",
}
__all__ = sorted(_HOMES)


def __getattr__(name: str):
    """Imports a public name when it is first used: most programs need only some of them."""
    if name not in _HOMES:
        raise AttributeError(f"module 'smile' has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)
