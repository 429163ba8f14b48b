"""Configs: what is read is what was written, and a mistake is refused in one helpful line."""

import dataclasses
from pathlib import Path

import pytest
import torch

from smile.config import (
    ALIASES,
    SETTINGS,
    TYPES,
    Config,
    config_to_toml,
    describe_config,
    load_config,
    num_weights,
)
from smile.errors import UserError
from smile.model.captioner import Captioner

CONFIGS = sorted((Path(__file__).parent.parent / "configs").glob("*.toml"))


def write(folder: Path, text: str) -> Path:
    path = folder / "run.toml"
    path.write_text(text, encoding="utf-8")
    return path


def refusal(path: Path, *overrides: str) -> str:
    """The one line with which a config is refused, without the folder."""
    with pytest.raises(UserError) as caught:
        load_config(path, overrides)
    message = str(caught.value)
    assert "\n" not in message
    return message.replace(f"{path.parent}/", "")


def test_values_come_from_the_file_and_the_rest_from_the_defaults(tmp_path):
    path = write(tmp_path, '[vit]\nimage_size = 64\n[train]\nlr = 1\n[data]\nroot = "photos"\n')
    expected = Config(
        vit=dataclasses.replace(Config().vit, image_size=64),
        train=dataclasses.replace(Config().train, lr=1.0),
        data=dataclasses.replace(Config().data, root="photos"),
    )
    config = load_config(path)
    assert config == expected
    assert type(config.train.lr) is float  # an int is fine where a float is meant


def test_overrides_win_in_their_order(tmp_path):
    path = write(tmp_path, "[train]\nepochs = 3\n")
    config = load_config(
        path,
        [
            "train.epochs=4",
            "train.epochs=7",
            "train.lr=2e-3",
            "train.betas=[0.8, 0.9]",
            "data.augment=false",
            "data.root=../some where",
            'data.annotations="quoted.json"',
            "data.prompt=a photo of ",
            "model.init=2024",
        ],
    )
    assert (config.train.epochs, config.train.lr, config.train.betas) == (7, 2e-3, (0.8, 0.9))
    assert config.data.augment is False
    assert config.data.root == "../some where"
    assert config.data.annotations == "quoted.json"
    assert config.data.prompt == "a photo of "
    assert config.model.init == "2024"


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_every_shipped_config_reads_back_equal(path, tmp_path):
    config = load_config(path)
    assert load_config(write(tmp_path, config_to_toml(config))) == config


def test_no_config_has_gone_missing():
    assert {path.stem for path in CONFIGS} >= {
        "shapes",
        "flickr8k",
        "flickr8k_scratch",
        "coco",
        "flickr30k",
    }


@pytest.mark.parametrize("freeze", [(), ("vit",)])
def test_a_list_of_names_survives_saving(tmp_path, freeze):
    config = Config(train=dataclasses.replace(Config().train, freeze=freeze))
    assert load_config(write(tmp_path, config_to_toml(config))) == config


def test_odd_text_and_numbers_survive_saving(tmp_path):
    text = 'a\\b"c"\n\t\x7f\x00 é 😀'
    changed = dataclasses.replace(Config().data, prompt=text)
    train = dataclasses.replace(Config().train, lr=1e16, betas=(0.0, 0.95), weight_decay=1.5e-300)
    config = Config(data=changed, train=train)
    assert load_config(write(tmp_path, config_to_toml(config))) == config


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[train]\nlrr = 1", "run.toml: there is no setting train.lrr; did you mean train.lr?"),
        ("[vit]\nlr = 1", "run.toml: there is no setting vit.lr; did you mean train.lr?"),
        ("[trian]\nlr = 1", "run.toml: there is no section [trian]; did you mean train?"),
        ("epochs = 3", "run.toml: there is no section [epochs]; did you mean train.epochs?"),
        ("train = 3", "run.toml: train = 3: expected a section [train] of settings"),
        ('[train]\nlr = "x"', 'run.toml: train.lr = "x": expected a number > 0'),
        ("[train]\nlr = nan", "run.toml: train.lr = nan: expected a number > 0"),
        (
            "[generate]\nlength_penalty = inf",
            "run.toml: generate.length_penalty = inf: expected a number from -20 to 20",
        ),
        (
            f"[decoder]\nvocab_size = {2**63}",
            f"run.toml: decoder.vocab_size = {2**63}: expected a whole number from 0 to 1000000",
        ),
        (
            "[tokenizer]\nvocab_size = 1",
            "run.toml: tokenizer.vocab_size = 1: expected a whole number from 7 to 1000000",
        ),
        (
            "[generate]\ntemperature = 1e-40",
            "run.toml: generate.temperature = 1e-40: expected a number from 0.001 to 1000",
        ),
        (
            "[vit]\nimage_size = 4096\npatch_size = 8",
            "run.toml: vit.image_size = 4096: expected at most 256 times vit.patch_size = 8",
        ),
        (
            "[decoder]\ndepth = 1000",
            "run.toml: [vit] and [decoder] have 9.5e9 weights: expected at most 4e9; "
            "lower dim, depth, mlp_dim or vocab_size",
        ),
        ("[train]\nlr = -1e-4", "run.toml: train.lr = -0.0001: expected a number > 0"),
        ("[train]\nepochs = 1.0", "run.toml: train.epochs = 1.0: expected a whole number >= 1"),
        ("[train]\nepochs = true", "run.toml: train.epochs = true: expected a whole number >= 1"),
        ("[train]\nlr = true", "run.toml: train.lr = true: expected a number > 0"),
        ("[data]\naugment = 1", "run.toml: data.augment = 1: expected true or false"),
        ("[data]\nroot = 1", "run.toml: data.root = 1: expected text in quotes"),
        ("[decoder]\ndropout = 1", "run.toml: decoder.dropout = 1: expected a number >= 0 and < 1"),
        (
            "[train]\nbetas = [0.9, true]",
            "run.toml: train.betas = [0.9, true]: expected a list of 2 numbers >= 0 and < 1",
        ),
        (
            "[train]\nbetas = [0.9]",
            "run.toml: train.betas = [0.9]: expected a list of 2 numbers >= 0 and < 1",
        ),
        (
            '[train]\nfreeze = ["vti"]',
            'run.toml: train.freeze = ["vti"]: expected a list, each of "vit"',
        ),
        (
            '[train]\nfreeze = "vit"',
            'run.toml: train.freeze = "vit": expected a list, each of "vit"; did you mean vit?',
        ),
        (
            '[loss]\nobjective = "simle"',
            'run.toml: loss.objective = "simle": expected one of '
            '"smile", "mle", "reverse", "random"; did you mean smile?',
        ),
        (
            "[vit]\nimage_size = 100",
            "run.toml: vit.image_size = 100: expected a multiple of vit.patch_size = 16",
        ),
        (
            "[vit]\nnum_heads = 5",
            "run.toml: vit.dim = 768: expected a multiple of vit.num_heads = 5",
        ),
        (
            "[decoder]\nfeatures_dim = 512",
            "run.toml: decoder.features_dim = 512: expected 0 or equal to vit.dim = 768",
        ),
        (
            "[decoder]\nmax_positions = 39",
            "run.toml: data.max_tokens = 40: expected at most decoder.max_positions = 39",
        ),
        (
            "[generate]\nmax_length = 513",
            "run.toml: generate.max_length = 513: expected at most decoder.max_positions = 512",
        ),
        (
            "[generate]\nmin_length = 31",
            "run.toml: generate.min_length = 31: expected at most generate.max_length = 30",
        ),
        (
            "[decoder]\nnum_heads = 5",
            "run.toml: decoder.dim = 768: expected a multiple of decoder.num_heads = 5",
        ),
        (
            "[train]\nmin_lr = 1",
            "run.toml: train.min_lr = 1.0: expected at most train.lr = 0.0001",
        ),
        (
            "[loss]\nmle_epochs = 6",
            "run.toml: loss.mle_epochs = 6: expected at most train.epochs = 5",
        ),
        (
            "[data]\nval_fraction = 0.5\ntest_fraction = 0.5",
            "run.toml: data.val_fraction = 0.5: "
            "expected a sum below 1 with data.test_fraction = 0.5",
        ),
        (
            '[data]\nformat = "folder"',
            'run.toml: data.root = "": expected a folder, since data.format = "folder"',
        ),
        (
            "[train]\nlr = 1e-4\nepochs = three",
            "run.toml: not valid TOML (text needs quotes): Invalid value (at line 3, column 10)",
        ),
    ],
)
def test_a_mistake_in_the_file_is_named(tmp_path, text, message):
    assert refusal(write(tmp_path, text)) == message


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("train.lrr=1", "--set: there is no setting train.lrr; did you mean train.lr?"),
        ("train.lr=fast", '--set: train.lr = "fast": expected a number > 0'),
        ("data.augment=True", '--set: data.augment = "True": expected true or false'),
        ("vit.patch_size=15", "--set: vit.image_size = 224: expected a multiple of"),
        ("lr=1", "--set lr=1: expected section.key=value, such as train.epochs=3; did you mean"),
        ("train.lr", "--set train.lr: expected section.key=value"),
    ],
)
def test_a_mistake_in_an_override_is_named(tmp_path, override, message):
    assert refusal(write(tmp_path, ""), override).startswith(message)


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        ("train.learning_rate", "train.lr"),
        ("train.num_epochs", "train.epochs"),
        ("train.batch", "train.batch_size"),
        ("generate.max_new_tokens", "generate.max_length"),
        ("vit.hidden_size", "vit.dim"),
        ("decoder.hidden_size", "decoder.dim"),
        ("model.pretrained", "model.init"),
        ("data.Image_Root", "data.root"),
    ],
)
def test_the_names_of_other_projects_lead_to_ours(tmp_path, name, meant):
    message = refusal(write(tmp_path, ""), f"{name}=1")
    assert message == f"--set: there is no setting {name}; did you mean {meant}?"


def test_each_alias_leads_to_a_setting_and_hides_none():
    keys = {name.partition(".")[2] for name in SETTINGS}
    assert keys >= set(ALIASES.values()) and not keys & ALIASES.keys()


def test_what_takes_memory_or_processes_has_an_upper_limit():
    """Absurd values are refused one by one; the largest of all together by their weights."""
    open_ended = {  # numbers that cost nothing by themselves, or that a relation bounds
        "data.max_tokens", "data.max_words", "loss.mle_epochs", "loss.lr", "loss.warmup_steps",
        "train.epochs", "train.val_every", "train.lr", "train.min_lr", "train.warmup_steps",
        "train.weight_decay", "train.grad_clip", "train.save_minutes",
        "train.caption_images", "train.checkpoint_blocks", "generate.max_length",
        "generate.min_length", "generate.no_repeat_ngram_size", "generate.top_k",
    }  # fmt: skip
    numbers = {name for name, kind in TYPES.items() if kind in (int, float)}
    bounded = {n for n in numbers if SETTINGS[n].metadata["limits"].keys() & {"<", "<="}}
    assert numbers - bounded == open_ended


def test_a_missing_file_lists_what_is_there(tmp_path):
    write(tmp_path, "")
    message = refusal(tmp_path / "rnu.toml")
    assert message == ("rnu.toml: no such config file; there are run.toml; did you mean run.toml?")


def test_a_file_that_is_not_text_is_refused(tmp_path):
    path = tmp_path / "run.toml"
    path.write_bytes(b"\xff\xfe\x00")
    assert "run.toml: not UTF-8 text" in refusal(path)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("[train]\nlr = " + "[" * 10_000, "nested too deep"),
        ("[train]\nlr = " + "9" * 5000, "4300 digits"),
        ("[train]\nlr = 0x" + "f" * 5000, "a number of too many digits: expected a number > 0"),
        ("[train]\nlr = [" + "1, " * 5000 + "]", "1, 1, …: expected a number > 0"),
        ("a." * 300 + "b = 1", "there is no section [a]"),
    ],
)
def test_what_no_config_holds_is_refused_in_a_short_line(tmp_path, text, reason):
    message = refusal(write(tmp_path, text))
    assert reason in message and len(message) < 300
    if text.startswith("[train]"):
        assert len(refusal(write(tmp_path, ""), text.removeprefix("[train]\n"))) > 20


def test_the_number_of_weights_is_estimated():
    """Of the captioner that is built, within a few percent."""
    for config in (Config(), load_config(CONFIGS[-1])):
        vocab_size = config.decoder.vocab_size or config.tokenizer.vocab_size
        decoder = dataclasses.replace(
            config.decoder, vocab_size=vocab_size, features_dim=config.vit.dim
        )
        with torch.device("meta"):
            captioner = Captioner(config=dataclasses.replace(config, decoder=decoder))
        count = sum(weight.numel() for weight in captioner.parameters())
        assert num_weights(config) == pytest.approx(count, rel=0.02)


def test_a_config_cannot_be_changed_after_reading():
    with pytest.raises(dataclasses.FrozenInstanceError):
        Config().train.lr = 1.0


def test_the_description_names_every_setting_and_fits_a_terminal():
    text = describe_config()
    lines = text.splitlines()
    for section in dataclasses.fields(Config):
        assert any(line.startswith(f"[{section.name}]") for line in lines)
        for key in dataclasses.fields(section.type):
            assert any(line.split()[:2] == [key.name, "="] for line in lines), key.name
    assert max(map(len, lines)) <= 100


def test_paths_may_begin_with_the_home_folder(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", "/home/me")
    path = tmp_path / "c.toml"
    path.write_text('[data]\nroot = "~/data"\nprompt = "~/ "\n')
    config = load_config(path, ["data.annotations=~/a.json", "tokenizer.vocab=~/vocab.txt"])
    assert (config.data.root, config.data.prompt) == ("/home/me/data", "~/ ")
    assert (config.data.annotations, config.tokenizer.vocab) == (
        "/home/me/a.json",
        "/home/me/vocab.txt",
    )


def test_what_is_unset_stays_unset(tmp_path):
    assert load_config(write(tmp_path, "")).tokenizer.strip_accents is None
    assert "strip_accents" not in config_to_toml(Config())
    config = load_config(write(tmp_path, ""), ["tokenizer.strip_accents=false"])
    assert config.tokenizer.strip_accents is False
    assert load_config(write(tmp_path, config_to_toml(config))) == config
    assert refusal(write(tmp_path, ""), "tokenizer.strip_accents=1") == (
        "--set: tokenizer.strip_accents = 1: expected true or false"
    )
    assert "strip_accents        = unset" in describe_config()


def test_some_settings_alone_can_be_written():
    text = config_to_toml(Config(), ["vit.dim", "data.prompt"])
    assert text == '[vit]\ndim = 768\n\n[data]\nprompt = "a picture of "\n'
