"""Folders that transformers and others write: read as they mean it, or refused in one line."""

import json
import os
import resource
import shutil
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from helpers import as_transformers_5, make_run
from PIL import Image
from safetensors.torch import load_file, save_file

import smile
from smile.errors import UserError
from smile.weights import __main__ as weights_command
from smile.weights.export import export_blip, export_transformers
from smile.weights.run_folder import load_run

PICTURES = [Image.effect_noise((40, 30), 90).convert("RGB").rotate(angle) for angle in (0, 90)]


@pytest.fixture(scope="module")
def sound(tmp_path_factory):
    return make_run(tmp_path_factory.mktemp("work") / "run")


@pytest.fixture(scope="module")
def captioner(sound):
    return load_run(sound)


@pytest.fixture
def run(sound, tmp_path):
    """A run folder to change."""
    return Path(shutil.copytree(sound, tmp_path / "run"))


@pytest.fixture(scope="module")
def exported(captioner, tmp_path_factory):
    folder = tmp_path_factory.mktemp("work") / "hf"
    export_transformers(captioner, folder)
    return folder


@pytest.fixture
def folder(exported, tmp_path):
    """What `export` writes of the captioner."""
    return Path(shutil.copytree(exported, tmp_path / "hf"))


def change(path: Path, change) -> None:
    """Changes the object of a JSON file in place."""
    content = json.loads(path.read_text()) if path.exists() else {}
    change(content)
    path.write_text(json.dumps(content))


def refusal(source: Path, **options) -> str:
    """The line that a folder is refused with, without the folder's own path."""
    with pytest.raises(UserError) as caught:
        smile.load(source, **options)
    assert "\n" not in str(caught.value)
    return str(caught.value).replace(f"{source}{os.sep}", "").replace(str(source), "FOLDER")


def resize(folder: Path, size: int, **weights) -> None:
    """Gives the embedding `size` rows, the new ones so that each would be said at once."""
    found = load_file(folder / "model.safetensors")
    for name, value in (
        ("text_decoder.bert.embeddings.word_embeddings.weight", 0.1),
        ("text_decoder.cls.predictions.bias", 50.0),
    ):
        old = found[name]
        new = torch.full((size, *old.shape[1:]), value)
        new[: len(old)] = old[:size]
        found[name] = new
    save_file(found, folder / "model.safetensors", metadata={"format": "pt"})
    change(folder / "config.json", lambda c: c["text_config"].update(vocab_size=size))


# --- what transformers 5 writes ----------------------------------------------------------------


@pytest.mark.slow
def test_what_transformers_5_saves_captions_the_same(captioner, folder, tmp_path):
    """Loaded there and saved again, as after fine-tuning: `tokenizer.json`, a nested processor."""
    transformers = pytest.importorskip("transformers")
    again = tmp_path / "again"
    transformers.BlipForConditionalGeneration.from_pretrained(folder).save_pretrained(again)
    transformers.BlipProcessor.from_pretrained(folder).save_pretrained(again)
    assert not (again / "vocab.txt").exists() and not (again / "preprocessor_config.json").exists()
    loaded = smile.load(again)
    assert loaded.tokenizer.vocab == captioner.tokenizer.vocab
    assert loaded.config.generate == captioner.config.generate
    assert loaded.caption(PICTURES) == captioner.caption(PICTURES)


def test_tokens_added_to_a_vocabulary_are_words_like_any_other(captioner, folder):
    """`add_tokens`, `resize_token_embeddings`: the new word stands in tokenizer.json alone."""
    transformers = pytest.importorskip("transformers")
    tokenizer = transformers.BertTokenizer(str(folder / "vocab.txt"))
    tokenizer.add_tokens(["sks"])
    size = captioner.tokenizer.vocab_size
    resize(folder, size + 1)
    message = refusal(folder)
    assert message == (
        f"vocab.txt: {size} entries with [DEC] and [ENC], but the weights in FOLDER have "
        f"{size + 1}; name the right one with vocab=… (--vocab)"
    )
    tokenizer.save_pretrained(folder)  # beside vocab.txt, as transformers 4 did
    loaded = smile.load(folder)
    assert loaded.tokenizer.vocab == [*captioner.tokenizer.vocab, "sks"]
    assert loaded.caption(PICTURES[0], max_length=8, min_length=8).endswith("sks sks")
    assert loaded.tokenizer.encode("a sks dog")[2] == size


def test_tokens_beside_a_vocab_txt_are_read_with_it(captioner, folder):
    """As slow tokenizers of transformers 4 left them: what was added, by its row."""
    plain, size = captioner.tokenizer.vocab[:-2], captioner.tokenizer.vocab_size
    (folder / "vocab.txt").write_text("".join(f"{piece}\n" for piece in plain))
    path = folder / "added_tokens.json"
    begin, sks, end = size - 2, size - 1, size
    path.write_text(json.dumps({"[ENC]": end, "[DEC]": begin, "sks": sks}))
    resize(folder, size + 1)
    change(folder / "config.json", lambda c: c["text_config"].update(bos_token_id=begin))
    assert smile.load(folder).tokenizer.vocab == [*plain, "[DEC]", "sks", "[ENC]"]
    for value, found in ((5, "found 5, expected a row of its own"), ("x", 'found "x", expected')):
        path.write_text(json.dumps({"sks": value}))
        assert refusal(folder).startswith(f'added_tokens.json: "sks": {found}')
    path.write_text("[]")
    assert refusal(folder) == "added_tokens.json: found [], expected an object {…}"


@pytest.mark.parametrize(("multiple", "form"), [(8, "4"), (64, "4"), (64, "5"), (512, "5")])
def test_rows_without_a_token_are_never_said(captioner, folder, multiple, form):
    """A padded embedding, whose padding the model would say rather than anything else."""
    if form == "5":
        as_transformers_5(folder)
    size = captioner.tokenizer.vocab_size
    resize(folder, multiple * -(-(size + 1) // multiple))
    loaded = smile.load(folder)
    assert loaded.tokenizer.vocab == captioner.tokenizer.vocab
    for search in ({}, {"num_beams": 1}, {"do_sample": True})[: 3 if multiple == 64 else 1]:
        assert loaded.caption(PICTURES, **search) == captioner.caption(PICTURES, **search)


def test_rows_between_others_may_be_without_a_token(captioner, folder):
    as_transformers_5(folder)
    resize(folder, 32)
    words = captioner.tokenizer.vocab

    def leave_a_gap(content):
        content["model"]["vocab"].pop(words[7])  # row 7 has no name any more

    change(folder / "tokenizer.json", leave_a_gap)
    loaded = smile.load(folder)
    assert loaded.tokenizer.vocab == words[:7] + words[8:]
    rows = captioner.decoder.word_embed.weight
    assert torch.equal(loaded.decoder.word_embed.weight, torch.cat([rows[:7], rows[8:]]))


def test_special_tokens_beyond_the_rows_do_no_harm(captioner, folder):
    """transformers 5 adds [MASK] to the end where a vocabulary lacks it, but no row for it."""
    as_transformers_5(folder)

    def add(content, special=True):
        token = {"id": captioner.tokenizer.vocab_size, "content": "[X]", "special": special}
        content["added_tokens"] = [token]

    change(folder / "tokenizer.json", add)
    assert smile.load(folder).tokenizer.vocab == captioner.tokenizer.vocab
    change(folder / "tokenizer.json", lambda content: add(content, special=False))
    assert "21 entries with [DEC] and [ENC], but the weights in FOLDER have 20" in refusal(folder)


@pytest.mark.parametrize("piece", ["[CLS]", "dog"])
def test_captions_may_begin_with_another_token(captioner, folder, piece, tmp_path):
    row = captioner.tokenizer.ids[piece]
    change(folder / "config.json", lambda c: c["text_config"].update(bos_token_id=row))
    loaded = smile.load(folder)
    assert loaded.tokenizer.bos_id == row and loaded.tokenizer.prompt_ids("")[0] == row
    assert loaded.tokenizer.vocab[captioner.tokenizer.bos_id] == piece
    export_transformers(loaded, tmp_path / "again")
    export_blip(loaded, tmp_path / "blip")
    for again in (tmp_path / "again", tmp_path / "blip" / "checkpoint.pth"):
        assert smile.load(again).tokenizer.vocab == loaded.tokenizer.vocab


def test_a_vocabulary_without_blip_s_tokens(captioner, folder):
    """As on the hub: the weights have two rows more than BERT's vocabulary has lines."""
    words = captioner.tokenizer.vocab[:-2]
    (folder / "vocab.txt").write_text("".join(word + "\n" for word in words))
    assert smile.load(folder).tokenizer.vocab == captioner.tokenizer.vocab
    (folder / "vocab.txt").write_text("".join(word + "\n" for word in words[:-2]))
    assert "18 entries with [DEC] and [ENC], but the weights in FOLDER have 20" in refusal(folder)


@pytest.mark.parametrize("row", [2, 6, 18, 19])
def test_the_first_token_decides_where_nothing_names_blip_s(captioner, folder, row):
    """BERT's vocabulary as it is, and captions that begin with any of the rows."""
    words = captioner.tokenizer.vocab[:-2]
    (folder / "vocab.txt").write_text("".join(word + "\n" for word in words))
    change(folder / "config.json", lambda c: c["text_config"].update(bos_token_id=row))
    loaded = smile.load(folder).tokenizer
    assert loaded.bos_id == row and sorted(loaded.vocab) == sorted(captioner.tokenizer.vocab)


def test_a_vocabulary_of_as_many_rows_needs_no_tokens_of_blip_s(captioner, folder):
    """As people train from another BERT: captions begin with its [CLS]."""
    words = [*captioner.tokenizer.vocab[:-2], "cow", "sheep"]
    (folder / "vocab.txt").write_text("".join(word + "\n" for word in words))
    change(folder / "config.json", lambda c: c["text_config"].update(bos_token_id=2))
    assert smile.load(folder).tokenizer.vocab == [*words[:2], "[DEC]", *words[3:]]
    export_blip(captioner, folder / "blip")  # where nothing says what captions begin with
    (folder / "blip" / "vocab.txt").write_bytes((folder / "vocab.txt").read_bytes())
    with pytest.raises(UserError, match=r"22 entries with \[DEC\] and \[ENC\], .* have 20"):
        smile.load(folder / "blip" / "checkpoint.pth")


# --- what differs is obeyed or refused ---------------------------------------------------------


@pytest.mark.parametrize(
    ("key", "value", "expected"),
    [
        ("do_normalize", False, "do_normalize is false, expected true"),
        ("do_rescale", False, "do_rescale is false, expected true"),
        ("do_resize", 1, "do_resize is 1, expected true"),
        ("do_center_crop", True, "do_center_crop is true, expected false"),
        ("resample", 2, "resample is 2, expected 3"),
        ("rescale_factor", 1 / 127.5, "rescale_factor is 0.00784"),
        ("image_mean", [0.5] * 3, "image_mean is [0.5, 0.5, 0.5], expected CLIP's [0.48145466"),
        ("image_std", [0.5] * 3, "image_std is [0.5, 0.5, 0.5], expected CLIP's"),
        ("image_mean", 5, "image_mean: found 5, expected a list"),
        ("image_mean", [0.5, "x", 10**400], 'image_mean is [0.5, "x", 1000'),
        ("size", {"shortest_edge": 16}, 'size is {"shortest_edge": 16}, expected height and'),
        ("size", {"height": 16, "width": 24}, 'size is {"height": 16, "width": 24}, expected'),
        ("size", "16", 'size = "16": expected a whole number from 1 to 4096'),
    ],
)
@pytest.mark.parametrize("form", ["4", "5"])
def test_other_processing_is_refused(folder, form, key, value, expected):
    name, where = "preprocessor_config.json", ""
    if form == "5":
        as_transformers_5(folder)
        name, where = "processor_config.json", "image_processor."
    change(folder / name, lambda c: c.get("image_processor", c).update({key: value}))
    assert refusal(folder).startswith(f"{name}: {where}{expected}")


def test_pictures_are_resized_as_the_processor_says(folder):
    for size in (32, {"height": 32, "width": 32}):
        change(folder / "preprocessor_config.json", lambda c, size=size: c.update(size=size))
        assert smile.load(folder).config.vit.image_size == 32
    assert smile.load(folder, image_size=24).config.vit.image_size == 24
    change(folder / "preprocessor_config.json", lambda c: c.update(size=30))
    assert refusal(folder) == (
        "FOLDER: vit.image_size = 30: expected a multiple of vit.patch_size = 8"
    )
    assert smile.load(folder, image_size=24).config.vit.image_size == 24


def test_the_nested_processor_counts(folder):
    """As in transformers: what stands beside it is of an older time."""
    change(folder / "preprocessor_config.json", lambda c: c.update(do_normalize=False))
    change(folder / "processor_config.json", lambda c: c.update(image_processor={"size": 16}))
    smile.load(folder)
    change(folder / "processor_config.json", lambda c: c.update(image_processor=None))
    assert "do_normalize is false" in refusal(folder)


def test_the_search_of_a_folder_is_taken_where_it_says_one(folder):
    path = folder / "generation_config.json"
    path.write_text('{"max_length": 9, "num_beams": 1, "top_k": 3, "temperature": 0.5}')
    search = smile.load(folder).config.generate
    assert (search.max_length, search.min_length, search.num_beams) == (9, 9, 1)
    assert not search.samples  # these settings count only with do_sample, as in transformers
    path.write_text('{"num_return_sequences": 3, "num_beams": 2}')
    assert refusal(folder).startswith("FOLDER: generate.num_return is 3, but num_beams only 2")
    path.write_text('{"do_sample": true, "top_p": 0.5, "length_penalty": null}')
    search = smile.load(folder).config.generate
    assert search.samples and (search.top_p, search.top_k) == (0.5, 50)
    path.unlink()
    assert (search.max_length, search.num_beams) == (30, 3)


def test_accents_are_treated_as_the_tokenizer_says(folder):
    def strips(form):
        return smile.load(form).tokenizer.strip_accents

    change(folder / "tokenizer_config.json", lambda c: c.update(strip_accents=False))
    assert not strips(folder)
    change(folder / "tokenizer_config.json", lambda c: c.update(strip_accents=None))
    assert strips(folder)
    as_transformers_5(folder)
    change(folder / "tokenizer.json", lambda c: c["normalizer"].update(strip_accents=False))
    assert not strips(folder)
    change(folder / "tokenizer_config.json", lambda c: c.update(strip_accents=True))
    assert strips(folder)


@pytest.mark.parametrize(
    ("name", "update", "expected"),
    [
        ("config.json", {"text_config": {"sep_token_id": 5}},
         'FOLDER: text_config.sep_token_id is 5, which vocab.txt calls "a", expected [SEP]'),
        ("config.json", {"text_config": {"bos_token_id": 30522}},
         "FOLDER: text_config.bos_token_id is 30522, expected one of the 20 rows"),
        ("config.json", {"model_type": "blip-2"},
         'config.json is of a "blip-2" model, expected "blip"'),
        ("config.json", {"text_config": {"num_attention_heads": 5}},
         "FOLDER: decoder.dim = 16: expected a multiple of decoder.num_heads = 5"),
        ("tokenizer_config.json", {"do_lower_case": False},
         "tokenizer_config.json: do_lower_case is false, expected true"),
    ],
)  # fmt: skip
def test_what_is_not_known_here_is_refused(folder, name, update, expected):
    def merge(content):
        for key, value in update.items():
            content[key] = content[key] | value if isinstance(value, dict) else value

    change(folder / name, merge)
    assert refusal(folder).startswith(expected)


def test_another_kind_of_tokenizer_is_refused(folder):
    as_transformers_5(folder)
    for part, key, value in (
        ("model", "type", "BPE"),
        ("normalizer", "type", "Sequence"),
        ("normalizer", "lowercase", False),
        ("pre_tokenizer", "type", "ByteLevel"),
    ):
        kept = (folder / "tokenizer.json").read_text()
        change(folder / "tokenizer.json", lambda c, p=part, k=key, v=value: c[p].update({k: v}))
        assert refusal(folder).startswith(f"tokenizer.json: {part}.{key} is {json.dumps(value)}")
        (folder / "tokenizer.json").write_text(kept)


def test_processors_of_transformers_make_the_pixels_we_make(captioner, folder, tmp_path):
    """What is accepted is the same: both forms of the library's own processor."""
    transformers = pytest.importorskip("transformers")
    processor = transformers.BlipImageProcessor(size={"height": 16, "width": 16})
    processor.save_pretrained(tmp_path / "processor")
    (folder / "preprocessor_config.json").write_bytes(
        (tmp_path / "processor" / "preprocessor_config.json").read_bytes()
    )
    pixels = processor(PICTURES[0], return_tensors="pt").pixel_values[0]
    assert torch.allclose(smile.load(folder).transform(PICTURES[0]), pixels, atol=2e-2)


# --- paths -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "part", ["../hf/model.safetensors", "/etc/passwd", "..", "a/b", "a\x00", "a" * 300, "", 5, None]
)
def test_an_index_names_files_of_its_own_folder(folder, part):
    (folder / "model.safetensors").rename(folder / "part.safetensors")
    index = folder / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": {"x": "part.safetensors"}}))
    smile.load(folder)
    index.write_text(json.dumps({"weight_map": {"x": part}}))
    assert refusal(folder).startswith('model.safetensors.index.json: weight_map: "x": found')


@pytest.mark.parametrize(
    "source", ["a" * 5000, "~nobody-of-that-name/x", "a\x00b", "x" * 5000 + "/y"]
)
def test_a_name_that_no_file_can_have_is_refused_like_any_other(source, monkeypatch):
    monkeypatch.setenv("SMILE_OFFLINE", "1")
    with pytest.raises(UserError):
        smile.load(source)


def test_an_incomplete_run_folder_is_called_one(run):
    (run / "vocab.txt").unlink()
    assert refusal(run) == "FOLDER is not a run folder: it lacks vocab.txt"


def test_an_unfinished_run_is_called_one(tmp_path):
    (tmp_path / "checkpoints").mkdir()
    assert refusal(tmp_path).startswith("FOLDER: an interrupted run without a captioner yet: ")
    assert "--resume" in refusal(tmp_path)
    (tmp_path / "config.toml").write_text("")
    assert "an interrupted run" in refusal(tmp_path)


@pytest.mark.parametrize(
    "name", ["config.json", "generation_config.json", "preprocessor_config.json",
             "processor_config.json", "tokenizer_config.json", "vocab.txt", "tokenizer.json",
             "model.safetensors", "model.safetensors.index.json"],
)  # fmt: skip
def test_a_folder_or_a_pipe_in_a_file_s_place(folder, name):
    if "tokenizer.json" in name:
        (folder / "vocab.txt").unlink()
    if "index" in name:
        (folder / "model.safetensors").unlink()
    (folder / name).unlink(missing_ok=True)
    (folder / name).mkdir()
    assert name in refusal(folder)
    (folder / name).rmdir()
    os.mkfifo(folder / name)
    assert name in refusal(folder)


# --- run folders whose files do not fit each other ---------------------------------------------


@pytest.mark.parametrize(
    ("setting", "expected"),
    [
        ("vit.depth=1000", "it has 1 layers of vit, the config says 1000"),
        ("decoder.depth=900", "it has 1 layers of decoder, the config says 900"),
        ("vit.mlp_dim=64", r"vit.blocks.0.mlp.fc1.bias is (32,), expected (64,)"),
        ("decoder.features_dim=0", "decoder.features_dim 0 is not vit.dim 16"),
        ("decoder.vocab_size=21", "20 entries, but config.toml says decoder.vocab_size = 21"),
        ("decoder.vocab_size=19", "20 pieces, expected at most 19"),
        ("vit.image_size=24000", "vit.image_size = 24000: expected a whole number from 1 to 4096"),
        ("vit.image_size=4096", "vit.image_size = 4096: expected at most 256 times vit.patch_size"),
    ],
)
def test_a_run_whose_config_asks_for_what_its_weights_are_not(run, setting, expected):
    name, _, value = setting.partition("=")
    section, key = name.split(".")
    lines, inside = [], False
    for line in (run / "config.toml").read_text().splitlines():
        inside = line == f"[{section}]" if line.startswith("[") else inside
        lines.append(f"{key} = {value}" if inside and line.startswith(f"{key} =") else line)
    (run / "config.toml").write_text("\n".join(lines))
    assert expected in refusal(run)


# --- round trips -------------------------------------------------------------------------------

CONFIGS = {
    "lengths": {"generate": {"max_length": 7, "min_length": 7, "num_beams": 1}},
    "penalties": {"generate": {"length_penalty": 2.0, "repetition_penalty": 1.7, "max_length": 13}},
    "n-grams": {"generate": {"no_repeat_ngram_size": 2, "early_stopping": True, "num_beams": 4}},
    "forbidden words": {"generate": {"forbid": ("Dog", "picture of")}},
    "sampling": {"generate": {"top_p": 0.8, "num_return": 2}},
    "top k": {"generate": {"top_k": 4, "temperature": 1.5, "num_beams": 1}},
    "plain sampling": {"generate": {"do_sample": True}},
    "prompt": {"data": {"prompt": "the red "}, "generate": {"max_length": 9}},
    "no prompt": {"data": {"prompt": ""}},
    "heads": {"vit": {"num_heads": 4, "norm_eps": 1e-3}, "decoder": {"num_heads": 8}},
    "epsilon": {"decoder": {"norm_eps": 1e-2, "dropout": 0.25}},
    "drawn": {"model": {"trained_on": "shapes"}},
    "accents": {"tokenizer": {"strip_accents": False}},
}


@pytest.mark.parametrize("format", [export_transformers, export_blip])
@pytest.mark.parametrize("changes", CONFIGS.values(), ids=CONFIGS)
def test_an_exported_captioner_is_the_same(captioner, changes, format, tmp_path):
    config = captioner.config
    config = replace(
        config,
        **{name: replace(getattr(config, name), **keys) for name, keys in changes.items()},
    )
    tokenizer = smile.model.tokenizer.Tokenizer(
        captioner.tokenizer.vocab, strip_accents=config.tokenizer.strips_accents
    )
    original = smile.Captioner(config=config, tokenizer=tokenizer).eval()
    original.load_state_dict(captioner.state_dict())
    format(original, tmp_path / "out")
    back = smile.load(tmp_path / "out" / ("checkpoint.pth" if format is export_blip else ""))
    assert back.caption(PICTURES) == original.caption(PICTURES)
    assert back.tokenizer.strip_accents == tokenizer.strip_accents
    assert back.config.data.prompt == config.data.prompt
    assert back.config.model.trained_on == config.model.trained_on
    assert back.config.decoder == config.decoder
    assert replace(back.config.generate, do_sample=config.generate.do_sample) == config.generate
    assert back.config.generate.samples == config.generate.samples


@pytest.mark.parametrize("command", ["convert", "export", "export --format blip"])
@pytest.mark.parametrize("place", ["full", "a file"])
def test_a_folder_that_cannot_be_written_is_one_line(
    run, tmp_path, monkeypatch, capsys, command, place
):
    """The disk is full, as a bound on the size of files stands for; or a file is in the way."""
    (tmp_path / "taken").touch()
    out = tmp_path / "new" if place == "full" else tmp_path / "taken" / "new"
    name, *options = command.split()
    monkeypatch.setattr(sys, "argv", ["x", name, str(run), str(out), *options])
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    if place == "full":
        resource.setrlimit(resource.RLIMIT_FSIZE, (8000, before[1]))
    try:
        with pytest.raises(SystemExit) as ended:
            weights_command.main()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    err = capsys.readouterr().err
    assert ended.value.code == 2 and err.count("\n") == 1 and "Traceback" not in err
    assert err.startswith(f"smile.weights: {tmp_path}")
    assert not list(tmp_path.rglob(".unfinished-*")) and not list(out.glob("*.pth"))
    assert not list(out.glob("*.safetensors"))
