"""Captioners for others: a folder for `transformers`, or a `.pth` for BLIP's own code."""

import json
from pathlib import Path

import torch
from safetensors.torch import save_file

from smile.captioner import Captioner
from smile.data.images import MEAN, STD
from smile.errors import UserError
from smile.files import write_atomically, write_text
from smile.weight_names import BLIP, TIED, TRANSFORMERS, from_ours


def export_transformers(captioner: Captioner, folder: str | Path) -> str:
    """Writes what `BlipForConditionalGeneration.from_pretrained` and `BlipProcessor` read.

    Returns:
        A line that says how to use it.
    """
    folder = _make(folder, captioner)
    for name, content in _transformers_files(captioner).items():
        text = json.dumps(content, indent=2) + "\n"
        write_text(folder / name, text)
    write_atomically(folder / "vocab.txt", captioner.tokenizer.save)
    weights = from_ours(captioner.state_dict(), TRANSFORMERS)
    weights = {name: t.contiguous() for name, t in weights.items() if name not in TIED}
    metadata = {"format": "pt"}  # transformers refuses a file that does not say so
    write_atomically(
        folder / "model.safetensors", lambda path: save_file(weights, path, metadata=metadata)
    )
    return f'{folder}: BlipForConditionalGeneration.from_pretrained("{folder}") loads it'


def export_blip(captioner: Captioner, folder: str | Path) -> str:
    """Writes `checkpoint.pth` and `vocab.txt`. Returns a line that says how to use it.

    BLIP's `position_ids`, a constant of its decoder, is written too, as BLIP's own files have it.
    """
    folder = _make(folder, captioner)
    weights = {name: t.contiguous() for name, t in from_ours(captioner.state_dict(), BLIP).items()}
    positions = torch.arange(captioner.config.decoder.max_positions)[None]
    weights["text_decoder.bert.embeddings.position_ids"] = positions
    checkpoint = {"model": weights, "epoch": 0}
    write_atomically(folder / "checkpoint.pth", lambda path: torch.save(checkpoint, path))
    write_atomically(folder / "vocab.txt", captioner.tokenizer.save)
    loader = f"blip_decoder(pretrained=…, image_size={captioner.config.vit.image_size})"
    return f"{folder / 'checkpoint.pth'}: BLIP's {loader} loads it"


def _make(folder: str | Path, captioner: Captioner) -> Path:
    """The folder, made if need be.

    Raises:
        UserError: neither format has a place for this captioner's weights.
    """
    if captioner.config.vit.stem != "patch":
        raise UserError(
            f'vit.stem = "{captioner.config.vit.stem}": cannot be exported, since BLIP and '
            'transformers know only "patch"; use the run folder itself'
        )
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def _transformers_files(captioner: Captioner) -> dict[str, dict]:
    """The JSON files of the folder by name."""
    vit, decoder = captioner.config.vit, captioner.config.decoder
    search, tokenizer = captioner.config.generate, captioner.tokenizer
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
        },
        "generation_config.json": {
            "num_beams": search.num_beams,
            "max_length": search.max_length,
            "min_length": search.min_length,
            "length_penalty": search.length_penalty,
            "repetition_penalty": search.repetition_penalty,
            **ids,
        },
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
            "bos_token": "[DEC]",
            "additional_special_tokens": ["[ENC]"],
            "model_max_length": decoder.max_positions,
        },
    }
