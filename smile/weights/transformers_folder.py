"""A model folder of the `transformers` library, on disk or on the hub.

It holds `config.json` and the weights: one file, or shards that an index lists; in `safetensors` or
as `torch.save` writes them. The caller knows what the weights mean.
"""

import contextlib
import re
from collections.abc import Mapping
from pathlib import Path

from torch import Tensor

from smile.errors import UserError
from smile.system.files import expect, read_json, show
from smile.weights.file import MERGE, read_file
from smile.weights.hub import NotInRepository, hub_file, in_hub_cache
from smile.weights.torch_file import Placeholder

LARGEST_JSON = 100_000_000  # bytes of a config, an index or a tokenizer
WEIGHT_FILES = (
    "model.safetensors",
    "model.safetensors.index.json",
    "pytorch_model.bin",
    "pytorch_model.bin.index.json",
)


def find_folder(
    source: str | Path, *, known: Mapping[str, str], model_type: str, files: tuple[str, ...]
) -> Path:
    """The folder that `source` names, downloaded if it is not there.

    Args:
        source: a folder, a name of `known` (name → hub id), or a hub id ("owner/name").
        model_type, files: see `download_folder`.

    Raises:
        UserError: if it is none of these, or cannot be downloaded.
    """
    path = Path(source).expanduser()
    if path.is_dir():
        return path
    repo = known.get(str(source), str(source))
    if not re.fullmatch(r"[\w.-]+/[\w.-]+", repo) or path.exists():
        raise UserError(
            f"{source}: expected a transformers folder of a {model_type!r} model, a known name "
            f"({', '.join(known)}) or a hub id (owner/name)"
        )
    return download_folder(repo, model_type=model_type, files=files)


def download_folder(repo: str, *, model_type: str, files: tuple[str, ...]) -> Path:
    """The folder in the hub's cache that holds a repository's config, weights and `files`.

    A repository need not have all of `files`. They are requested before the weights, and only if
    the weights are not in the cache, so a downloaded repository needs no request.

    Raises:
        UserError: if a file is neither in the cache nor can be downloaded, or the config is of
            another `model_type`.
    """
    folder = hub_file(repo, "config.json").parent
    check_type(folder, model_type)
    if not any(in_hub_cache(repo, name) for name in WEIGHT_FILES):
        for name in files:
            with contextlib.suppress(NotInRepository):
                hub_file(repo, name)
    for part in _parts(_first_there(repo, WEIGHT_FILES)):
        hub_file(repo, part)
    return folder


def check_type(folder: Path, model_type: str) -> dict:
    """The `config.json` of a folder. Raises UserError if it is missing or of another model."""
    config = find_json(folder / "config.json")
    if config is None:
        raise UserError(
            f"{folder / 'config.json'} is missing: expected the folder of a transformers model "
            f"of type {model_type!r}"
        )
    if config.get("model_type") != model_type:
        raise UserError(
            f"{folder / 'config.json'} is of a {show(config.get('model_type'))} model, "
            f"expected {show(model_type)}"
        )
    return config


def _first_there(repo: str, names: tuple[str, ...]) -> Path:
    """The first of several files that a repository, or its cache, has."""
    problems: list[UserError] = []
    for name in names:
        try:
            return hub_file(repo, name)
        except UserError as error:
            problems.append(error)
    raise problems[0]


def read_folder(folder: Path) -> dict[str, Tensor | Placeholder]:
    """The weights of a `transformers` folder, whole or in shards."""
    main = next((folder / name for name in WEIGHT_FILES if (folder / name).exists()), None)
    if main is None and (folder / "adapter_config.json").exists():
        raise UserError(f"{folder} is an adapter (LoRA or the like), {MERGE}")
    if main is None:
        raise UserError(
            f"{folder} is neither a run folder nor a transformers folder: expected one of "
            f"{', '.join(WEIGHT_FILES)} in it"
        )
    weights: dict[str, Tensor | Placeholder] = {}
    for part in _parts(main):
        if not (folder / part).exists():
            raise UserError(f"{folder / part} is missing, but {main.name} names it")
        weights |= read_file(folder / part)
    return weights


def _parts(main: Path) -> list[str]:
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
