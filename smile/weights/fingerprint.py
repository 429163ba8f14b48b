"""A hash of a captioner, by which a file of captions knows who wrote it."""

import hashlib
from collections.abc import Iterable
from dataclasses import fields
from pathlib import Path

import torch
from torch import Tensor

from smile.config import Config, DecoderConfig, ViTConfig
from smile.model.captioner import Captioner
from smile.model.tokenizer import Tokenizer
from smile.weights.load import read_source
from smile.weights.run_folder import fitting_weights, without_weights


def fingerprint(captioner: Captioner) -> str:
    """A hash of the weights, the sizes in the config, and the vocabulary."""
    return _digest(captioner.config, captioner.tokenizer, captioner.state_dict().items())


def fingerprint_of(
    source: str | Path,
    *,
    vocab: str | Path | None = None,
    model_config: str | Path | None = None,
) -> str:
    """The `fingerprint` of what `load` makes of a source in float32, which takes no memory here.

    A captioner in bfloat16 no longer knows the weights that it was rounded from.

    Raises:
        UserError: for the reasons that `load` does.
    """
    whole = read_source(source, {}, vocab=vocab, model_config=model_config, check=False)
    empty = without_weights(whole.config, whole.tokenizer, whole.weights, source=whole.found)
    weights = fitting_weights(empty, whole.weights, source=whole.found, dtype=torch.float32)
    return _digest(empty.config, whole.tokenizer, weights)


def _digest(config: Config, tokenizer: Tokenizer, weights: Iterable[tuple[str, Tensor]]) -> str:
    sizes = f"({_sizes(config.vit)}, {_sizes(config.decoder)}, {tokenizer.vocab!r})"
    digest = hashlib.sha256(sizes.encode())
    for name, tensor in weights:
        digest.update(f"{name} {tuple(tensor.shape)} {tensor.dtype}".encode())
        numbers = tensor.detach().cpu().contiguous().view(-1).view(torch.uint8)
        digest.update(numbers.numpy())  # type: ignore[arg-type]
    return digest.hexdigest()


_SIZES_OF_0_1 = (
    *("image_size", "patch_size", "dim", "depth", "num_heads", "mlp_dim", "norm_eps", "drop_path"),
    *("vocab_size", "features_dim", "max_positions", "dropout"),
)


def _sizes(section: ViTConfig | DecoderConfig) -> str:
    """A section of the config as version 0.1 wrote it, so that fingerprints stay the same.

    A newer setting is included only where it is not the default.
    """
    pairs = [(key, getattr(section, key.name)) for key in fields(section)]
    shown = [
        f"{key.name}={value!r}"
        for key, value in pairs
        if key.name in _SIZES_OF_0_1 or value != key.default
    ]
    return f"{type(section).__name__}({', '.join(shown)})"
