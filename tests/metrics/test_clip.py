"""CLIP beside transformers' with the same random weights, and the scores made of its features."""

import contextlib
import json

import numpy as np
import pytest
import torch
from huggingface_hub import constants
from mutations import with_other_json_values
from PIL import Image
from safetensors.torch import load_file, save_file
from tiny_bpe import write_tiny_bpe
from torch.testing import assert_close

from smile.errors import UserError
from smile.metrics.clip_score import PREFIX, clip_scores, ref_clip_scores, self_retrieval
from smile.metrics.models.bpe import ClipTokenizer
from smile.metrics.models.clip import CLIP, ClipTransform, load_clip
from smile.weights.names import account

transformers = pytest.importorskip("transformers")  # the oracle of nearly every test here

TEXTS = [
    "a dog on the beach",
    "",
    "the dogs",
    "A DOG's café,  cafe\u0301 don't \t 1234 dogs!! ... 🙂 naïve",
    "a dog on the beach and the dog on the beach and the dog on the beach",
]


def make_clip(folder, *, seed=0, **sizes) -> torch.nn.Module:
    """A random CLIP of the transformers library, saved with a tokenizer in `folder`."""
    folder.mkdir(exist_ok=True)
    special = ("<|startoftext|>", "<|endoftext|>")
    if sizes.get("own_end_id"):  # then it need not be the largest
        special = special[::-1]
    vocab_size = write_tiny_bpe(folder, suffix="</w>", space="", special=special)
    act = sizes.get("act", "quick_gelu")
    end = vocab_size - 2 if sizes.get("own_end_id") else 2
    vision, text = sizes.get("vision", (48, 2, 3)), sizes.get("text", (32, 2, 2))
    config = transformers.CLIPConfig(
        vision_config={
            "image_size": sizes.get("image", 64),
            "patch_size": sizes.get("patch", 32),
            "hidden_size": vision[0],
            "num_hidden_layers": vision[1],
            "num_attention_heads": vision[2],
            "intermediate_size": 4 * vision[0],
            "hidden_act": act,
        },
        text_config={
            "vocab_size": vocab_size,
            "hidden_size": text[0],
            "num_hidden_layers": text[1],
            "num_attention_heads": text[2],
            "intermediate_size": 4 * text[0],
            "max_position_embeddings": 24,
            "hidden_act": act,
            "eos_token_id": end,
            "bos_token_id": 0,
            "pad_token_id": 1,
        },
        projection_dim=sizes.get("dim", 32),
    )
    torch.manual_seed(seed)
    model = transformers.CLIPModel(config).eval()
    with torch.no_grad():  # the library starts biases and norms at 0 and 1: that would hide errors
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.05)
    model.save_pretrained(folder)
    return model


def photo(width: int, height: int, seed: int = 0) -> Image.Image:
    noise = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return Image.fromarray(noise)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("clip")
    make_clip(folder)
    return folder


CONFIGURATIONS = {
    "ViT-B/32-like": {},
    "ViT-L/14-like": {"image": 56, "patch": 14, "vision": (64, 3, 4), "text": (48, 2, 3)},
    "exact GELU": {"act": "gelu", "dim": 24},
    "end token in the config": {"own_end_id": True},
}


@pytest.mark.slow
@pytest.mark.parametrize("name", CONFIGURATIONS)
def test_features_equal_transformers(name, tmp_path):
    theirs = make_clip(tmp_path / "clip", **CONFIGURATIONS[name])
    ours = load_clip(tmp_path / "clip")
    size = ours.config.image.image_size
    pictures = [photo(size + 9, size + 30), photo(2 * size, size + 1, seed=1)]
    processor = transformers.CLIPImageProcessorPil(
        size={"shortest_edge": size}, crop_size={"height": size, "width": size}
    )
    pixels = processor(pictures, return_tensors="pt")["pixel_values"]
    tokenizer = transformers.CLIPTokenizer.from_pretrained(tmp_path / "clip")
    inputs = tokenizer(TEXTS, padding=True, truncation=True, max_length=24, return_tensors="pt")
    with torch.no_grad():
        out = theirs(pixel_values=pixels, **inputs)
        for features in (out.image_embeds, out.text_embeds):  # inputs do matter
            assert (features[0] - features[1]).abs().max() > 1e-3
        assert_close(ours.image_features(pixels), out.image_embeds, rtol=0, atol=1e-5)
        assert_close(ours.text_features(inputs.input_ids), out.text_embeds, rtol=0, atol=1e-5)
    # From pictures and texts, whatever the batches.
    for size in (1, 32):
        images = ours.embed_images(iter(pictures), batch_size=size)
        assert_close(images, out.image_embeds, rtol=0, atol=1e-5)
        assert_close(ours.embed_texts(TEXTS, batch_size=size), out.text_embeds, rtol=0, atol=1e-5)
    assert_close(ours.embed_texts(["dog"], prefix="a "), ours.embed_texts(["a dog"]))
    assert ours.embed_images([]).shape == (0, ours.config.embed_dim)


def test_token_ids_equal_transformers(folder, tmp_path):
    ours = ClipTokenizer.from_folder(folder)
    theirs = transformers.CLIPTokenizer.from_pretrained(folder)
    for text in TEXTS:
        cut = theirs(text, truncation=True, max_length=24).input_ids
        assert ours.encode(text, max_tokens=24) == cut
        assert ours.encode(text) == theirs(text).input_ids
    theirs.save_pretrained(tmp_path)
    for name in ("vocab.json", "merges.txt"):
        (tmp_path / name).unlink(missing_ok=True)
    again = ClipTokenizer.from_folder(tmp_path)  # tokenizer.json alone
    assert [again.encode(text) for text in TEXTS] == [ours.encode(text) for text in TEXTS]
    # The end token cannot be smuggled in, or the text would be cut there.
    assert ours.encode("a <|endoftext|> dog").count(ours.end_id) == 1


def test_a_broken_tokenizer_is_refused(folder, tmp_path):
    with pytest.raises(UserError, match=r"no tokenizer in .*expected vocab\.json and merges\.txt"):
        ClipTokenizer.from_folder(tmp_path)
    (tmp_path / "vocab.json").write_bytes((folder / "vocab.json").read_bytes())
    (tmp_path / "merges.txt").write_text("#version: 0.2\nd o\nnobody knows\n")
    with pytest.raises(UserError, match="do not fit together"):
        ClipTokenizer.from_folder(tmp_path)
    with pytest.raises(UserError, match=r"lacks <\|startoftext\|>"):
        ClipTokenizer({"<|endoftext|>": 0}, [])


@pytest.mark.parametrize("size", [(40, 40), (40, 61), (67, 40), (400, 33), (31, 200), (20, 21)])
def test_preprocessing_equals_transformers(size):
    picture = photo(*size)
    settings = {"size": {"shortest_edge": 32}, "crop_size": {"height": 32, "width": 32}}
    pil, tensors = transformers.CLIPImageProcessorPil, transformers.CLIPImageProcessor
    [theirs] = pil(**settings)(picture, return_tensors="pt")["pixel_values"]
    assert_close(ClipTransform(32)(picture), theirs, rtol=0, atol=1e-6)
    [theirs] = tensors(**settings)(picture, return_tensors="pt")["pixel_values"]
    # That one resizes tensors: a grey level or two apart.
    assert_close(ClipTransform(32)(picture), theirs, rtol=0, atol=0.05)


def test_every_weight_is_accounted_for(folder, tmp_path):
    weights = load_file(folder / "model.safetensors")
    features = load_clip(folder).embed_texts(TEXTS)
    for name in ("config.json", "vocab.json", "merges.txt"):
        (tmp_path / name).write_bytes((folder / name).read_bytes())
    # As old files on the hub: constants too, written by torch.save.
    old = weights | {"text_model.embeddings.position_ids": torch.arange(24)[None]}
    assert account(old, CLIP).dropped.keys() >= {"text_model.embeddings.position_ids"}
    torch.save(old, tmp_path / "pytorch_model.bin")
    assert_close(load_clip(tmp_path).embed_texts(TEXTS), features)
    lost = "vision_model.pre_layrnorm.weight"
    changes = {
        rf"{lost} is missing": {k: v for k, v in weights.items() if k != lost},
        r"surprise \(3,\) is not part of CLIP": weights | {"surprise": torch.ones(3)},
        r"text_projection\.weight is \(32, 31\), expected \(32, 32\)": weights
        | {"text_projection.weight": torch.ones(32, 31)},
    }
    for message, changed in changes.items():
        save_file(changed, tmp_path / "model.safetensors")
        with pytest.raises(UserError, match=message):
            load_clip(tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["config.json", "vocab.json"])
def test_damaged_json_ends_in_a_clip_or_in_one_line(folder, tmp_path, name):
    for damaged in with_other_json_values(folder, tmp_path, name):
        with contextlib.suppress(UserError):
            load_clip(damaged)


def test_what_is_no_clip_is_refused(folder, tmp_path, monkeypatch):
    config = json.loads((folder / "config.json").read_text())
    config["vision_config"]["hidden_act"] = "relu"
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(UserError, match='activation "relu", expected one of gelu, quick_gelu'):
        load_clip(tmp_path)
    (tmp_path / "config.json").write_text('{"model_type": "blip"}')
    with pytest.raises(UserError, match='is of a "blip" model, expected "clip"'):
        load_clip(tmp_path)
    (tmp_path / "config.json").unlink()
    with pytest.raises(UserError, match=r"config\.json is missing"):
        load_clip(tmp_path)
    with pytest.raises(UserError, match=r"clip-b: expected .*clip-vit-b-32, clip-vit-l-14"):
        load_clip("clip-b")


def test_offline_says_what_to_put_where(monkeypatch, tmp_path):
    monkeypatch.setenv("SMILE_OFFLINE", "1")
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    files = "config.json vocab.json merges.txt pytorch_model.bin"
    expected = (
        r"clip-vit-b-32: downloads are off .* copy it here; missing: config.json, .* \(605 MB\) "
        "from https://huggingface.co/openai/clip-vit-base-patch32 to the folder models--openai.*; "
        f".* hf download openai/clip-vit-base-patch32 {files} --revision 3d74acf"
    )
    with pytest.raises(UserError, match=expected):
        load_clip("clip-vit-b-32")


def test_scores_by_hand():
    images = torch.tensor([[1.0, 0.0], [0.0, 2.0], [1.0, 0.0]])
    texts = torch.tensor([[3.0, 4.0], [0.0, 1.0], [-1.0, 0.0]])
    scores = clip_scores(images, texts)
    assert scores == pytest.approx([2.5 * 0.6, 2.5, 0.0])
    references = [
        torch.tensor([[1.0, 0.0], [0.0, 1.0]]),  # cosines 0.6 and 0.8: the best counts
        torch.tensor([[0.0, -1.0]]),  # opposite: 0
        torch.tensor([[1.0, 0.0]]),
    ]
    assert ref_clip_scores(scores, texts, references) == pytest.approx(
        [2 * 1.5 * 0.8 / (1.5 + 0.8), 0.0, 0.0]
    )
    with pytest.raises(ValueError, match="image 1 has no reference"):
        ref_clip_scores(scores, texts, [references[0], torch.empty(0, 2), references[2]])
    assert PREFIX == "A photo depicts "
    # The first caption is nearer to image 1; the second finds its own; the third's is last, tied.
    assert self_retrieval(images, texts).tolist() == [2.5, 1.0, 2.5]
