"""Exports a captioner: a folder for `transformers`, or a `.pth` for BLIP's own code."""

import contextlib
import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import save_file

from smile.config import SETTINGS, Config, config_to_toml, get_setting
from smile.errors import UserError
from smile.model.captioner import Captioner
from smile.model.images import MEAN, STD
from smile.system.files import write_atomically, write_text
from smile.weights.names import BLIP, TIED, TRANSFORMERS, from_ours
from smile.weights.transformers_settings import GENERATION, OWN, OWN_SETTINGS, SAMPLING, SEARCH

CHECKPOINT = "checkpoint.pth"
NOT_IN_WEIGHTS = (
    *("vit.num_heads", "vit.norm_eps", "vit.drop_path"),
    *("decoder.num_heads", "decoder.norm_eps", "decoder.dropout"),
)


def export_transformers(captioner: Captioner, folder: str | Path) -> str:
    """Writes what `BlipForConditionalGeneration.from_pretrained` and `BlipProcessor` read.

    Returns:
        A line that says how to use it.

    Raises:
        OSError: they cannot be written.
    """
    folder = _make(folder, captioner)
    for name, content in _transformers_files(captioner).items():
        text = json.dumps(content, indent=2) + "\n"
        write_text(folder / name, text)
    write_atomically(folder / "vocab.txt", captioner.tokenizer.save)
    weights = from_ours(captioner.state_dict(), TRANSFORMERS)
    weights = {name: t.contiguous() for name, t in weights.items() if name not in TIED}
    metadata = {"format": "pt"}  # transformers refuses a file that does not say so
    with _disk_errors(folder / "model.safetensors"):
        write_atomically(
            folder / "model.safetensors", lambda path: save_file(weights, path, metadata=metadata)
        )
    return f'{folder}: BlipForConditionalGeneration.from_pretrained("{folder}") loads it'


def export_blip(captioner: Captioner, folder: str | Path) -> str:
    """Writes `checkpoint.pth`, and beside it `vocab.txt` and the settings that a .pth cannot hold.

    Returns a line that says how to use it.

    BLIP's files also hold `position_ids`, a constant of the decoder, so it is written too.
    """
    folder = _make(folder, captioner)
    weights = {name: t.contiguous() for name, t in from_ours(captioner.state_dict(), BLIP).items()}
    positions = torch.arange(captioner.config.decoder.max_positions)[None]
    weights["text_decoder.bert.embeddings.position_ids"] = positions
    checkpoint = {"model": weights, "epoch": 0}
    with _disk_errors(folder / CHECKPOINT):
        write_atomically(folder / CHECKPOINT, lambda path: torch.save(checkpoint, path))
    write_atomically(folder / "vocab.txt", captioner.tokenizer.save)
    write_text((folder / CHECKPOINT).with_suffix(".toml"), _settings_beside(captioner))
    loader = f"blip_decoder(pretrained=…, image_size={captioner.config.vit.image_size})"
    return (
        f"{folder / CHECKPOINT}: BLIP's {loader} loads it; smile.load reads the settings that a "
        ".pth cannot hold from the .toml beside it"
    )


@contextlib.contextmanager
def _disk_errors(path: Path) -> Iterator[None]:
    """Makes an OSError of what safetensors and torch.save raise where the disk is full."""
    try:
        yield
    except (SafetensorError, RuntimeError) as error:
        reason = str(error).partition("\n")[0]
        raise OSError(f"{path.name} is incomplete, is the disk full? ({reason})") from error


def _make(folder: str | Path, captioner: Captioner) -> Path:
    """Creates the folder if it is missing.

    Raises:
        UserError: neither format can hold this captioner's weights.
    """
    if captioner.config.vit.stem != "patch":
        raise UserError(
            f'vit.stem = "{captioner.config.vit.stem}": cannot be exported, since BLIP and '
            'transformers know only "patch"; use the run folder itself'
        )
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def _settings_beside(captioner: Captioner) -> str:
    """The settings that `smile.load` needs beside a .pth to rebuild the same captioner."""
    config, tokenizer = captioner.config, captioner.tokenizer
    settings = replace(config.tokenizer, strip_accents=tokenizer.strip_accents)
    search = [name for name in SETTINGS if name.startswith("generate.")]
    names = [*NOT_IN_WEIGHTS, "tokenizer.strip_accents", *OWN_SETTINGS.values(), *search]
    return (
        f"# Settings that {CHECKPOINT} cannot hold: smile.load reads them from here.\n\n"
        + config_to_toml(replace(config, tokenizer=settings), list(dict.fromkeys(names)))
    )


def _search(config: Config) -> dict[str, Any]:
    """The settings of the caption search, by transformers' names."""
    names = SEARCH | (SAMPLING if config.generate.samples else {})
    found = {key: get_setting(config, ours) for key, ours in names.items()}
    return found | ({"do_sample": True} if config.generate.samples else {})


def _transformers_files(captioner: Captioner) -> dict[str, dict]:
    """The folder's JSON files: name → content."""
    vit, decoder = captioner.config.vit, captioner.config.decoder
    tokenizer = captioner.tokenizer
    ids = {
        "bos_token_id": tokenizer.bos_id,
        "eos_token_id": tokenizer.sep_id,
        "pad_token_id": tokenizer.pad_id,
    }
    vision = {
        "model_type": "blip_vision_model",
        "image_size": vit.image_size,
        "patch_size": vit.patch_size,
        "hidden_size": vit.dim,
        "num_hidden_layers": vit.depth,
        "num_attention_heads": vit.num_heads,
        "intermediate_size": vit.mlp_dim,
        "layer_norm_eps": vit.norm_eps,
        "hidden_act": "gelu",
    }
    text = {
        "model_type": "blip_text_model",
        "vocab_size": decoder.vocab_size,
        "hidden_size": decoder.dim,
        "encoder_hidden_size": decoder.features_dim,
        "num_hidden_layers": decoder.depth,
        "num_attention_heads": decoder.num_heads,
        "intermediate_size": decoder.mlp_dim,
        "max_position_embeddings": decoder.max_positions,
        "layer_norm_eps": decoder.norm_eps,
        "hidden_dropout_prob": decoder.dropout,
        "attention_probs_dropout_prob": decoder.dropout,
        "hidden_act": "gelu",
        "is_decoder": True,
        "sep_token_id": tokenizer.sep_id,
        **ids,
    }
    return {
        "config.json": {
            "architectures": ["BlipForConditionalGeneration"],
            "model_type": "blip",
            "tie_word_embeddings": True,
            "vision_config": vision,
            "text_config": text,
            OWN: {key: get_setting(captioner.config, ours) for key, ours in OWN_SETTINGS.items()},
        },
        GENERATION: {**_search(captioner.config), **ids},
        "preprocessor_config.json": {
            "image_processor_type": "BlipImageProcessor",
            "processor_class": "BlipProcessor",
            "do_resize": True,
            "size": {"height": vit.image_size, "width": vit.image_size},
            "resample": 3,  # bicubic
            "do_rescale": True,
            "rescale_factor": 1 / 255,
            "do_normalize": True,
            "image_mean": MEAN,
            "image_std": STD,
        },
        "tokenizer_config.json": {
            "tokenizer_class": "BertTokenizer",
            "processor_class": "BlipProcessor",
            "do_lower_case": True,
            "strip_accents": tokenizer.strip_accents,
            "bos_token": "[DEC]",
            "additional_special_tokens": ["[ENC]"],
            "model_max_length": decoder.max_positions,
        },
    }
