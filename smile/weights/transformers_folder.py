"""A model folder of the `transformers` library.

It holds `config.json` and the weights: one file, or shards that an index lists; in `safetensors` or
as `torch.save` writes them. The caller knows what the weights mean.
"""

import re
from pathlib import Path

from torch import Tensor

from smile.errors import UserError
from smile.system.files import expect, read_json, show
from smile.weights.file import MERGE, read_file
from smile.weights.torch_file import Placeholder

LARGEST_JSON = 100_000_000  # bytes of a config, an index or a tokenizer
CONFIG = "config.json"
WEIGHT_FILES = (
    "model.safetensors",
    "model.safetensors.index.json",
    "pytorch_model.bin",
    "pytorch_model.bin.index.json",
)


def check_type(folder: Path, model_type: str) -> dict:
    """The `config.json` of a folder. Raises UserError if it is missing or of another model."""
    config = find_json(folder / CONFIG)
    if config is None:
        raise UserError(
            f"{folder / CONFIG} is missing: expected the folder of a transformers model "
            f"of type {model_type!r}"
        )
    if config.get("model_type") != model_type:
        raise UserError(
            f"{folder / CONFIG} is of a {show(config.get('model_type'))} model, "
            f"expected {show(model_type)}"
        )
    return config


def weight_file(folder: Path) -> Path | None:
    """The file of a folder that holds its weights, or lists their shards."""
    return next((folder / name for name in WEIGHT_FILES if (folder / name).exists()), None)


def read_folder(folder: Path) -> dict[str, Tensor | Placeholder]:
    """The weights of a `transformers` folder, whole or in shards."""
    main = weight_file(folder)
    if main is None and (folder / "adapter_config.json").exists():
        raise UserError(f"{folder} is an adapter (LoRA or the like), {MERGE}")
    if main is None:
        raise UserError(
            f"{folder} is neither a run folder nor a transformers folder: expected one of "
            f"{', '.join(WEIGHT_FILES)} in it"
        )
    weights: dict[str, Tensor | Placeholder] = {}
    for part in weight_parts(main):
        if not (folder / part).exists():
            raise UserError(f"{folder / part} is missing, but {main.name} names it")
        weights |= read_file(folder / part)
    return weights


def weight_parts(main: Path) -> list[str]:
    """The files that hold the weights: `main` itself, or the shards that it lists."""
    if main.suffix != ".json":
        return [main.name]
    index = read_json(main, largest=LARGEST_JSON)
    parts = expect(index.get("weight_map"), dict, where=f"{main}: weight_map")
    for key, part in parts.items():
        where = f"{main}: weight_map: {show(key)}"
        if not re.fullmatch(r"\w[\w.-]{0,199}", expect(part, str, where=where), re.ASCII):
            raise UserError(f"{where}: found {show(part)}, expected the name of a file beside it")
    return sorted(set(parts.values()))


def find_json(path: Path) -> dict | None:
    """The object in a JSON file, None if there is no such file. Raises UserError if damaged."""
    return read_json(path, largest=LARGEST_JSON) if path.exists() else None
