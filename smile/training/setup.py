"""The captioner a run starts with: from nothing, or from `model.init`."""

from collections.abc import Sequence
from dataclasses import replace

from smile.captioner import Captioner
from smile.config import Config
from smile.data import Example
from smile.errors import UserError
from smile.pretrained import load
from smile.tokenizer import Tokenizer
from smile.training.checks import check_memory


def recorded(config: Config) -> Config:
    """The config with what its captioner will have been trained on, whatever it began with."""
    trained_on = "shapes" if config.data.format == "shapes" else "photos"
    return replace(config, model=replace(config.model, trained_on=trained_on))


def make_captioner(config: Config, train_examples: Sequence[Example]) -> Captioner:
    """The captioner to train, whose config is the run's with its own sizes filled in.

    Raises:
        UserError: weights or vocabulary are missing, or do not fit the config.
    """
    if config.model.init:
        captioner = load(
            config.model.init,
            image_size=config.vit.image_size,
            vocab=config.tokenizer.vocab or None,
            drop_path=config.vit.drop_path,
            dropout=config.decoder.dropout,
        )
        sizes = captioner.config
        captioner.config = replace(config, vit=sizes.vit, decoder=sizes.decoder)
        return captioner
    if config.tokenizer.vocab:
        tokenizer = Tokenizer.from_vocab(config.tokenizer.vocab)
    else:
        texts = [config.data.prompt + text for ex in train_examples for text in ex.captions]
        tokenizer = Tokenizer.train(texts, vocab_size=config.tokenizer.vocab_size)
    if config.decoder.vocab_size not in (0, tokenizer.vocab_size):
        raise UserError(
            f"decoder.vocab_size = {config.decoder.vocab_size}, but the tokenizer has "
            f"{tokenizer.vocab_size} entries; set it to 0 to follow the tokenizer"
        )
    decoder = replace(config.decoder, vocab_size=tokenizer.vocab_size, features_dim=config.vit.dim)
    config = replace(config, decoder=decoder)
    check_memory(config)
    return Captioner(config=config, tokenizer=tokenizer).init_weights()
