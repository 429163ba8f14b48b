"""Run folders: a captioner on disk, whole or not at all.

    runs/shapes/
        model.safetensors          weights, by the names of our modules
        model.safetensors.sha256   their checksum (`sha256sum -c` reads it)
        config.toml                the whole resolved config
        vocab.txt                  the tokenizer

Such a folder needs nothing else and can be moved anywhere. Files are written whole or not at
all (`files.write_atomically`).
"""

import contextlib
import re
from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor, nn

from smile.config import Config, config_to_toml, load_config
from smile.errors import UserError, first_few
from smile.model.captioner import Captioner
from smile.model.tokenizer import Tokenizer
from smile.system.files import read_text, write_atomically, write_text
from smile.weights.checksum import check_sum, write_with_checksum
from smile.weights.dtypes import to_dtype, unusable
from smile.weights.file import open_safetensors, read_safetensors
from smile.weights.positions import interpolate_positions

WEIGHTS, CONFIG, VOCAB = "model.safetensors", "config.toml", "vocab.txt"
LOG = "log.jsonl"  # a record per epoch: only training writes it
MLE_FOLDER, LAST_FOLDER = "mle", "last"  # the captioner at the switch, and after the last epoch
EPOCHS_FOLDER = "epochs"  # train.keep_captioners: epochs/002 is the captioner after two
CHECKPOINTS = "checkpoints"  # what --resume reads


def save_run(folder: str | Path, captioner: Captioner, *, half: bool = False) -> None:
    """Writes weights, config and vocabulary; `load_run` reads them back.

    Args:
        half: weights as float16, in half the space; `load_run` makes float32 of them.

    Raises:
        UserError: a weight is too large for float16.
        OSError: they cannot be written.
    """
    weights = {name: tensor.contiguous() for name, tensor in captioner.state_dict().items()}
    if half:
        weights = {name: _to_float16(name, weight) for name, weight in weights.items()}
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    config = captioner.config
    tokenizer = replace(config.tokenizer, strip_accents=captioner.tokenizer.strip_accents)
    write_text(folder / CONFIG, config_to_toml(replace(config, tokenizer=tokenizer)))
    write_atomically(folder / VOCAB, captioner.tokenizer.save)
    try:
        write_with_checksum(folder / WEIGHTS, lambda path: save_file(weights, path))
    except SafetensorError as error:
        raise OSError(f"{folder / WEIGHTS}: {error}") from error


def _to_float16(name: str, weight: Tensor) -> Tensor:
    """A weight as float16. Raises UserError if a number is too large for it."""
    halved = weight.half()
    if not halved.isfinite().all():
        raise UserError(
            f"{name}: holds {weight.abs().max():.1e}, more than float16's largest "
            f"({torch.finfo(torch.float16).max:.0f}): write float32 (leave out --half)"
        )
    return halved


def is_run(folder: str | Path) -> bool:
    """Whether `folder` holds a captioner of ours."""
    return all((Path(folder) / name).is_file() for name in (WEIGHTS, CONFIG, VOCAB))


def kept_captioners(folder: str | Path) -> dict[int, Path]:
    """The captioners that `train.keep_captioners` kept in a run's folder: epoch → run folder."""
    kept = (path for path in (Path(folder) / EPOCHS_FOLDER).glob("*") if is_run(path))
    return {int(path.name): path for path in sorted(kept) if path.name.isdecimal()}


def is_unfinished(folder: str | Path) -> bool:
    """Whether `folder` belongs to a run that has not written a captioner yet."""
    folder = Path(folder)
    return (folder / CHECKPOINTS).is_dir() and not (folder / WEIGHTS).exists()


def run_config(folder: str | Path, overrides: Iterable[str] = ()) -> Config:
    """The config of a run folder; for older runs `model.trained_on` is inferred.

    The data format "shapes" alone proves nothing, because a converted BLIP has it by default. Only
    a run that was trained has a log.

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
    """Whether training wrote this folder; `mle/` and `last/` share the log of their run."""
    place = folder.parent if folder.name in (MLE_FOLDER, LAST_FOLDER) else folder
    with contextlib.suppress(OSError):
        return (place / LOG).is_file()
    return False


def check_run(folder: str | Path) -> Config:
    """The config of a run folder whose config, vocabulary and weights' header can be read.

    Raises:
        UserError: one of them is damaged.
    """
    config = run_config(folder)
    read_text(Path(folder) / VOCAB)
    with open_safetensors(Path(folder) / WEIGHTS):
        return config


def load_run(folder: str | Path, *, image_size: int | None = None) -> Captioner:
    """Reads a run folder into a captioner on the CPU, in evaluation mode; see `read_run`.

    Args:
        image_size: side of the images to caption, in pixels, if not the one trained on; position
            embeddings are interpolated.

    Raises:
        UserError: if a file is missing, damaged, or does not fit the config.
    """
    overrides = [] if image_size is None else [f"vit.image_size={image_size}"]
    weights, config, tokenizer = read_run(folder, overrides)
    return build(config, tokenizer, weights, source=Path(folder) / WEIGHTS)


def read_run(
    folder: str | Path, overrides: Iterable[str] = (), *, check: bool = True
) -> tuple[dict[str, Tensor], Config, Tokenizer]:
    """The weights (memory-mapped), config and tokenizer of a run folder.

    Args:
        overrides: settings that replace the run's, as for `load_config`.
        check: compare the weights with their checksum, if they have one.

    Raises:
        UserError: if a file is missing or damaged.
    """
    folder = Path(folder)
    missing = [name for name in (WEIGHTS, CONFIG, VOCAB) if not (folder / name).is_file()]
    if missing:
        raise UserError(f"{folder} is not a run folder: it lacks {', '.join(missing)}")
    config = run_config(folder, overrides)
    tokenizer = Tokenizer.from_vocab(
        folder / VOCAB,
        strip_accents=config.tokenizer.strips_accents,
        largest=config.decoder.vocab_size,
    )
    if tokenizer.vocab_size != config.decoder.vocab_size:
        raise UserError(
            f"{folder / VOCAB}: {tokenizer.vocab_size} entries, but {CONFIG} says "
            f"decoder.vocab_size = {config.decoder.vocab_size}"
        )
    weights = read_safetensors(folder / WEIGHTS)  # first: it explains an LFS pointer or a web page
    if check:
        check_sum(folder / WEIGHTS)
    return weights, config, tokenizer


def build(
    config: Config,
    tokenizer: Tokenizer | None,
    weights: dict[str, Tensor],
    *,
    source: object,
    dtype: torch.dtype = torch.float32,
) -> Captioner:
    """A captioner around `weights`: no random initialisation, every name accounted for.

    See `assign_weights`, also for what happens to `weights`.

    Raises:
        UserError: naming `source` and the first few weights that do not fit.
    """
    captioner = without_weights(config, tokenizer, weights, source=source)
    assign_weights(captioner, weights, source=source, dtype=dtype)
    return captioner.eval()


def without_weights(
    config: Config, tokenizer: Tokenizer | None, weights: dict[str, Tensor], *, source: object
) -> Captioner:
    """The captioner that `weights` are for, on the meta device, where it takes no memory.

    Positions among `weights` are interpolated to the config's image size.

    Raises:
        UserError: the layers of `weights` are not those of the config.
    """
    for tower in ("vit", "decoder"):  # before creating as many layers as a config asks for
        depth, found = getattr(config, tower).depth, num_layers(weights, tower)
        if depth != found:
            raise UserError(
                f"{source} does not fit: it has {found} layers of {tower}, the config says {depth}"
            )
    positions = weights.get("vit.positions")
    if positions is not None and positions.dim() == 3 and not unusable(positions):
        grid = config.vit.image_size // config.vit.patch_size
        weights["vit.positions"] = interpolate_positions(positions.float(), grid=grid)
    try:
        with torch.device("meta"):
            captioner = Captioner(config=config, tokenizer=tokenizer)
    except ValueError as error:
        raise UserError(f"{source} does not fit: {error}") from error
    return captioner


def num_layers(names: Iterable[str], tower: str) -> int:
    """How many layers of "vit" or "decoder" there are among weights by our names."""
    return len({m[1] for name in names if (m := re.match(rf"{tower}\.blocks\.(\d+)\.", name))})


def assign_weights(
    model: nn.Module,
    weights: dict[str, Tensor],
    *,
    source: object,
    dtype: torch.dtype = torch.float32,
) -> None:
    """Assigns `weights`, as `dtype`, to a model that was built on the meta device.

    See `fitting_weights`.
    """
    assigned = dict(fitting_weights(model, weights, source=source, dtype=dtype))
    model.load_state_dict(assigned, assign=True)


def fitting_weights(
    model: nn.Module, weights: dict[str, Tensor], *, source: object, dtype: torch.dtype
) -> Iterator[tuple[str, Tensor]]:
    """Each weight of a model by its name, as `dtype`, in the model's order.

    What is of that type already is not copied. `weights` is emptied one by one, so that of another
    type's file only one tensor exists twice at a time.

    Raises:
        UserError: naming `source` and the first few weights that are missing, unexpected,
            misshapen, not of floating-point numbers, or not finite.
    """
    expected = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
    given = {name: tuple(tensor.shape) for name, tensor in weights.items()}
    problems = [f"{name} {expected[name]} is missing" for name in expected.keys() - given.keys()]
    problems += [f"{name} {given[name]} is unexpected" for name in given.keys() - expected.keys()]
    for name in expected.keys() & given.keys():
        if expected[name] != given[name]:
            problems.append(f"{name} is {given[name]}, expected {expected[name]}")
        elif reason := unusable(weights[name]):
            problems.append(f"{name} {reason}")
    if problems:
        raise UserError(f"{source} does not fit: {first_few(problems)}")
    for name in expected:
        try:
            weight = to_dtype(weights.pop(name), dtype)
        except ValueError as error:
            raise UserError(f"{source}: {name} {error}") from error
        yield name, weight
        del weight  # or it would live until the next one is there
