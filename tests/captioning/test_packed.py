"""Packed layers compute what they replace."""

import copy
from functools import partial

import pytest
import torch
from golden_fixtures import load_golden
from torch.testing import assert_close

from smile.captioning import packed as packed_layers
from smile.captioning.packed import (
    FEW,
    AttentionByViews,
    FewQueriesAttention,
    JointAttention,
    PackedLinear,
    can_pack,
    made_fast,
    pack,
    packed,
    use_views,
)
from smile.config import GenerateConfig
from smile.model.generate import generate
from smile.model.layers import Attention
from smile.weights.run_folder import save_run


@pytest.mark.slow
@pytest.mark.parametrize("repack", [True, False])
def test_packed_layers_give_the_same_states_and_captions(repack):
    golden = load_golden("b")
    captioner, packed = golden.captioner, pack(copy.deepcopy(golden.captioner), repack=repack)
    laid_out = packed if repack else packed.decoder
    assert not any(isinstance(module, torch.nn.Linear) for module in laid_out.modules())
    assert isinstance(packed.decoder.head, PackedLinear)
    prompts = torch.tensor([[golden.sizes.bos, 7, 9]]).expand(4, -1)
    options = GenerateConfig(num_beams=3, max_length=20, min_length=0)
    with torch.inference_mode():
        features = captioner.encode(golden.expected["image"])
        assert_close(packed.encode(golden.expected["image"]), features, rtol=1e-4, atol=1e-5)
        ids = golden.expected["ids"]
        logits, words = packed.logits(packed.decode(ids, features)), ids != 0
        assert_close(logits[words], golden.expected["logits"][words], rtol=1e-4, atol=1e-5)
        searches = [
            generate(model, features, prompts, sep_id=golden.sizes.sep, options=options)
            for model in (captioner, packed)
        ]
    plain, fast = ([hypotheses[0].ids for hypotheses in found] for found in searches)
    assert plain == fast
    assert len({tuple(ids) for ids in plain}) > 1


@pytest.mark.parametrize("repack", [True, False])
@pytest.mark.parametrize("words", [1, FEW // 2, FEW // 2 + 1])
def test_packed_cross_attention_is_cross_attention(repack, words):
    attention = Attention(dim=12, num_heads=3, source_dim=7)
    image, x = torch.randn(2, 6, 7), torch.randn(4, words, 12)  # two rows of words an image
    with torch.inference_mode():
        expected = attention(x, attention.keys_values(image))
        fast = FewQueriesAttention(attention, partial(packed, repack=repack))
        assert_close(fast(x, fast.keys_values(image)), expected, rtol=1e-4, atol=1e-6)


def test_joint_attention_projects_what_three_layers_do():
    attention, x = Attention(dim=12, num_heads=3), torch.randn(2, 5, 12)
    with torch.inference_mode():
        queries, (keys, values) = attention.project(x)
        found = JointAttention(attention).project(x)
    assert_close(found, (queries, (keys, values)), rtol=1e-4, atol=1e-6)


def test_views_split_and_merge_heads_as_einops_does():
    captioner = load_golden("a").captioner.train()
    fast, names = use_views(copy.deepcopy(captioner)), list(captioner.state_dict())
    images, ids = torch.randn(2, 3, 64, 64), torch.randint(4, 200, (6, 7))
    results = []
    for model in (captioner, fast):
        torch.manual_seed(0)
        logits = model(images, ids)
        logits.square().sum().backward()
        results.append([logits, *(parameter.grad for parameter in model.parameters())])
    assert all(map(torch.equal, *results))
    kinds = {type(module) for module in fast.modules() if isinstance(module, Attention)}
    assert kinds == {AttentionByViews} and list(fast.state_dict()) == names


def test_only_float32_on_the_cpu_is_packed():
    captioner = load_golden("a").captioner
    assert can_pack(captioner)
    assert not can_pack(captioner.double())
    with pytest.raises(ValueError, match="cannot be packed"):
        pack(captioner)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_captioner_that_onednn_refuses_captions_all_the_same(dtype, monkeypatch):
    monkeypatch.setattr(packed_layers, "multiplies", lambda dtype: False)
    captioner = load_golden("a").captioner.to(dtype)
    made = made_fast(copy.deepcopy(captioner))
    images, ids = torch.randn(2, 3, 64, 64).to(dtype), torch.tensor([[1, 2, 3]] * 2)
    with torch.inference_mode():
        logits = made.logits(made.decode(ids, made.encode(images)))
        expected = captioner.float().logits(captioner.decode(ids, captioner.encode(images.float())))
    assert logits.dtype == torch.float32
    assert_close(logits, expected, rtol=0.1, atol=0.1)


@pytest.mark.parametrize("fuses", [True, False])
def test_gelu_comes_after_the_product_where_onednn_cannot_join_them(fuses, monkeypatch):
    monkeypatch.setattr(packed_layers, "fuses", lambda: fuses)
    linear, x = torch.nn.Linear(24, 40), torch.randn(3, 24)
    layer = packed(linear, gelu=True)
    assert layer.post_op == ("gelu" if fuses else "none")
    assert_close(layer(x), torch.nn.functional.gelu(linear(x)), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("repack", [True, False])
def test_a_packed_captioner_is_neither_packed_again_nor_saved(repack, tmp_path):
    """Its weights are no longer all there, or not in their own layout."""
    packed = pack(load_golden("a").captioner, repack=repack)
    assert not can_pack(packed)
    with pytest.raises(ValueError, match="packed already"):
        pack(packed)
    with pytest.raises(ValueError, match="load it again"):
        save_run(tmp_path / "run", packed)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("outruns", [True, False])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("repack", [True, False])
def test_float32_weights_read_in_place_stay_with_mkl_where_that_is_faster(
    repack, dtype, outruns, monkeypatch
):
    monkeypatch.setattr(packed_layers, "outruns_mkl", lambda: outruns)
    monkeypatch.setattr(packed_layers, "can_pack", lambda captioner: True)
    packs = []  # not for real: oneDNN may refuse bfloat16 here
    monkeypatch.setattr(packed_layers, "pack", lambda captioner, **_: packs.append(captioner))
    made = made_fast(load_golden("a").captioner.to(dtype), repack=repack)
    is_left = dtype == torch.float32 and not (repack or outruns)
    assert len(packs) == (not is_left) and (made is None) == bool(packs)
    (captioner,) = packs or [made]
    assert isinstance(captioner.decoder.blocks[0].self_attention, AttentionByViews)
