"""Weights in and out: equal to transformers, every key accounted for, nothing lost on the way."""

import copy
import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from golden_fixtures import GOLDEN, load_golden
from helpers import ROOT, make_transformers, write_vocab
from huggingface_hub import constants
from PIL import Image
from safetensors.torch import load_file, save_file
from torch.testing import assert_close

import smile
from smile.config import Config, DecoderConfig, ViTConfig
from smile.errors import UserError
from smile.loss import IGNORE, mle_loss
from smile.model.captioner import Captioner
from smile.model.tokenizer import Tokenizer
from smile.weights import __main__ as weights_command
from smile.weights import load as loading
from smile.weights import needed, repository
from smile.weights.export import export_blip, export_transformers
from smile.weights.hub import NotInRepository
from smile.weights.known import STORAGE
from smile.weights.names import BLIP, TIED, TRANSFORMERS, account, from_ours, to_ours
from smile.weights.pins import PINS
from smile.weights.positions import interpolate_positions
from smile.weights.run_folder import build, save_run

KEYS = json.loads((GOLDEN / "checkpoint_keys.json").read_text())


def captions_batch(vocab: int, *, padded: bool) -> tuple[torch.Tensor, torch.Tensor]:
    """(3, 9) ids and their attention mask, the rows of different length if `padded`."""
    ids = torch.randint(4, vocab - 2, (3, 9), generator=torch.Generator().manual_seed(1))
    ids[:, 0] = vocab - 2
    for row, length in enumerate((9, 6, 3) if padded else (9, 9, 9)):
        ids[row, length - 1] = 3
        ids[row, length:] = 0
    return ids, (ids != 0).long()


CONFIGURATIONS = {
    "base-like": {"vit": (48, 3, 3), "text": (48, 3, 3)},
    "large-like": {"vit": (64, 4, 4), "text": (48, 2, 3)},
    "other heads": {"vit": (48, 1, 6), "text": (32, 1, 8)},
    "larger images": {"image": 64, "load_at": 64},
    "image size of the checkpoint changed": {"image": 32, "load_at": 64},
    "image size reduced": {"image": 64, "load_at": 32},
    "padded batch": {"padded": True},
    "prompt": {"prompt": 4, "padded": True},
    "BLIP's own epsilon": {"eps": 1e-6},
}


@pytest.mark.slow
@pytest.mark.parametrize("name", CONFIGURATIONS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_equal_to_transformers(name, dtype, tmp_path):
    """Logits, loss and every gradient, by the library's own names."""
    sizes = dict(CONFIGURATIONS[name])
    load_at, padded = sizes.pop("load_at", None), sizes.pop("padded", False)
    prompt = sizes.pop("prompt", 1)
    theirs = make_transformers(tmp_path, **sizes).to(dtype)
    ours = smile.load(tmp_path, image_size=load_at).to(dtype)
    size = ours.config.vit.image_size
    images = torch.randn(3, 3, size, size, generator=torch.Generator().manual_seed(2)).to(dtype)
    vocab = ours.config.decoder.vocab_size
    ids, attention = captions_batch(vocab, padded=padded)
    labels = ids.masked_fill(ids == 0, IGNORE)
    labels[:, :prompt] = IGNORE

    out = theirs(
        pixel_values=images,
        input_ids=ids,
        attention_mask=attention,
        labels=labels,
        interpolate_pos_encoding=load_at is not None,
    )
    logits = ours(images, ids)
    if dtype == torch.float64:
        close = {"rtol": 0, "atol": 1e-9}
    else:
        close = {"rtol": 1e-4, "atol": 1e-5}
    real = attention.bool()
    assert_close(logits[real], out.logits[real], **close)
    loss = torch.nn.functional.cross_entropy(
        logits[:, :-1].flatten(0, 1), labels[:, 1:].flatten(), ignore_index=IGNORE
    )
    assert_close(loss, out.loss, **close)
    assert mle_loss(logits[:, :-1], labels[:, 1:]).item() == pytest.approx(loss.item(), rel=1e-6)

    out.loss.backward()
    loss.backward()
    if load_at not in (None, sizes.get("image")):
        # Ours are the positions at the new size, theirs those of the checkpoint.
        ours.vit.positions.grad = None
    gradients = {k: p.grad for k, p in ours.named_parameters() if p.grad is not None}
    expected = {k: p.grad for k, p in theirs.named_parameters() if k not in TIED}
    if ours.vit.positions.grad is None:
        gradients["vit.positions"] = expected["vision_model.embeddings.position_embedding"]
    renamed = from_ours(gradients, TRANSFORMERS)
    assert expected.keys() == renamed.keys() - TIED.keys()
    for key, gradient in expected.items():
        assert_close(renamed[key], gradient, **close, msg=lambda m, k=key: f"{k}: {m}")


def test_golden_float64_equals_transformers(tmp_path):
    """The golden checkpoint, both cast up: what float32 leaves open is settled here."""
    golden = load_golden("a")
    config = golden.expected["config"]
    theirs = make_transformers(
        tmp_path,
        image=config["image_size"],
        vit=(config["vision_width"], config["vision_depth"], config["vision_heads"]),
        text=(config["text_width"], config["text_layers"], config["text_heads"]),
        vocab=config["vocab_size"],
        eps=config["vision_layer_norm_eps"],
    )
    theirs.text_decoder.bert.encoder.layer[0].intermediate.dense.out_features = config["text_ffn"]
    ours = golden.captioner.double()
    weights = from_ours(ours.state_dict(), TRANSFORMERS)
    for layer in theirs.text_decoder.bert.encoder.layer:  # the fixture's FFN is not 4 x its width
        layer.intermediate.dense = torch.nn.Linear(config["text_width"], config["text_ffn"])
        layer.output.dense = torch.nn.Linear(config["text_ffn"], config["text_width"])
    theirs = theirs.double()
    theirs.load_state_dict(weights, strict=False)
    image, ids = golden.expected["image"].double(), golden.expected["ids"]
    mask = golden.expected["attention_mask"]
    logits = theirs(pixel_values=image, input_ids=ids, attention_mask=mask).logits
    assert_close(ours(image, ids)[mask.bool()], logits[mask.bool()], rtol=0, atol=1e-9)


@pytest.mark.slow
@pytest.mark.parametrize("name", KEYS)
def test_every_key_of_the_real_checkpoints_is_accounted_for(name):
    """Base in full with random numbers; large and pre-training by shape, to save memory."""
    device = "cpu" if name == "caption_base_384" else "meta"
    shapes = {key: tuple(shape) for key, shape in KEYS[name].items()}
    generator = torch.Generator().manual_seed(0)
    if device == "cpu":
        theirs = {k: torch.empty(s).uniform_(generator=generator) for k, s in shapes.items()}
        theirs |= {copy: theirs[original] for copy, original in TIED.items()}
    else:
        theirs = {key: torch.empty(shape, device=device) for key, shape in shapes.items()}
    book = account(theirs, BLIP)
    assert not book.missing and not book.left_over
    renamed = {key for row in book.rows for key in row.theirs}
    fates = [renamed, book.tied.keys(), book.dropped.keys()]
    assert sum(map(len, fates)) == len(shapes) and set().union(*fates) == shapes.keys()

    qkv = theirs["visual_encoder.blocks.3.attn.qkv.weight"]
    word = theirs["text_decoder.bert.embeddings.word_embeddings.weight"]
    weights = to_ours(theirs, BLIP, source=name)
    config = loading.infer_config(weights)
    captioner = build(config, None, weights, source=name)
    large = "large" in name
    assert config.vit.dim == (1024 if large else 768)
    assert config.vit.depth == (24 if large else 12)
    assert config.vit.num_heads == (16 if large else 12)
    assert config.vit.image_size == (224 if "224" in name else 384)
    assert (config.decoder.vocab_size, config.decoder.num_heads) == (30524, 12)
    assert config.vit.norm_eps == 1e-6 and config.decoder.norm_eps == 1e-12
    # Counting the tied head twice, as the published sizes do.
    count = sum(p.numel() for p in captioner.parameters()) + 30524 * 768 + 30524
    assert count == pytest.approx(469.8e6 if large else 247.4e6, rel=1.5e-3)
    if device == "cpu":
        assert torch.equal(captioner.vit.blocks[3].attention.key.weight, qkv[768:1536])
        assert captioner.vit.blocks[3].attention.key.weight.data_ptr() == qkv[768:].data_ptr()
        assert captioner.decoder.word_embed.weight.data_ptr() == word.data_ptr()  # not copied


@pytest.mark.parametrize("convention", [BLIP, TRANSFORMERS], ids=["blip", "transformers"])
def test_round_trip_is_bit_identical(convention):
    weights = load_golden("b").captioner.state_dict()
    back = to_ours(from_ours(weights, convention), convention, source="test")
    assert back.keys() == weights.keys()
    assert all(torch.equal(back[name], weights[name]) for name in weights)


@pytest.fixture
def small(tmp_path):
    """A folder as transformers has them, with random weights, and the captioner loaded from it."""
    sizes = {"dim": 32, "depth": 2, "num_heads": 2, "mlp_dim": 128, "norm_eps": 1e-5}
    config = Config(
        vit=ViTConfig(image_size=32, patch_size=16, **sizes),
        decoder=DecoderConfig(vocab_size=60, features_dim=32, max_positions=64, **sizes),
    )
    write_vocab(tmp_path / "vocab.txt", 60)
    tokenizer = Tokenizer.from_vocab(tmp_path / "vocab.txt")
    torch.manual_seed(0)
    captioner = Captioner(config=config, tokenizer=tokenizer).init_weights()
    for parameter in captioner.parameters():  # norms and biases too, whose starts would hide errors
        parameter.data.add_(torch.randn_like(parameter) * 0.05)
    (tmp_path / "vocab.txt").unlink()
    export_transformers(captioner, tmp_path / "hf")
    return tmp_path / "hf", smile.load(tmp_path / "hf")


@pytest.fixture
def run_weights(run_script):
    """Runs `python -m smile.weights` in this process."""
    return lambda *words: run_script(weights_command.main, *words)


def equal_weights(a, b) -> bool:
    first, second = a.state_dict(), b.state_dict()
    return first.keys() == second.keys() and all(torch.equal(first[k], second[k]) for k in first)


@pytest.mark.slow
@pytest.mark.parametrize("format", ["transformers", "blip"])
def test_export_and_back_is_bit_identical(small, format, run_weights, tmp_path):
    _, captioner = small
    save_run(tmp_path / "run", captioner)
    status, *_, errors = run_weights(
        "export", tmp_path / "run", tmp_path / "out", "--format", format
    )
    assert status == 0, errors
    exported = tmp_path / "out" / ("" if format == "transformers" else "checkpoint.pth")
    back = smile.load(exported)
    assert equal_weights(captioner, back)
    assert back.config.vit == captioner.config.vit
    assert back.config.decoder == captioner.config.decoder
    args = ["convert", exported, tmp_path / "again"]
    assert run_weights(*args)[0] == 0
    assert equal_weights(captioner, smile.load(tmp_path / "again"))
    status, _, errors = run_weights(*args)
    assert status == 2 and "not an empty folder" in errors


@pytest.mark.parametrize("export", [export_transformers, export_blip])
def test_a_stem_that_others_do_not_know_is_not_exported(export, small, tmp_path):
    captioner = copy.copy(small[1])
    vit = replace(captioner.config.vit, stem="conv")
    captioner.config = replace(captioner.config, vit=vit)
    with pytest.raises(UserError, match=r'vit.stem = "conv": cannot be exported'):
        export(captioner, tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
def test_exported_folder_captions_the_same_in_transformers(small, tmp_path):
    """Image file in, text out, through the library's own processor and search."""
    transformers = pytest.importorskip("transformers")
    _, captioner = small
    export_transformers(captioner, tmp_path / "out")
    model = transformers.BlipForConditionalGeneration.from_pretrained(tmp_path / "out").eval()
    processor = transformers.BlipProcessor.from_pretrained(tmp_path / "out")
    generator = torch.Generator().manual_seed(0)
    pixels = torch.randint(0, 256, (40, 60, 3), generator=generator, dtype=torch.uint8)
    image = Image.fromarray(pixels.numpy())
    inputs = processor(image, "a picture of", return_tensors="pt")
    assert_close(inputs.pixel_values[0], captioner.transform(image), rtol=0, atol=2e-2)
    for settings in ({"num_beams": 1}, {"num_beams": 3, "length_penalty": 0.0}):
        lengths = {"max_length": 14, "min_length": 14}
        ids = model.generate(**inputs, **lengths, **settings)[0]
        theirs = processor.decode(ids, skip_special_tokens=True).removeprefix("a picture of ")
        assert captioner.caption(image, **lengths, **settings) == theirs


def test_safetensors_bin_and_shards_are_the_same(small, tmp_path):
    folder, captioner = small
    weights = load_file(folder / "model.safetensors")
    names = sorted(weights)
    for variant in ("bin", "shards"):
        target = tmp_path / variant
        target.mkdir()
        for name in ("config.json", "vocab.txt"):
            (target / name).write_bytes((folder / name).read_bytes())
        if variant == "bin":
            torch.save(weights, target / "pytorch_model.bin")
        else:
            parts = {"a.safetensors": names[::2], "b.safetensors": names[1::2]}
            for part, keys in parts.items():
                save_file({key: weights[key] for key in keys}, target / part)
            index = {"weight_map": {key: part for part, keys in parts.items() for key in keys}}
            (target / "model.safetensors.index.json").write_text(json.dumps(index))
        assert equal_weights(captioner, smile.load(target))
    (tmp_path / "shards" / "b.safetensors").unlink()
    with pytest.raises(
        UserError, match=r"b\.safetensors is missing, but model\.safetensors\.index"
    ):
        smile.load(tmp_path / "shards")


def blip_file(path: Path, change=None) -> Path:
    """Golden checkpoint "a" as a .pth with its vocabulary beside it, changed by `change`."""
    checkpoint = torch.load(GOLDEN / "blip_tiny_a.pth", weights_only=True)
    if change:
        change(checkpoint)
    torch.save(checkpoint, path)
    write_vocab(path.parent / "vocab.txt", 211)
    return path


@pytest.mark.slow
def test_a_blip_file_with_what_cannot_be_inferred(tmp_path):
    path = blip_file(tmp_path / "model.pth")
    toml = tmp_path / "sizes.toml"
    toml.write_text("[vit]\nnum_heads = 3\n[decoder]\nnum_heads = 4\n")
    captioner = smile.load(path, model_config=toml, image_size=96)
    assert (captioner.config.vit.num_heads, captioner.config.decoder.num_heads) == (3, 4)
    assert captioner.config.vit.image_size == 96
    golden = load_golden("a")
    captioner = smile.load(path, model_config=toml)
    features = captioner.encode(golden.expected["image"])
    assert_close(features, golden.expected["image_embeds"], rtol=1e-4, atol=1e-5)
    assert smile.load(path, num_heads=8).config.decoder.num_heads == 8


@pytest.mark.slow
def test_positions_interpolate_smoothly_and_keep_the_class():
    """Away from the border a ramp stays a ramp, bar the kernel's ripple; the class stays."""
    ramp = torch.arange(8.0)[None, :, None].expand(8, 8, 1)  # value = column
    positions = torch.cat([torch.full((1, 1, 1), 42.0), ramp.reshape(1, 64, 1)], dim=1)
    larger = interpolate_positions(positions, grid=16)
    assert larger.shape == (1, 257, 1)
    assert larger[0, 0, 0] == 42
    columns = larger[0, 1:, 0].reshape(16, 16)
    expected = (torch.arange(16) + 0.5) / 2 - 0.5  # align_corners=False: pixel centres
    assert_close(columns[8, 4:12], expected[4:12], rtol=0, atol=0.05)
    assert interpolate_positions(positions, grid=8) is positions


def test_wrong_weights_are_named(tmp_path):
    def drop(checkpoint):
        for n in range(2):
            del checkpoint["model"][f"visual_encoder.blocks.{n}.mlp.fc1.weight"]

    with pytest.raises(
        UserError, match=r"model\.pth: visual_encoder\.blocks\.0\.mlp\.fc1\.weight is"
    ):
        smile.load(blip_file(tmp_path / "model.pth", drop))

    def add(checkpoint):
        checkpoint["model"]["visual_encoder.extra"] = torch.zeros(3, 5)

    with pytest.raises(UserError, match=r"visual_encoder\.extra \(3, 5\) is not part of a BLIP"):
        smile.load(blip_file(tmp_path / "model.pth", add))

    def cut(checkpoint):
        for key, rows in (("weight", 100), ("bias", ())):
            name = f"visual_encoder.blocks.0.attn.qkv.{key}"
            checkpoint["model"][name] = torch.zeros(rows)

    with pytest.raises(UserError, match=r"qkv\.bias is \(\), expected 3 concatenated .*100"):
        smile.load(blip_file(tmp_path / "model.pth", cut))

    def bend(checkpoint):
        for n in range(2):
            checkpoint["model"][f"visual_encoder.blocks.{n}.norm1.weight"] = torch.zeros(7)

    with pytest.raises(UserError, match=r"norm1\.weight is \(7,\), expected \(48,\)"):
        smile.load(blip_file(tmp_path / "model.pth", bend), num_heads=1)

    def untie(checkpoint):
        key = "text_decoder.cls.predictions.decoder.bias"
        checkpoint["model"][key] = checkpoint["model"][key] + 1

    with pytest.raises(UserError, match=r"decoder\.bias differs from .*predictions\.bias"):
        smile.load(blip_file(tmp_path / "model.pth", untie))

    def headless(checkpoint):
        checkpoint["model"] = {
            k.replace("text_decoder", "text_encoder"): v for k, v in checkpoint["model"].items()
        }

    with pytest.raises(UserError, match="without a text decoder"):
        smile.load(blip_file(tmp_path / "model.pth", headless))

    def other(checkpoint):
        checkpoint["model"] = {"conv1.weight": torch.zeros(3)}

    with pytest.raises(UserError, match=r"not a BLIP model; its keys are conv1\.weight"):
        smile.load(blip_file(tmp_path / "model.pth", other))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "empty"),
        (b"<!DOCTYPE html><html>404</html>", "web page"),
        (None, "model.pth"),
    ],
)
def test_damaged_files_get_one_clear_line(tmp_path, content, message):
    path = blip_file(tmp_path / "model.pth")
    path.write_bytes(path.read_bytes()[:5000] if content is None else content)
    with pytest.raises(UserError, match=message) as caught:
        smile.load(path)
    assert "\n" not in str(caught.value) and str(path) in str(caught.value)


class Stranger(dict):
    """Stands for SMILE_Flickr8k's pickled ruamel.yaml object: a class torch refuses to load."""


@pytest.mark.slow
def test_a_harmless_stranger_beside_the_weights(tmp_path):
    def user_checkpoint(checkpoint):
        checkpoint |= {"optimizer": {"state": {}}, "config": Stranger(lr=1e-5), "epoch": 4}

    path = blip_file(tmp_path / "checkpoint_best.pth", user_checkpoint)
    with pytest.raises(Exception, match="Weights only load failed"):
        torch.load(path, weights_only=True)
    plain = smile.load(blip_file(tmp_path / "plain.pth"), num_heads=1)
    assert equal_weights(plain, smile.load(path, num_heads=1))


def test_vocabulary_must_fit(tmp_path):
    path = blip_file(tmp_path / "model.pth")
    write_vocab(tmp_path / "vocab.txt", 100)
    with pytest.raises(UserError, match=r"100 entries with \[DEC\] and \[ENC\], but .* have 211"):
        smile.load(path, num_heads=1)
    write_vocab(tmp_path / "other.txt", 211)
    assert smile.load(path, num_heads=1, vocab=tmp_path / "other.txt").tokenizer.vocab_size == 211


@pytest.mark.slow
def test_a_transformers_config_is_checked(small, tmp_path):
    folder, _ = small
    config = json.loads((folder / "config.json").read_text())
    config["vision_config"]["hidden_act"] = "relu"
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(UserError, match=r'vision_config\.hidden_act is "relu", expected "gelu"'):
        smile.load(folder)
    config["vision_config"]["hidden_act"] = "gelu"
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "preprocessor_config.json").write_text('{"image_mean": [0.5, 0.5, 0.5]}')
    with pytest.raises(UserError, match=r"image_mean is \[0\.5, 0\.5, 0\.5\], expected CLIP's"):
        smile.load(folder)
    (folder / "preprocessor_config.json").unlink()
    (folder / "config.json").unlink()
    with pytest.raises(UserError, match=r"config\.json is missing.*--model-config"):
        smile.load(folder)
    toml = tmp_path / "heads.toml"
    toml.write_text("[vit]\nnum_heads = 2\n[decoder]\nnum_heads = 2\n")
    for options in ({"num_heads": 2}, {"model_config": toml}):
        assert smile.load(folder, **options).config.decoder.num_heads == 2


@pytest.mark.slow
def test_names_lead_to_their_files(small, monkeypatch, tmp_path):
    """Each known name fetches from its address; hub ids work like names; the rest is refused."""
    _, captioner = small
    export_transformers(captioner, tmp_path / "hub")
    asked = []

    def hub_file(repo, name, repo_type="model", revision=None):
        asked.append((repo_type, repo, name))
        if not (tmp_path / "hub" / name).exists():
            raise NotInRepository(f"{repo} has no file {name}")
        return tmp_path / "hub" / name

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("SMILE_CACHE", str(tmp_path / "cache"))
    monkeypatch.delitem(PINS, "Salesforce/blip-image-captioning-base/pytorch_model.bin")
    for module in (needed, repository):
        monkeypatch.setattr(module, "hub_file", hub_file)
        monkeypatch.setattr(module, "in_hub_cache", lambda *_, **__: False)
    assert equal_weights(smile.load("blip-base"), captioner)
    assert {repo for _, repo, _ in asked} == {"Salesforce/blip-image-captioning-base"}
    assert equal_weights(smile.load("someone/my-blip"), captioner)
    path = blip_file(tmp_path / "blip_smile_base.pth")
    (tmp_path / "hub" / "model").mkdir()
    path.rename(tmp_path / "hub" / "model" / path.name)
    (tmp_path / "vocab.txt").rename(tmp_path / "hub" / "model" / "vocab.txt")
    smile.load("blip-smile", num_heads=1)
    assert asked[-2] == ("model", *needed.BERT_VOCAB)  # small, so first
    assert asked[-1] == ("space", "yuezih/BLIP-SMILE", "model/blip_smile_base.pth")
    urls = []
    there = tmp_path / "hub/model" / path.name
    monkeypatch.setattr(needed, "fetch", lambda url, **pin: urls.append((url, pin)) or there)
    smile.load("blip-base-coco", num_heads=1)
    checksum = "sha256:96ac8749bd0a568c274ebe302b3a3748ab9be614c737f3d8c529697139174086"
    address = STORAGE + "model_base_caption_capfilt_large.pth"
    assert urls == [(address, {"checksum": checksum, "size": 896_081_425})]
    with pytest.raises(UserError, match=r"blip-bse: no such.*blip-base, .*mean blip-base\?"):
        smile.load("blip-bse")


def test_the_newest_run_is_the_default(small, tmp_path):
    _, captioner = small
    runs = tmp_path / "runs"
    assert loading.default_source(runs) == ("blip-base", f"since there is no run under {runs}/")
    for age, name in ((200, "old"), (100, "new"), (0, "broken")):
        save_run(runs / name, captioner)
        time = 1e9 - age
        os.utime(runs / name / "model.safetensors", (time, time))
    (runs / "broken" / "vocab.txt").unlink()
    assert loading.default_source(runs)[0] == str(runs / "new")


def test_loading_draws_no_random_numbers(small):
    folder, _ = small
    before = torch.get_rng_state()
    smile.load(folder)
    assert torch.equal(torch.get_rng_state(), before)


def test_inspect_prints_what_stands_beside_the_weights(small, run_weights, tmp_path):
    _, captioner = small
    export_blip(captioner, tmp_path / "out")
    _, printed, _ = run_weights("inspect", tmp_path / "out" / "checkpoint.pth")
    assert "num_heads 2" in printed


@pytest.mark.slow
def test_inspect_prints_every_key(small, run_weights, tmp_path):
    folder, _ = small
    command = [sys.executable, "-m", "smile.weights", "inspect", folder]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    for key in load_file(folder / "model.safetensors"):
        assert key in done.stdout
    assert "[vit] image_size 32" in done.stdout and "split in 3" in done.stdout
    path = blip_file(tmp_path / "m.pth", lambda c: c["model"].update(strange=torch.zeros(2)))
    status, printed, _ = run_weights("inspect", path)
    assert status == 2 and "strange" in printed and "LEFT OVER" in printed


@pytest.mark.real_weights
def test_known_good_captions_of_the_real_weights():
    """FACTS: model_base_capfilt_large.pth at 384 px, BLIP's demo.jpg, greedy."""
    folder = os.environ.get("SMILE_REAL_WEIGHTS")
    if not folder:
        pytest.skip(
            "set SMILE_REAL_WEIGHTS to a folder with model_base_capfilt_large.pth, BLIP's demo.jpg "
            "and bert-base-uncased's vocab.txt"
        )
    captioner = smile.load(Path(folder) / "model_base_capfilt_large.pth", image_size=384)
    pixels = captioner.transform(Image.open(Path(folder) / "demo.jpg").convert("RGB"))[None]
    greedy = {"num_beams": 1, "min_length": 0, "max_length": 20}
    common = [1037, 2450, 3564, 2006, 1996, 3509, 2007, 2014, 3899]
    for prompt in ("", "a picture of "):
        [[found]] = captioner.describe(pixels, prompts=prompt, **greedy)
        assert [captioner.tokenizer.ids[piece] for piece, _ in found.tokens] == [*common, 102]
