"""The captioner that a run starts with, from scratch or from `model.init`, and its optimiser."""

import unicodedata
from collections.abc import Sequence
from dataclasses import replace
from typing import Literal

import torch

from smile.config import Config
from smile.data.batches import Example
from smile.errors import UserError
from smile.model.captioner import Captioner
from smile.model.tokenizer import Tokenizer
from smile.training.checks import check_memory
from smile.weights.load import load


def recorded(config: Config) -> Config:
    """The config with `model.trained_on` set to the kind of images that this run trains on."""
    trained_on: Literal["shapes", "photos"] = (
        "shapes" if config.data.format == "shapes" else "photos"
    )
    return replace(config, model=replace(config.model, trained_on=trained_on))


def make_captioner(config: Config, train_examples: Sequence[Example]) -> Captioner:
    """The captioner to train; its config is the run's, completed with the captioner's sizes.

    Raises:
        UserError: weights or vocabulary are missing, or do not fit the config.
    """
    if config.model.init:
        captioner = load_init(config)
        strip_accents = config.tokenizer.strip_accents
        if strip_accents not in (None, captioner.tokenizer.strip_accents):
            vocab = captioner.tokenizer.vocab
            captioner.tokenizer = Tokenizer(vocab, strip_accents=strip_accents)
        sizes = captioner.config
        captioner.config = replace(config, vit=sizes.vit, decoder=sizes.decoder)
        return captioner
    tokenizer = _make_tokenizer(config, train_examples)
    if config.decoder.vocab_size not in (0, tokenizer.vocab_size):
        raise UserError(
            f"decoder.vocab_size = {config.decoder.vocab_size}, but the tokenizer has "
            f"{tokenizer.vocab_size} entries; set it to 0 to follow the tokenizer"
        )
    decoder = replace(config.decoder, vocab_size=tokenizer.vocab_size, features_dim=config.vit.dim)
    config = replace(config, decoder=decoder)
    check_memory(config)
    return Captioner(config=config, tokenizer=tokenizer).init_weights()


def load_init(config: Config) -> Captioner:
    """The captioner that `model.init` names, at the run's image size; see `load`."""
    return load(
        config.model.init,
        image_size=config.vit.image_size,
        vocab=config.tokenizer.vocab or None,
        drop_path=config.vit.drop_path,
        dropout=config.decoder.dropout,
    )


def make_optimizer(captioner: Captioner) -> torch.optim.Optimizer:
    """AdamW (Loshchilov and Hutter 2019) over the trained weights, with the run's settings."""
    config = captioner.config.train
    return torch.optim.AdamW(
        [weight for weight in captioner.parameters() if weight.requires_grad],
        lr=config.lr,
        betas=config.betas,
        weight_decay=config.weight_decay,
        fused=True,
    )


def _make_tokenizer(config: Config, train_examples: Sequence[Example]) -> Tokenizer:
    """A tokenizer with `tokenizer.vocab`, or with a vocabulary trained on the captions.

    Unless the config sets `strip_accents`, a given vocabulary strips accents, as BERT does, and a
    trained one keeps them.
    """
    settings = config.tokenizer
    if settings.vocab:
        return Tokenizer.from_vocab(settings.vocab, strip_accents=settings.strips_accents)
    texts = [config.data.prompt + text for ex in train_examples for text in ex.captions]
    return Tokenizer.train(
        texts, vocab_size=settings.vocab_size, strip_accents=bool(settings.strip_accents)
    )


def accents_line(captioner: Captioner, train_examples: Sequence[Example]) -> str:
    """A warning to show before training that accents are lost; "" if they are kept."""
    if not captioner.tokenizer.strip_accents:
        return ""
    texts = [text for example in train_examples for text in example.captions]
    count = sum(map(_has_accents, texts))
    line = "the vocabulary has no accents or vowel signs (tokenizer.strip_accents = true)"
    if count == 0:
        return f"{line}; the training captions have none either"
    return f"{line}: {count} of {len(texts)} training captions lose theirs (é becomes e)"


def _has_accents(text: str) -> bool:
    """Whether a letter of the text has a mark that BERT's normalisation removes."""
    return not text.isascii() and any(
        unicodedata.category(character) == "Mn" for character in unicodedata.normalize("NFD", text)
    )
