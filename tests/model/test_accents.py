"""What `tokenizer.strip_accents` means for new trainings, for older runs, and between them."""

from dataclasses import replace
from pathlib import Path

import pytest

import smile
from smile.config import Config, load_config
from smile.model.images import Photo
from smile.model.tokenizer import Tokenizer
from smile.training.checkpointing.state import captioner_of
from smile.training.setup import accents_line, make_captioner
from smile.weights.run_folder import load_run, save_run

TEXTS = ("una niña sube", "a dog runs")
EXAMPLES = [Photo("a.jpg", TEXTS)]
SIZES = {
    "vit": {"image_size": 32, "dim": 16, "depth": 1, "num_heads": 2, "mlp_dim": 32},
    "decoder": {"vocab_size": 0, "dim": 16, "features_dim": 0, "depth": 1, "num_heads": 2,
                "mlp_dim": 32, "max_positions": 40},
}  # fmt: skip


def config(**tokenizer) -> Config:
    base = Config()
    sizes = {name: replace(getattr(base, name), **keys) for name, keys in SIZES.items()}
    return replace(base, **sizes, tokenizer=replace(base.tokenizer, **tokenizer))


def kept(captioner) -> bool:
    return captioner.tokenizer.strip_accents is False


def as_older(run: Path) -> Path:
    """The run as it would be had it been trained before there was the setting."""
    text = (run / "config.toml").read_text()
    lines = [line for line in text.splitlines() if not line.startswith("strip_accents")]
    assert len(lines) == len(text.splitlines()) - 1
    (run / "config.toml").write_text("\n".join(lines))
    return run


@pytest.fixture
def vocab(tmp_path):
    Tokenizer.train(TEXTS, vocab_size=100, strip_accents=True).save(tmp_path / "vocab.txt")
    return str(tmp_path / "vocab.txt")


def test_only_vocabularies_trained_here_keep_accents(vocab):
    assert kept(make_captioner(config(), EXAMPLES))
    assert not kept(make_captioner(config(vocab=vocab), EXAMPLES))
    assert not kept(make_captioner(config(strip_accents=True), EXAMPLES))
    assert kept(make_captioner(config(vocab=vocab, strip_accents=False), EXAMPLES))


def test_a_run_says_what_it_does_and_an_older_one_strips(tmp_path):
    save_run(tmp_path, make_captioner(config(), EXAMPLES))
    assert "strip_accents = false" in (tmp_path / "config.toml").read_text()
    tokenizer = load_run(tmp_path).tokenizer
    assert tokenizer.decode(tokenizer.encode(TEXTS[0])) == TEXTS[0]
    older = load_run(as_older(tmp_path))
    assert not kept(older) and not kept(smile.load(tmp_path))
    save_run(tmp_path / "again", older)
    assert "strip_accents = true" in (tmp_path / "again" / "config.toml").read_text()


def test_training_goes_on_with_the_start_s_own(tmp_path):
    save_run(tmp_path, make_captioner(config(), EXAMPLES))

    def start(**tokenizer):
        init = replace(config(**tokenizer), model=replace(Config().model, init=str(tmp_path)))
        return make_captioner(init, EXAMPLES)

    assert kept(start()) and not kept(start(strip_accents=True))
    as_older(tmp_path)
    assert not kept(start()) and kept(start(strip_accents=False))


def test_checkpoints_remember_and_older_ones_strip():
    begun = make_captioner(config(), EXAMPLES)
    state = {
        "model": begun.state_dict(),
        "vit": vars(begun.config.vit),
        "decoder": vars(begun.config.decoder),
        "vocab": begun.tokenizer.vocab,
        "strip_accents": False,
    }
    assert kept(captioner_of(dict(state, model=begun.state_dict()), config(), source="x"))
    del state["strip_accents"]
    assert not kept(captioner_of(state, config(), source="x"))


def test_it_is_said_how_many_captions_lose_something(vocab):
    assert accents_line(make_captioner(config(), EXAMPLES), EXAMPLES) == ""
    line = accents_line(make_captioner(config(vocab=vocab), EXAMPLES), EXAMPLES)
    assert "tokenizer.strip_accents = true" in line and "1 of 2 training captions" in line


def test_the_shipped_configs_leave_it_to_the_vocabulary():
    for path in (Path(__file__).parents[2] / "configs").glob("*.toml"):
        assert load_config(path).tokenizer.strip_accents is None
