"""What a run is made of: a typed config, read from one TOML file.

Each section of the file is a frozen dataclass below, and each key a field that carries its type,
default, meaning and limits. Reading checks all of them, so a typo or an impossible value is refused
in one line before any work starts, and a run means exactly what its file says.
"""

import difflib
import json
import math
import operator
import os
import textwrap
import tomllib
from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from types import UnionType
from typing import Any, Literal, get_args, get_origin, get_type_hints

from smile.errors import UserError, nearest
from smile.system.files import SHOWN, read_text

LARGEST = 2**63 - 1  # the largest integer that TOML guarantees and tensors can hold
LARGEST_SEED = 2**32 - 1  # what every random number generator takes
# Sizes are bounded, so that a typo is refused before it exhausts the memory. The bounds are far
# above any captioner: the largest BLIP has 4.7e8 weights, 24 layers, width 1024.
MOST_WEIGHTS, LARGEST_VOCAB = 4_000_000_000, 1_000_000


def setting(
    default: Any,
    meaning: str,
    *,
    minimum: float | None = None,
    above: float | None = None,
    maximum: float | None = None,
    below: float | None = None,
    is_path: bool = False,
) -> Any:
    """Declare a dataclass field with its meaning and limits (of each element, for a list).

    Args:
        is_path: whether a "~" in front means the home folder.
    """
    limits = {">=": minimum, ">": above, "<=": maximum, "<": below}
    given = {sign: limit for sign, limit in limits.items() if limit is not None}
    return field(
        default=default, metadata={"meaning": meaning, "limits": given, "is_path": is_path}
    )


@dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """Where the weights come from."""

    init: str = setting(
        "", 'weights to start from: "" (none), "blip-base", "blip-base-coco", a run folder, a .pth'
    )
    trained_on: Literal["unknown", "shapes", "photos"] = setting(
        "unknown", "images it was last trained on: recorded by train.py, which ignores a value here"
    )


@dataclass(frozen=True, kw_only=True)
class ViTConfig:
    """The image encoder; the defaults are BLIP base's."""

    image_size: int = setting(224, "side of the square image, in pixels", minimum=1, maximum=4096)
    patch_size: int = setting(16, "side of a patch, in pixels", minimum=1, maximum=4096)
    dim: int = setting(768, "width of a patch's vector", minimum=1, maximum=16384)
    depth: int = setting(12, "number of layers", minimum=1, maximum=1000)
    num_heads: int = setting(
        12, "attention heads; dim is a multiple of it", minimum=1, maximum=1024
    )
    mlp_dim: int = setting(3072, "width of the MLP's hidden layer", minimum=1, maximum=65536)
    norm_eps: float = setting(
        1e-6, "epsilon of LayerNorm (transformers' BLIP: 1e-5)", above=0, maximum=1
    )
    stem: Literal["patch", "conv"] = setting(
        "patch", "how patches become vectors; conv: by small convolutions, better on little data"
    )
    drop_path: float = setting(
        0.0, "stochastic depth: chance of skipping the last layer", minimum=0, below=1
    )


@dataclass(frozen=True, kw_only=True)
class DecoderConfig:
    """The text decoder; the defaults are BLIP base's."""

    vocab_size: int = setting(
        30524, "tokens it knows; 0: as many as the tokenizer", minimum=0, maximum=LARGEST_VOCAB
    )
    dim: int = setting(768, "width of a token's vector", minimum=1, maximum=16384)
    features_dim: int = setting(
        768, "width of the image features; 0: vit.dim", minimum=0, maximum=16384
    )
    depth: int = setting(12, "number of layers", minimum=1, maximum=1000)
    num_heads: int = setting(
        12, "attention heads; dim is a multiple of it", minimum=1, maximum=1024
    )
    mlp_dim: int = setting(3072, "width of the MLP's hidden layer", minimum=1, maximum=65536)
    max_positions: int = setting(
        512, "longest text it can read or write, in tokens", minimum=1, maximum=65536
    )
    norm_eps: float = setting(1e-12, "epsilon of LayerNorm", above=0, maximum=1)
    dropout: float = setting(0.1, "chance of dropping an activation", minimum=0, below=1)


@dataclass(frozen=True, kw_only=True)
class TokenizerConfig:
    """How captions become tokens."""

    vocab: str = setting("", 'a BERT vocab.txt; "": train on the training captions', is_path=True)
    vocab_size: int = setting(
        8000, "most tokens in a trained vocabulary", minimum=7, maximum=LARGEST_VOCAB
    )
    strip_accents: bool | None = setting(
        None,
        "é becomes e, as BERT's vocabulary needs; unset: only with a vocabulary from a file",
    )

    @property
    def strips_accents(self) -> bool:
        """Whether a captioner strips accents; true if unset, as in all older runs."""
        return self.strip_accents is not False


@dataclass(frozen=True, kw_only=True)
class DataConfig:
    """Images and their captions."""

    format: Literal["shapes", "flickr8k", "karpathy", "folder"] = setting(
        "shapes", 'layout of the files; "shapes" draws its images and needs no files'
    )
    root: str = setting("", "folder that holds the data set", is_path=True)
    download: bool = setting(
        False, "fetch first what root lacks of Flickr8k (1.1 GB, for research and education)"
    )
    annotations: str = setting(
        "", 'the file of captions; "": the one in root (karpathy, folder)', is_path=True
    )
    prompt: str = setting("a picture of ", "text every caption continues")
    max_tokens: int = setting(40, "longest caption, prompt included, in tokens", minimum=2)
    max_words: int = setting(
        50,
        "longest caption, without the prompt, in words; max_tokens is the limit for languages "
        "that write no spaces between words",
        minimum=1,
    )
    captions_per_image: int = setting(
        1, "captions trained on one encoding of an image", minimum=1, maximum=10_000
    )
    augment: bool = setting(True, "crop, flip and RandAugment the training images")
    augment_on: Literal["loader", "device"] = setting(
        "loader", "device: a whole batch at once, cheaper: crop, rotate, flip and recolour"
    )
    cache: str = setting(
        "", 'file to keep the pictures in, decoded and resized to vit.image_size; "": none'
    )
    skip_broken: bool = setting(False, "skip and count unreadable images instead of stopping")
    val_fraction: float = setting(
        0.05, "share of images for validation (folder); 0: none", minimum=0, below=1
    )
    test_fraction: float = setting(
        0.05, "share of images for testing (folder); 0: none", minimum=0, below=1
    )
    num_train: int = setting(8000, "training images (shapes)", minimum=1, maximum=1_000_000)
    num_val: int = setting(256, "validation images (shapes)", minimum=0, maximum=LARGEST_VOCAB)
    num_test: int = setting(256, "test images (shapes)", minimum=0, maximum=LARGEST_VOCAB)
    seed: int = setting(0, "which scenes (shapes)", minimum=0, maximum=LARGEST_SEED)


@dataclass(frozen=True, kw_only=True)
class LossConfig:
    """What is learned from a caption."""

    objective: Literal["smile", "mle", "reverse", "random"] = setting(
        "smile", "the loss: SMILE, plain maximum likelihood, or one of the paper's variants"
    )
    mle_epochs: int = setting(
        0, "epochs of MLE first: SMILE needs a model that can already caption", minimum=0
    )
    lr: float = setting(0.0, "peak learning rate after the epochs of MLE; 0: train.lr", minimum=0)
    warmup_steps: int = setting(
        0, "warm-up steps after the epochs of MLE; 0: train.warmup_steps", minimum=0
    )
    mle_weight: float = setting(0.0, "share of MLE mixed into the loss", minimum=0, maximum=1)
    label_smoothing: float = setting(0.0, "label smoothing of the MLE part", minimum=0, below=1)
    first_token: Literal["mle", "shift", "none"] = setting(
        "mle", 'SMILE\'s first token: full vocabulary, "word" shifted to "##word", or like the rest'
    )
    selective_end: bool = setting(
        False, "leave [SEP] out of the softmax wherever it is not the label"
    )
    num_random: int = setting(
        10, "random tokens beside each label (random)", minimum=1, maximum=10_000
    )


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """How it is learned."""

    epochs: int = setting(5, "passes over all captions", minimum=1)
    batch_size: int = setting(
        16, "images in a batch; several processes split each batch", minimum=1, maximum=65536
    )
    accumulate: int = setting(1, "batches per optimiser step", minimum=1, maximum=65536)
    lr: float = setting(1e-4, "peak learning rate of AdamW", above=0)
    ema: float = setting(
        0.0,
        "decay of the moving average of the weights, which is saved in their place; 0: none",
        minimum=0,
        below=1,
    )
    min_lr: float = setting(1e-6, "learning rate at the end of the cosine", minimum=0)
    warmup_steps: int = setting(0, "optimiser steps in which the rate rises to lr", minimum=0)
    weight_decay: float = setting(0.05, "weight decay of AdamW", minimum=0)
    betas: tuple[float, float] = setting((0.9, 0.999), "AdamW's decay rates", minimum=0, below=1)
    grad_clip: float = setting(1.0, "largest norm of the gradient; 0: no clipping", minimum=0)
    seed: int = setting(0, "of weights, order, augmentation", minimum=0, maximum=LARGEST_SEED)
    workers: int = setting(
        2, "processes that load images; 0: the main process does", minimum=0, maximum=512
    )
    save_minutes: float = setting(
        10.0, "minutes between two checkpoints for --resume, beside one each epoch", above=0
    )
    val_every: int = setting(
        1, "epochs from one validation, with captions and checkpoint, to the next", minimum=1
    )
    keep_captioners: bool = setting(
        False, "keep the captioner of each validation, in the folder epochs/ of the run"
    )
    caption_images: int = setting(
        64, "images captioned at each validation and at the end; 0: all of the split", minimum=0
    )
    device: Literal["auto", "cpu", "cuda", "mps"] = setting("auto", "where to compute")
    precision: Literal["auto", "float32", "bfloat16", "float16"] = setting(
        "auto", "of the forward pass; auto: bfloat16 on CUDA, else float32"
    )
    compile: bool = setting(False, "compile encoder and decoder blocks: minutes first, then faster")
    checkpoint_blocks: int = setting(
        0, "last encoder blocks that recompute activations: less memory, more time", minimum=0
    )
    freeze: tuple[Literal["vit"], ...] = setting(
        (), 'parts not trained; without data.augment, a frozen "vit" encodes each image once'
    )


@dataclass(frozen=True, kw_only=True)
class GenerateConfig:
    """How captions are written; lengths count tokens with the prompt."""

    num_beams: int = setting(3, "beams of the search; 1: greedy", minimum=1, maximum=1000)
    max_length: int = setting(30, "longest text, in tokens", minimum=2)
    min_length: int = setting(10, "shortest text, in tokens", minimum=0)
    length_penalty: float = setting(
        1.0, "exponent of the length a beam's score is divided by", minimum=-20, maximum=20
    )
    early_stopping: bool = setting(False, "beams: stop at the first num_beams finished captions")
    repetition_penalty: float = setting(
        1.0, "divides the scores of tokens already generated", minimum=0.001, maximum=1000
    )
    no_repeat_ngram_size: int = setting(
        0, "length of n-grams that may not repeat in a caption; 0: off", minimum=0
    )
    forbid: tuple[str, ...] = setting(
        (), "words and phrases that no caption may hold; whole words, in any case"
    )
    top_p: float = setting(
        1.0, "sampling: probability mass of the nucleus", minimum=0.001, maximum=1
    )
    top_k: int = setting(0, "sampling: only from the k likeliest tokens; 0: all", minimum=0)
    temperature: float = setting(
        1.0,
        "sampling: below 1 more predictable, above 1 more random",
        minimum=0.001,
        maximum=1000,
    )
    do_sample: bool = setting(False, "sample words; implied by top_p, top_k or temperature")
    num_return: int = setting(
        1, "captions per image; at most num_beams, unless sampling", minimum=1, maximum=1000
    )

    @property
    def samples(self) -> bool:
        """Whether captions are sampled rather than searched for."""
        return self.do_sample or self.top_p < 1 or self.top_k > 0 or self.temperature != 1

    @property
    def conflict(self) -> str:
        """Which of these settings do not go together, in words; "" if all do."""
        if self.samples or self.num_return <= self.num_beams:
            return ""
        return (
            f"num_return is {self.num_return}, but num_beams only {self.num_beams}: raise "
            "num_beams, or sample (top_p, top_k or temperature)"
        )


@dataclass(frozen=True, kw_only=True)
class Config:
    """One run: `config.train.lr` is `lr` of the file's `[train]`."""

    model: ModelConfig = ModelConfig()
    vit: ViTConfig = ViTConfig()
    decoder: DecoderConfig = DecoderConfig()
    tokenizer: TokenizerConfig = TokenizerConfig()
    data: DataConfig = DataConfig()
    loss: LossConfig = LossConfig()
    train: TrainConfig = TrainConfig()
    generate: GenerateConfig = GenerateConfig()


@dataclass(frozen=True)
class Relation:
    """Two settings that must fit each other: `key` is expected to be `words` `other`."""

    key: str
    words: str
    other: str
    holds: Callable[[Any, Any], bool]


def _is_multiple(a: int, b: int) -> bool:
    return a % b == 0


RELATIONS = (
    Relation("vit.image_size", "a multiple of", "vit.patch_size", _is_multiple),
    Relation("vit.image_size", "at most 256 times", "vit.patch_size", lambda a, b: a <= 256 * b),
    Relation(
        "vit.patch_size",
        "a power of two above 1, or another",
        "vit.stem",
        lambda size, stem: stem == "patch" or (size > 1 and size & (size - 1) == 0),
    ),
    Relation("vit.dim", "a multiple of", "vit.num_heads", _is_multiple),
    Relation("decoder.dim", "a multiple of", "decoder.num_heads", _is_multiple),
    Relation("decoder.features_dim", "0 or equal to", "vit.dim", lambda a, b: a in (0, b)),
    Relation("data.max_tokens", "at most", "decoder.max_positions", operator.le),
    Relation("generate.max_length", "at most", "decoder.max_positions", operator.le),
    Relation("generate.min_length", "at most", "generate.max_length", operator.le),
    Relation("train.min_lr", "at most", "train.lr", operator.le),
    Relation("loss.lr", "0 or at least", "train.min_lr", lambda a, b: a == 0 or a >= b),
    Relation("loss.mle_epochs", "at most", "train.epochs", operator.le),
    Relation(
        "data.val_fraction", "a sum below 1 with", "data.test_fraction", lambda a, b: a + b < 1
    ),
    Relation("data.root", "a folder, since", "data.format", lambda a, b: a or b == "shapes"),
)

_RETURNED = ("generate.num_return", "generate.num_beams")
SECTIONS: dict[str, type[Any]] = {section.name: type(section.default) for section in fields(Config)}
SETTINGS = {f"{name}.{key.name}": key for name, cls in SECTIONS.items() for key in fields(cls)}
TYPES = {  # without the None of an unset setting, which no file can express
    f"{name}.{key}": get_args(kind)[0] if get_origin(kind) is UnionType else kind
    for name, cls in SECTIONS.items()
    for key, kind in get_type_hints(cls).items()
}
_COMPARE = {">=": operator.ge, ">": operator.gt, "<=": operator.le, "<": operator.lt}
_TYPE_WORDS = {
    int: "a whole number",
    float: "a number",
    bool: "true or false",
    str: "text in quotes",
}


def load_config(
    path: str | Path, overrides: Iterable[str] = (), *, base: Config | None = None
) -> Config:
    """Read a config file, then apply `section.key=value` overrides (`--set`) in their order.

    An override's value is read as TOML, or as bare text where it is not TOML. All other settings
    come from `base`, or are the defaults.

    Raises:
        UserError: the file is missing or not TOML, a name is unknown, or a value is of the wrong
            type or impossible.
    """
    path = Path(path)
    values, places = {}, {}
    for section, table in _read_toml(path).items():
        if section not in SECTIONS:
            raise UserError(f"{path}: there is no section [{section}]{_section_hint(section)}")
        if not isinstance(table, dict):
            raise UserError(
                f"{path}: {section} = {_quote(table)}: expected a section [{section}] of settings"
            )
        for key, value in table.items():
            name = f"{section}.{key}"
            values[name], places[name] = check_setting(name, value, place=path), str(path)
    for override in overrides:
        name, value = _read_override(override)
        values[name], places[name] = check_setting(name, value, place="--set"), "--set"
    config = with_settings(base or Config(), values)
    check_relations(config, places, default_place=path)
    return config


def with_settings(config: Config, values: dict[str, Any]) -> Config:
    """The config with values that `check_setting` returned, named as in "train.lr"."""
    sections: dict[str, dict[str, Any]] = {section: {} for section in SECTIONS}
    for name, value in values.items():
        section, key = name.split(".")
        sections[section][key] = value
    return Config(
        **{section: replace(getattr(config, section), **keys) for section, keys in sections.items()}
    )


def override(config: Config, section: str, settings: dict[str, Any]) -> Config:
    """The config with some settings of one section replaced, checked like those of a file.

    Raises:
        UserError: a name is unknown, or a value is of the wrong type or impossible.
    """
    checked = {
        key: check_setting(f"{section}.{key}", value, place="settings")
        for key, value in settings.items()
    }
    config = replace(config, **{section: replace(getattr(config, section), **checked)})
    check_relations(config, {}, default_place="settings")
    return config


def config_to_toml(config: Config, names: Collection[str] | None = None) -> str:
    """The config, defaults included, as TOML that `load_config` reads back equal.

    Args:
        names: settings to write, if not all.
    """
    tables: dict[str, str] = {}
    for name in SETTINGS if names is None else names:
        section, key = name.split(".")
        value = get_setting(config, name)
        if value is not None:  # TOML has no null: what is unset is left out
            table = tables.setdefault(section, f"[{section}]\n")
            tables[section] = table + f"{key} = {_show(value)}\n"
    return "\n".join(tables.values())


def describe_config() -> str:
    """Every setting with its default, meaning and limits, for `train.py --help`."""
    lines = []
    for section, cls in SECTIONS.items():
        lines.append(f"\n[{section}]  {cls.__doc__}")
        for key in fields(cls):
            default = "unset" if key.default is None else _show(key.default)
            start = f"  {key.name:<20} = {default:<15} "
            name = f"{section}.{key.name}"
            values = _expected(name) if _choices(TYPES[name]) else _bounds(name)
            lines += textwrap.wrap(
                start + key.metadata["meaning"] + (f" ({values})" if values else ""),
                100,
                subsequent_indent=" " * len(start),
                break_on_hyphens=False,
            )
    return "\n".join(lines).lstrip("\n")


def _read_toml(path: Path) -> dict[str, Any]:
    """The file as nested dicts."""
    if not path.is_file():
        folder = path if path.is_dir() else path.parent
        found = [*folder.glob("*.toml")] if folder != Path() else []
        known = sorted(str(p) for p in found or Path("configs").glob("*.toml"))
        choices = f"; there are {', '.join(known)}" if known else ""
        raise UserError(f"{path}: no such config file{choices}{nearest(path, known)}")
    try:
        return tomllib.loads(read_text(path))
    except RecursionError as error:
        raise UserError(f"{path}: not valid TOML: nested too deep") from error
    except ValueError as error:  # the message says the line
        raise UserError(f"{path}: not valid TOML (text needs quotes): {error}") from error


def _read_override(override: str) -> tuple[str, Any]:
    """Split `section.key=value` and read the value."""
    name, equals, text = override.partition("=")
    name = name.strip()
    if not equals or name.count(".") != 1:
        raise UserError(
            f"--set {override}: expected section.key=value, such as train.epochs=3{_key_hint(name)}"
        )
    try:
        document = tomllib.loads(f"value = {text}")
        value = document["value"] if len(document) == 1 else text
    except (ValueError, RecursionError):
        value = text
    if TYPES.get(name) is str and not isinstance(value, str):
        value = text  # a folder may be called 2024
    return name, value


def check_setting(
    name: str, value: Any, *, place: str | Path = "settings", called: str = ""
) -> Any:
    """The value converted to its setting's type and checked against its limits.

    Args:
        place: where the value was found, for error messages.
        called: what the setting is called there, if not by its own name.

    Raises:
        UserError: there is no such setting, or the value is of the wrong type or impossible.
    """
    if name not in SETTINGS:
        raise UserError(f"{place}: there is no setting {name}{_key_hint(name)}")
    limits = SETTINGS[name].metadata["limits"]
    result = _convert(value, TYPES[name], limits)
    if result is None:
        expected = _expected(name) + nearest(_quote(value).strip('"'), _choices(TYPES[name]))
        raise UserError(f"{place}: {called or name} = {_quote(value)}: expected {expected}")
    return os.path.expanduser(result) if SETTINGS[name].metadata["is_path"] else result


def _convert(value: Any, kind: Any, limits: dict[str, float]) -> Any:
    """The value as `kind`, or None where its type or size is wrong."""
    if get_origin(kind) is Literal:
        return value if value in get_args(kind) else None
    if get_origin(kind) is tuple:
        kinds = get_args(kind)
        if isinstance(value, list | tuple) and kinds[-1] is Ellipsis:  # any number of the one kind
            kinds = kinds[:1] * len(value)
        if not isinstance(value, list | tuple) or len(value) != len(kinds):
            return None
        items = tuple(_convert(v, k, limits) for v, k in zip(value, kinds, strict=True))
        return None if None in items else items
    if kind in (str, bool):
        return value if isinstance(value, kind) else None
    numbers = (int,) if kind is int else (int, float)
    if isinstance(value, bool) or not isinstance(value, numbers):
        return None
    if not abs(value) <= LARGEST or not all(_COMPARE[w](value, x) for w, x in limits.items()):
        return None  # nan and inf fail the first test
    return kind(value)


def _choices(kind: Any) -> tuple[str, ...]:
    """The values that a setting, or each item of its list, may have; () if it has no such list."""
    if get_origin(kind) is tuple:
        kind = get_args(kind)[0]
    return get_args(kind) if get_origin(kind) is Literal else ()


def _expected(name: str) -> str:
    """What a setting takes, in words: 'a whole number >= 1'."""
    kind = TYPES[name]
    if choices := ", ".join(json.dumps(choice) for choice in _choices(kind)):
        return f"one of {choices}" if get_origin(kind) is Literal else f"a list, each of {choices}"
    if kind == tuple[str, ...]:
        return 'a list of texts in quotes, such as ["a", "b"]'
    words = f"a list of {len(get_args(kind))} numbers" if get_args(kind) else _TYPE_WORDS[kind]
    return f"{words} {_bounds(name)}".rstrip()


def _bounds(name: str) -> str:
    """A number's limits in words, "" where it has none: 'from 1 to 1000', '>= 0 and < 1'."""
    limits = SETTINGS[name].metadata["limits"]
    if limits.keys() == {">=", "<="}:
        return f"from {limits['>=']} to {limits['<=']}"
    return " and ".join(f"{sign} {limit}" for sign, limit in limits.items())


def check_relations(config: Config, places: dict[str, str], *, default_place: str | Path) -> None:
    """Refuse settings that are possible alone but not together.

    Args:
        places: where each was given, by name; `default_place` for the others.
    """
    for relation in RELATIONS:
        value, other = (get_setting(config, name) for name in (relation.key, relation.other))
        if not relation.holds(value, other):
            given = [places.get(name) for name in (relation.key, relation.other)]
            place = "--set" if "--set" in given else default_place
            raise UserError(
                f"{place}: {relation.key} = {_quote(value)}: "
                f"expected {relation.words} {relation.other} = {_quote(other)}"
            )
    if conflict := config.generate.conflict:
        place = "--set" if "--set" in map(places.get, _RETURNED) else default_place
        raise UserError(f"{place}: generate.{conflict}")
    if (count := num_weights(config)) > MOST_WEIGHTS:
        raise UserError(
            f"{default_place}: [vit] and [decoder] have {count / 1e9:.1f}e9 weights: expected at "
            f"most {MOST_WEIGHTS / 1e9:.0f}e9; lower dim, depth, mlp_dim or vocab_size"
        )


def num_weights(config: Config) -> int:
    """About how many weights a captioner of these sizes has; biases and norms are not counted."""
    vit, decoder = config.vit, config.decoder
    patches = (vit.image_size // vit.patch_size) ** 2
    layer = 4 * vit.dim**2 + 2 * vit.dim * vit.mlp_dim
    encoder = (3 * vit.patch_size**2 + patches) * vit.dim + vit.depth * layer
    dim, features_dim = decoder.dim, decoder.features_dim or vit.dim
    layer = 6 * dim**2 + 2 * dim * features_dim + 2 * dim * decoder.mlp_dim
    embeddings = (decoder.vocab_size or config.tokenizer.vocab_size) + decoder.max_positions
    return encoder + (embeddings + dim) * dim + decoder.depth * layer


def get_setting(config: Config, name: str) -> Any:
    """The value of a setting named as in "train.lr"."""
    section, key = name.split(".")
    return getattr(getattr(config, section), key)


def _show(value: Any) -> str:
    """A value as TOML writes it."""
    if isinstance(value, list | tuple):
        return "[" + ", ".join(_show(item) for item in value) + "]"
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    if isinstance(value, str | bool | int | float):
        # JSON and TOML write these alike, but TOML wants DEL escaped.
        return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
    return str(value)


def _quote(value: Any) -> str:
    """A value as an error quotes it: in TOML, cut short where it is long."""
    try:
        text = _show(value)
    except ValueError:  # Python writes out numbers of up to 4300 digits
        text = "a number of too many digits"
    except RecursionError:
        text = "a deeply nested list"
    return text if len(text) <= SHOWN else text[: SHOWN - 1] + "…"


# What other projects call a setting, where similarity alone would suggest a wrong one or none.
_ELSEWHERE = {
    "lr": "learning_rate init_lr max_lr peak_lr base_lr",
    "min_lr": "min_learning_rate eta_min",
    "epochs": "num_epochs num_train_epochs max_epochs max_epoch",
    "batch_size": "batch bs per_device_train_batch_size",
    "accumulate": "gradient_accumulation_steps grad_accum grad_accum_steps",
    "weight_decay": "wd decay",
    "betas": "adam_beta1 adam_beta2",
    "grad_clip": "max_grad_norm clip_grad_norm",
    "workers": "dataloader_num_workers",
    "precision": "amp fp16 bf16 dtype",
    "checkpoint_blocks": "gradient_checkpointing vit_grad_ckpt",
    "init": "pretrained model_name_or_path",
    "image_size": "img_size resolution input_size",
    "dim": "hidden_size embed_dim d_model n_embd width",
    "depth": "num_hidden_layers num_layers n_layer layers",
    "mlp_dim": "intermediate_size ffn_dim",
    "drop_path": "stochastic_depth",
    "dropout": "hidden_dropout_prob p_drop",
    "norm_eps": "layer_norm_eps eps",
    "max_positions": "block_size context_length",
    "root": "image_root image_dir data_dir",
    "annotations": "ann_root ann_file",
    "format": "dataset",
    "objective": "criterion loss_type",
    "num_beams": "beam_size beams",
    "max_length": "max_new_tokens",
    "min_length": "min_new_tokens",
    "num_return": "num_return_sequences num_captions",
    "top_p": "nucleus nucleus_p",
}
ALIASES = {alias: key for key, names in _ELSEWHERE.items() for alias in names.split()}


def _key_hint(name: str) -> str:
    """Suggests the setting with the most similar key, in any section; the full name breaks ties."""
    section, _, key = name.rpartition(".")
    key = ALIASES.get(key.lower(), key)
    name = f"{section}.{key}" if section else key

    def closeness(valid: str) -> tuple[float, float]:
        pairs = ((name.rpartition(".")[2], valid.rpartition(".")[2]), (name, valid))
        near_key, near_name = (difflib.SequenceMatcher(None, *pair).ratio() for pair in pairs)
        return near_key, near_name

    best = max(SETTINGS, key=closeness)
    return f"; did you mean {best}?" if closeness(best)[0] >= 0.6 else ""


def _section_hint(section: str) -> str:
    return nearest(section, SECTIONS) or _key_hint(section) or f"; there are {', '.join(SECTIONS)}"
