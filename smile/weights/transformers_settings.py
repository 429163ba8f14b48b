"""The settings of a BLIP's `transformers` folder, translated to ours.

    config.json              heads, epsilons, dropout; the rows that captions begin and end with
    generation_config.json   lengths, beams, penalties
    processor_config.json    how a picture becomes pixels; preprocessor_config.json in older folders
    tokenizer_config.json    whether accents are stripped

A setting that we do not implement is refused. A missing setting has the library's default, except
lengths and beams, which have BLIP's.
"""

import math
from pathlib import Path
from typing import Any, NamedTuple

from smile.config import GenerateConfig, check_setting
from smile.errors import UserError
from smile.model.images import MEAN, STD
from smile.system.files import expect, lone_surrogate, show
from smile.weights.transformers_folder import find_json
from smile.weights.vocabulary import TokenIds

CONFIG, GENERATION = "config.json", "generation_config.json"
PROCESSORS = ("processor_config.json", "preprocessor_config.json")
TOKENIZER_CONFIG = "tokenizer_config.json"

# Their key in vision_config or text_config, our setting, and their default.
MODEL = (
    ("vision_config", "num_attention_heads", "vit.num_heads", 12),
    ("vision_config", "layer_norm_eps", "vit.norm_eps", 1e-5),
    ("text_config", "num_attention_heads", "decoder.num_heads", 8),
    ("text_config", "layer_norm_eps", "decoder.norm_eps", 1e-12),
    ("text_config", "hidden_dropout_prob", "decoder.dropout", 0.0),
)
# Settings without a key in transformers: `export` adds them to config.json in an object `OWN`.
OWN = "smile"
OWN_SETTINGS = {
    "prompt": "data.prompt",
    "forbid": "generate.forbid",
    "trained_on": "model.trained_on",
}

# Their names for [generate]'s settings; those for sampling count only with do_sample.
SEARCH = {
    name: f"generate.{name}"
    for name in (
        "num_beams",
        "max_length",
        "min_length",
        "length_penalty",
        "early_stopping",
        "repetition_penalty",
        "no_repeat_ngram_size",
    )
} | {"num_return_sequences": "generate.num_return"}
SAMPLING = {name: f"generate.{name}" for name in ("do_sample", "top_p", "top_k", "temperature")}
THEIR_TOP_K = 50  # their default when sampling

# The image processing that BLIP expects.
PROCESSING = {
    "do_resize": True,
    "do_rescale": True,
    "rescale_factor": 1 / 255,
    "do_normalize": True,
    "do_center_crop": False,
    "do_pad": False,
    "resample": 3,  # bicubic
}
TOKENIZING = {"do_lower_case": True, "tokenize_chinese_chars": True}


class FolderSettings(NamedTuple):
    """Checked values of our settings by name, and the rows that captions begin and end with."""

    values: dict[str, Any]
    ids: TokenIds


def read_settings(folder: Path, *, own_vocab: bool = True) -> FolderSettings:
    """All settings in the files of a folder.

    Args:
        own_vocab: whether the folder's vocabulary is used; otherwise its settings are ignored.

    Raises:
        UserError: a file is damaged, or asks for something that we do not implement.
    """
    path = folder / CONFIG
    config = _read_object(path)
    text = _object_in(config, "text_config", path)
    values = _of_config(config, path) | _of_generation(folder / GENERATION) | _of_processor(folder)
    if own_vocab:
        values |= _of_tokenizer(folder / TOKENIZER_CONFIG)
    ids = TokenIds(_token_id(text, "bos_token_id", path), _token_id(text, "sep_token_id", path))
    return FolderSettings(values, ids)


def _token_id(text_config: dict[str, Any], key: str, path: Path) -> int | None:
    if key not in text_config:
        return None
    return expect(text_config[key], int, where=f"{path}: text_config.{key}")


def _read_object(path: Path) -> dict[str, Any]:
    """A JSON file's object without null values; an empty one if there is no such file."""
    return _given(find_json(path) or {})


def _given(values: dict[str, Any]) -> dict[str, Any]:
    """The values that are not null: null means the default, like a missing key."""
    return {key: value for key, value in values.items() if value is not None}


def _object_in(values: dict[str, Any], key: str, path: Path) -> dict[str, Any]:
    return _given(expect(values.get(key, {}), dict, where=f"{path}: {key}"))


def _refuse_others(values: dict[str, Any], expected: dict[str, Any], where: str) -> None:
    """Refuses a value that is given and differs from the expected one."""
    for key, ours in expected.items():
        found = values.get(key, ours)
        if isinstance(found, bool) != isinstance(ours, bool) or not _same(found, ours):
            raise UserError(
                f"{where}{key} is {show(found)}, expected {show(ours)}: only BLIP's is implemented"
            )


def _same(found: Any, ours: Any) -> bool:
    """Whether two values are equal, numbers within 1e-6."""
    try:
        return abs(found - ours) <= 1e-6
    except (TypeError, OverflowError):  # not numbers, or one of hundreds of digits
        return found == ours


def _of_config(config: dict[str, Any], path: Path) -> dict[str, Any]:
    parts = {part: _object_in(config, part, path) for part in ("vision_config", "text_config")}
    for name, part in parts.items():
        _refuse_others(part, {"hidden_act": "gelu"}, f"{path}: {name}.")
    found = {
        ours: check_setting(ours, parts[part].get(key, default), place=path, called=f"{part}.{key}")
        for part, key, ours, default in MODEL
    }
    own = _object_in(config, OWN, path)
    for key in OWN_SETTINGS.keys() & own.keys():
        ours = OWN_SETTINGS[key]
        value = check_setting(ours, own[key], place=path, called=f"{OWN}.{key}")
        if surrogate := lone_surrogate("".join(value)):
            raise UserError(
                f"{path}: {OWN}.{key} holds {surrogate}, a lone surrogate: no character"
            )
        found[ours] = value
    return found


def _of_generation(path: Path) -> dict[str, Any]:
    given = _read_object(path)
    names = dict(SEARCH)
    if expect(given.get("do_sample", False), bool, where=f"{path}: do_sample"):
        names |= SAMPLING
        given.setdefault("top_k", THEIR_TOP_K)
    found = {
        ours: check_setting(ours, given[key], place=path, called=key)
        for key, ours in names.items()
        if key in given
    }
    longest = found.get("generate.max_length", math.inf)
    if GenerateConfig().min_length > longest:
        found.setdefault("generate.min_length", longest)
    return found


def _of_processor(folder: Path) -> dict[str, Any]:
    """Of the two files, the newer processor_config.json goes first, as in transformers."""
    for name in PROCESSORS:
        path, where = folder / name, f"{folder / name}: "
        values = _read_object(path)
        if name == PROCESSORS[0]:
            values, where = _object_in(values, "image_processor", path), f"{where}image_processor."
        if not values:
            continue
        _refuse_others(values, PROCESSING, where)
        _check_statistics(values, "image_mean", MEAN, where)
        _check_statistics(values, "image_std", STD, where)
        if "size" in values:
            return {"vit.image_size": _side(values["size"], path, f"{where}size")}
        break
    return {}


def _check_statistics(
    values: dict[str, Any], key: str, ours: tuple[float, ...], where: str
) -> None:
    found = expect(values.get(key, list(ours)), list, where=f"{where}{key}")
    if len(found) != len(ours) or not all(map(_same, found, ours)):
        raise UserError(f"{where}{key} is {show(found)}, expected CLIP's {show(ours)}")


def _side(size: Any, path: Path, where: str) -> int:
    """The side of the square that pictures are resized to: a number, or height and width."""
    if isinstance(size, dict):
        size = _given(size)
        if size.keys() != {"height", "width"} or size["height"] != size["width"]:
            raise UserError(f"{where} is {show(size)}, expected height and width to be equal")
        size = size["height"]
    return check_setting("vit.image_size", size, place=path, called=where.partition(": ")[2])


def _of_tokenizer(path: Path) -> dict[str, Any]:
    values = _read_object(path)
    _refuse_others(values, TOKENIZING, f"{path}: ")
    if "strip_accents" not in values:
        return {}
    name = "tokenizer.strip_accents"
    value = check_setting(name, values["strip_accents"], place=path, called="strip_accents")
    return {name: value}
