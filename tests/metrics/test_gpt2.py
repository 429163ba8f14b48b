"""GPT-2 and perplexity beside transformers' GPT2LMHeadModel with the same random weights."""

import contextlib
import json
import math

import numpy as np
import pytest
import torch
from mutations import with_other_json_values
from safetensors.torch import load_file, save_file
from tiny_bpe import write_tiny_bpe
from torch.testing import assert_close

from smile.errors import UserError
from smile.metrics.models.bpe import Gpt2Tokenizer
from smile.metrics.models.gpt2 import convention, load_gpt2
from smile.metrics.perplexity import perplexities, token_log_likelihoods
from smile.weights.names import from_ours, to_ours

transformers = pytest.importorskip("transformers")  # the oracle of nearly every test here

CONTEXT = 40
CAPTIONS = [
    "a dog on the beach",
    " a dog on the beach",
    "x",
    "A DOG's café, don't  1234 \n 🙂",
    "the dogs on the beach",
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A random GPT-2 of the transformers library, with a tokenizer."""
    folder = tmp_path_factory.mktemp("gpt2")
    size = write_tiny_bpe(folder, suffix="", space="Ġ", special=("<|endoftext|>",))
    config = transformers.GPT2Config(
        vocab_size=size, n_positions=CONTEXT, n_embd=48, n_layer=2, n_head=3
    )
    config.bos_token_id = config.eos_token_id = size - 1
    torch.manual_seed(0)
    model = transformers.GPT2LMHeadModel(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.1)
    model.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def theirs(folder):
    return transformers.GPT2LMHeadModel.from_pretrained(folder).eval()


@torch.no_grad()
def their_scores(model, ids: list[int]) -> torch.Tensor:
    """log p of each id but the first, all read at once."""
    logprobs = model(torch.tensor([ids[:-1]])).logits[0].log_softmax(dim=-1)
    return logprobs.gather(1, torch.tensor(ids[1:])[:, None])[:, 0]


def test_token_ids_equal_transformers(folder, tmp_path):
    ours, theirs = (
        Gpt2Tokenizer.from_folder(folder),
        transformers.GPT2Tokenizer.from_pretrained(folder),
    )
    for text in [*CAPTIONS, ""]:
        assert ours.encode(text) == theirs(text).input_ids
    assert ours.begin_id == theirs.bos_token_id


@pytest.mark.parametrize("batch_size", [1, 3, 16])
def test_log_likelihoods_equal_transformers(folder, theirs, batch_size):
    gpt2 = load_gpt2(folder)
    begin = gpt2.tokenizer.begin_id
    found = token_log_likelihoods(gpt2, CAPTIONS, batch_size=batch_size)
    for caption, scores in zip(CAPTIONS, found, strict=True):
        expected = their_scores(theirs, [begin, *gpt2.tokenizer.encode(caption)])
        assert_close(torch.from_numpy(scores), expected, rtol=0, atol=1e-5)


def test_perplexity_by_definition(folder, theirs):
    gpt2 = load_gpt2(folder)
    found = perplexities(gpt2, [*CAPTIONS, ""])
    for caption, perplexity in zip(CAPTIONS, found, strict=False):
        ids = [gpt2.tokenizer.begin_id, *gpt2.tokenizer.encode(caption)]
        product = math.prod(their_scores(theirs, ids).exp().tolist())
        assert perplexity == pytest.approx(product ** (-1 / (len(ids) - 1)), rel=1e-4)
    assert np.isnan(found[-1])
    assert perplexities(gpt2, []).shape == (0,)


@pytest.mark.parametrize("length", [CONTEXT - 1, CONTEXT, CONTEXT + 1, 60, 61, 100, 130])
def test_captions_longer_than_the_context(folder, theirs, length):
    """Each token is scored once; past the first context, with at least half a context before."""
    gpt2 = load_gpt2(folder)
    text = "".join(np.random.default_rng(length).choice([*"bcfgjkq"], size=length))
    ids = [gpt2.tokenizer.begin_id, *gpt2.tokenizer.encode(text)]
    assert len(ids) == length + 1
    [scores, other] = token_log_likelihoods(gpt2, [text, "a dog"], batch_size=2)
    assert scores.shape == (length,) and other.shape == (2,)
    half = CONTEXT // 2
    for i in range(length):  # token i is ids[i + 1]
        if i < CONTEXT:
            start = 0
        else:  # windows end at the context and every half of it from there on, or with the text
            end = min(CONTEXT + half * math.ceil((i + 1 - CONTEXT) / half), length)
            start = end - CONTEXT
            assert i + 1 - start > half
        if i in (0, CONTEXT - 1, CONTEXT, CONTEXT + half, length - 1):
            expected = their_scores(theirs, ids[start : i + 2])[-1].item()
            assert scores[i] == pytest.approx(expected, abs=1e-5)


def test_as_on_the_hub(folder, tmp_path):
    """Without the prefix, with the mask's buffers, the head or not, by torch.save."""
    weights = load_file(folder / "model.safetensors")
    expected = perplexities(load_gpt2(folder), CAPTIONS)
    for name in ("config.json", "vocab.json", "merges.txt"):
        (tmp_path / name).write_bytes((folder / name).read_bytes())
    hub = {name.removeprefix("transformer."): tensor for name, tensor in weights.items()}
    for layer in range(2):
        hub[f"h.{layer}.attn.bias"] = torch.ones(1, 1, CONTEXT, CONTEXT).tril()
        hub[f"h.{layer}.attn.masked_bias"] = torch.tensor(-1e4)
    save_file({name: t.contiguous() for name, t in hub.items()}, tmp_path / "model.safetensors")
    assert perplexities(load_gpt2(tmp_path), CAPTIONS) == pytest.approx(expected)
    (tmp_path / "model.safetensors").unlink()
    head = {"lm_head.weight": weights["transformer.wte.weight"]}
    torch.save(weights | head, tmp_path / "pytorch_model.bin")
    assert perplexities(load_gpt2(tmp_path), CAPTIONS) == pytest.approx(expected)
    wrong = {"lm_head.weight": weights["transformer.wte.weight"] + 1}
    torch.save(weights | wrong, tmp_path / "pytorch_model.bin")
    with pytest.raises(UserError, match=r"lm_head\.weight differs from transformer\.wte\.weight"):
        load_gpt2(tmp_path)
    torch.save(weights | {"extra.weight": torch.ones(2)}, tmp_path / "pytorch_model.bin")
    with pytest.raises(UserError, match=r"extra\.weight \(2,\) is not part of GPT-2"):
        load_gpt2(tmp_path)


@pytest.mark.parametrize("prefix", ["", "transformer."])
def test_transposed_weights_go_there_and_back(folder, prefix):
    weights = load_gpt2(folder).state_dict()
    theirs = from_ours(weights, convention(prefix))
    assert theirs[f"{prefix}h.0.attn.c_attn.weight"].shape == (48, 144)
    assert theirs[f"{prefix}h.0.mlp.c_fc.weight"].shape == (48, 192)
    assert theirs["lm_head.weight"] is theirs[f"{prefix}wte.weight"]
    back = to_ours(theirs, convention(prefix), source="test")
    assert back.keys() == weights.keys()
    assert all(torch.equal(back[name], weights[name]) for name in weights)


@pytest.mark.parametrize("name", ["config.json", "vocab.json"])
def test_damaged_json_ends_in_a_gpt2_or_in_one_line(folder, tmp_path, name):
    for damaged in with_other_json_values(folder, tmp_path, name):
        with contextlib.suppress(UserError):
            load_gpt2(damaged)


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("scale_attn_by_inverse_layer_idx", True, "scale_attn_by_inverse_layer_idx is True"),
        ("activation_function", "silu", 'activation "silu"'),
        ("n_embd", "48", r"config\.json: n_embd: found \"48\", expected a whole number"),
        ("n_head", 0, r"n_head: found 0, expected a number from 1 to"),
        ("n_head", 5, r"n_embd: found 48, expected a multiple of n_head, 5"),
        ("n_layer", 10**7, r"n_layer: found 10000000, expected a number from 1 to 1000"),
        ("n_embd", 36, r"key\.bias is \(48,\), expected \(36,\)"),
        ("model_type", "gpt_neo", 'is of a "gpt_neo" model, expected "gpt2"'),
    ],
)
def test_another_model_is_refused(folder, tmp_path, key, value, message):
    for path in folder.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    config = json.loads((folder / "config.json").read_text()) | {key: value}
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(UserError, match=message):
        load_gpt2(tmp_path)
