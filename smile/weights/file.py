"""One file of weights, as `torch.save` or safetensors wrote it: name → tensor, memory-mapped."""

import contextlib
import re
from collections.abc import Iterator
from itertools import groupby
from pathlib import Path

from safetensors import SafetensorError, safe_open
from torch import Tensor

from smile.errors import UserError, first_few
from smile.system.files import check_regular
from smile.weights.format import weight_format
from smile.weights.torch_file import Placeholder, read_torch_file

# Keys under which checkpoints keep weights; the trained weights go before their moving averages.
PLACES = (
    *("model", "state_dict", "model_state_dict", "net", "network", "module"),
    *("model_ema", "ema", "state_dict_ema", "ema_state_dict"),
)
MOST_LEVELS = 4  # of nested dicts around the weights
# Prefixes: DDP puts one before the whole name, torch.compile and FSDP before any module's name.
WRAPPERS = re.compile(
    r"^module\.|(?<![^.])(_orig_mod|_fsdp_wrapped_module|_checkpoint_wrapped_module)\."
)
MERGE = (  # what to do with an adapter
    "not a whole model: merge it first (with peft: "
    "`model.merge_and_unload().save_pretrained(DIR)`) and name the folder that this writes"
)
MOST_MAPPINGS = 256  # of one safetensors file; a large captioner needs about 60


def read_file(path: str | Path) -> dict[str, Tensor | Placeholder]:
    """The tensors of one file; a `Placeholder` for one that is sparse, quantised or has no data.

    Raises:
        UserError: if the file cannot be read, or holds something other than weights.
    """
    path = Path(path)
    if weight_format(path) == "safetensors":
        content: dict = read_safetensors(path)
    elif path.suffix == ".safetensors":  # torch.load would go by the suffix
        raise UserError(f"{path} was written by torch.save: rename it so that it ends in .pth")
    else:
        content = _find_weights(read_torch_file(path))
    strange = [
        f"{name!r} ({value if isinstance(value, Placeholder) else type(value).__name__})"
        for name, value in content.items()
        if not _is_tensor(value)
    ]
    if strange or not content:
        raise UserError(
            f"{path}: expected a dict of weights, alone or under 'model', found "
            f"{first_few(strange) or 'nothing'}: save `model.state_dict()`"
        )
    unnamed = [f"{key!r} ({type(key).__name__})" for key in content if not isinstance(key, str)]
    if unnamed:
        raise UserError(f"{path}: expected text as names of weights, found {first_few(unnamed)}")
    return _unwrap(content, path)


def _find_weights(content: dict) -> dict:
    """The dict that holds the weights: under a usual name, or else the one with most tensors."""
    for _ in range(MOST_LEVELS):
        usual = [content[key] for key in PLACES if isinstance(content.get(key), dict)]
        if not usual and any(_is_tensor(value) for value in content.values()):
            return content
        inner = usual[:1] or [value for value in content.values() if isinstance(value, dict)]
        if not inner:
            return content
        content = max(inner, key=lambda one: sum(map(_is_tensor, one.values())))
    return content


def _is_tensor(value: object) -> bool:
    """Whether this is a tensor, or the placeholder of one that cannot be read."""
    return isinstance(value, Tensor) or (
        isinstance(value, Placeholder) and value.name.startswith("torch._utils._rebuild_")
    )


def _unwrap(weights: dict, path: Path) -> dict:
    """The weights by the model's own names, without prefixes of wrappers."""
    if any(re.search(r"(^|\.)lora_", name) for name in weights):
        raise UserError(f"{path} is a LoRA adapter or holds one, {MERGE}")
    found = {WRAPPERS.sub("", name): value for name, value in weights.items()}
    if len(found) < len(weights):
        twice = [name for name in weights if WRAPPERS.sub("", name) != name in found]
        raise UserError(f"{path}: weights with and without a wrapper's name: {first_few(twice)}")
    return found


def read_safetensors(path: str | Path) -> dict[str, Tensor]:
    """The tensors of a `.safetensors` file.

    The file is mapped once per layer, so that a layer's pages are unmapped as soon as its tensors
    are freed.

    Raises:
        UserError: if the file cannot be read.
    """
    weights: dict[str, Tensor] = {}
    with open_safetensors(path) as file:
        names = sorted(file.keys())
    layers = [list(layer) for _, layer in groupby(names, key=_layer)]
    if len(layers) > MOST_MAPPINGS:  # not a captioner, and opening a file takes time
        layers = [names]
    for layer in layers:
        with open_safetensors(path) as file:
            weights |= {name: file.get_tensor(name) for name in layer}
    return weights


def _layer(name: str) -> str:
    """The layer that a weight belongs to: its name up to the first number."""
    numbered = re.match(r".*?\.\d+\.", name, re.DOTALL)
    return numbered[0] if numbered else name


@contextlib.contextmanager
def open_safetensors(path: str | Path) -> Iterator[safe_open]:
    """A safetensors file, memory-mapped. Raises UserError if it cannot be read."""
    check_regular(path)
    try:
        with safe_open(path, framework="pt") as file:
            yield file
    except (SafetensorError, OSError) as error:
        if weight_format(path) != "safetensors":  # raises an error that says what else it is
            raise UserError(f"{path} was written by torch.save, expected safetensors") from error
        raise UserError(
            f"{path}: cannot be read as safetensors, {error}: download or copy it again"
        ) from error
