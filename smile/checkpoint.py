"""Run folders: a captioner on disk, whole or not at all.

    runs/shapes/
        model.safetensors   weights, by the names of our modules
        config.toml         the whole resolved config
        vocab.txt           the tokenizer

Such a folder needs nothing else and can be moved anywhere. Files are written whole or not at
all (`files.write_atomically`).
"""

import contextlib
import re
from collections.abc import Iterable, Iterator
from dataclasses import replace
from itertools import groupby
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from smile.captioner import Captioner
from smile.config import Config, config_to_toml, load_config
from smile.errors import UserError, first_few
from smile.files import check_regular, read_text, write_atomically, write_text
from smile.tokenizer import Tokenizer
from smile.vit import interpolate_positions

WEIGHTS, CONFIG, VOCAB = "model.safetensors", "config.toml", "vocab.txt"
LOG = "log.jsonl"  # a record per epoch: only training writes it
MLE_FOLDER, LAST_FOLDER = "mle", "last"  # the captioner at the switch, and after the last epoch
CHECKPOINTS = "checkpoints"  # what --resume goes on from


def save_run(folder: str | Path, captioner: Captioner) -> None:
    """Writes weights, config and vocabulary; `load_run` reads them back.

    Raises:
        OSError: they cannot be written.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    toml = config_to_toml(captioner.config)
    write_text(folder / CONFIG, toml)
    write_atomically(folder / VOCAB, captioner.tokenizer.save)
    weights = {name: tensor.contiguous() for name, tensor in captioner.state_dict().items()}
    try:
        write_atomically(folder / WEIGHTS, lambda path: save_file(weights, path))
    except SafetensorError as error:
        raise OSError(f"{folder / WEIGHTS}: {error}") from error


def is_run(folder: str | Path) -> bool:
    """Whether `folder` holds a captioner of ours."""
    return all((Path(folder) / name).is_file() for name in (WEIGHTS, CONFIG, VOCAB))


def run_config(folder: str | Path, overrides: Iterable[str] = ()) -> Config:
    """The config of a run folder; for older runs `model.trained_on` is worked out.

    A converted BLIP has the data format "shapes" by default, so that alone says nothing: only a
    run that trained has a log.

    Raises:
        UserError: the config is missing or damaged.
    """
    config = load_config(Path(folder) / CONFIG, overrides)
    trained_on = config.model.trained_on
    if trained_on == "unknown" and config.data.format != "shapes":
        trained_on = "photos"
    elif trained_on == "unknown" and _has_log(Path(folder).resolve()):
        trained_on = "shapes"
    return replace(config, model=replace(config.model, trained_on=trained_on))


def _has_log(folder: Path) -> bool:
    """Whether training wrote this folder; `mle/` and `last/` share the log of the run around."""
    place = folder.parent if folder.name in (MLE_FOLDER, LAST_FOLDER) else folder
    with contextlib.suppress(OSError):
        return (place / LOG).is_file()
    return False


def check_run(folder: str | Path) -> Config:
    """The config of a run folder, if that, the vocabulary and the weights' header can be read.

    Raises:
        UserError: one of them is damaged.
    """
    config = run_config(folder)
    read_text(Path(folder) / VOCAB)
    with _opened(Path(folder) / WEIGHTS):
        return config


@contextlib.contextmanager
def _opened(path: str | Path) -> Iterator[safe_open]:
    """A safetensors file, memory-mapped. Raises UserError where it cannot be read."""
    check_regular(path)
    try:
        with safe_open(path, framework="pt") as file:
            yield file
    except (SafetensorError, OSError) as error:
        raise UserError(f"{path}: cannot be read as safetensors: {error}") from error


def load_run(folder: str | Path, *, image_size: int | None = None) -> Captioner:
    """Reads a run folder into a captioner on the CPU, in evaluation mode.

    Args:
        image_size: side of the images to caption, in pixels, where it is not the one trained on;
            position embeddings are interpolated.

    Raises:
        UserError: if a file is missing, damaged, or does not fit the config.
    """
    folder = Path(folder)
    missing = [name for name in (WEIGHTS, CONFIG, VOCAB) if not (folder / name).is_file()]
    if missing:
        raise UserError(f"{folder} is not a run folder: it lacks {', '.join(missing)}")
    overrides = [] if image_size is None else [f"vit.image_size={image_size}"]
    config = run_config(folder, overrides)
    weights = read_safetensors(folder / WEIGHTS)
    return build(config, Tokenizer.from_vocab(folder / VOCAB), weights, source=folder / WEIGHTS)


def read_safetensors(path: str | Path) -> dict[str, Tensor]:
    """The tensors of a `.safetensors` file, memory-mapped.

    Each layer has a mapping of its own, so that the memory its pages take can be given back layer
    by layer, once nothing holds its tensors any more.

    Raises:
        UserError: if the file cannot be read.
    """
    weights: dict[str, Tensor] = {}
    with _opened(path) as file:
        names = sorted(file.keys())
    for _, layer in groupby(names, key=lambda name: re.match(r".*?\.\d+\.|.*", name)[0]):
        with _opened(path) as file:
            weights |= {name: file.get_tensor(name) for name in layer}
    return weights


def build(config, tokenizer: Tokenizer | None, weights: dict[str, Tensor], *, source) -> Captioner:
    """A captioner around `weights`: no random initialisation, no copy, every name accounted for.

    Raises:
        UserError: naming `source` and the first few missing, unexpected or misshapen weights.
    """
    weights = dict(weights)
    if "vit.positions" in weights:
        grid = config.vit.image_size // config.vit.patch_size
        weights["vit.positions"] = interpolate_positions(weights["vit.positions"], grid=grid)
    with torch.device("meta"):
        captioner = Captioner(config=config, tokenizer=tokenizer)
    assign_weights(captioner, weights, source=source)
    return captioner.eval()


def assign_weights(model: nn.Module, weights: dict[str, Tensor], *, source) -> None:
    """Makes `weights`, uncopied, those of a model that was built on the meta device.

    Raises:
        UserError: naming `source` and the first few missing, unexpected or misshapen weights.
    """
    expected = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
    given = {name: tuple(tensor.shape) for name, tensor in weights.items()}
    problems = [f"{name} {expected[name]} is missing" for name in expected.keys() - given.keys()]
    problems += [f"{name} {given[name]} is unexpected" for name in given.keys() - expected.keys()]
    problems += [
        f"{name} is {given[name]}, expected {expected[name]}"
        for name in expected.keys() & given.keys()
        if expected[name] != given[name]
    ]
    if problems:
        raise UserError(f"{source} does not fit: {first_few(problems)}")
    model.load_state_dict(weights, assign=True)
