"""Attention maps against the attention that is computed, and the picture drawn from them."""

import pytest
import torch
from golden_fixtures import load_golden
from PIL import Image
from torch.testing import assert_close

from smile.captioning.explain import cross_attention, explain, word_maps
from smile.errors import UserError
from smile.model.captioner import Caption
from smile.model.tokenizer import Tokenizer


@pytest.fixture
def captioner():
    captioner = load_golden("a").captioner
    words = ["a", "picture", "of", "dog", "##gy", *map(str, range(200))]
    captioner.tokenizer = Tokenizer(["[PAD]", "[UNK]", "[CLS]", "[SEP]", *words])
    return captioner


def test_weights_are_those_that_the_decoder_uses(captioner):
    """Weights times values, through the output layer, is what cross-attention gives."""
    calls = []
    blocks = captioner.decoder.blocks
    for block in blocks:
        block.cross_attention.register_forward_hook(lambda *call: calls.append(call))
    weights = cross_attention(captioner, torch.randn(1, 3, 64, 64), torch.tensor([[5, 6, 7]]))
    assert_close(weights.sum(dim=-1), torch.ones(2, 4, 3))
    assert len(calls) == len(blocks)
    with torch.inference_mode():
        for (attention, (_, (_, values)), found), seen in zip(calls, weights, strict=True):
            expected = attention.out(attention.merge_heads(seen[None] @ values))
            assert_close(found, expected, rtol=1e-4, atol=1e-5)


def test_a_map_is_what_the_position_before_the_word_looked_at(captioner):
    pixels = load_golden("a").expected["image"][:1]
    tokens = [("a", -0.5), ("dog", -0.25), ("##gy", -0.5), ("7", -1.0), ("[SEP]", -2.0)]
    caption = Caption("a doggy 7", -4.25, tokens)
    maps = word_maps(captioner, pixels, caption)
    assert [(m.word, m.logprob) for m in maps] == [("a", -0.5), ("doggy", -0.75), ("7", -1.0)]
    start = captioner.tokenizer.prompt_ids(captioner.config.data.prompt)
    ids = [*start, *(captioner.tokenizer.ids[piece] for piece, _ in tokens[:-1])]
    weights = cross_attention(captioner, pixels, torch.tensor([ids]))
    assert weights.shape == (2, 4, len(ids), 17)
    mean = weights.mean(dim=(0, 1))
    last = mean[len(ids) - 2, 1:].reshape(4, 4)  # the position that had read "##gy"
    assert_close(maps[2].heat, last / last.sum())
    one_layer = word_maps(captioner, pixels, caption, layer=1)[2].heat
    last = weights[1].mean(dim=0)[len(ids) - 2, 1:].reshape(4, 4)
    assert_close(one_layer, last / last.sum())
    with pytest.raises(UserError, match="layer is 2, but the decoder's layers are 0 to 1"):
        word_maps(captioner, pixels, caption, layer=2)


def test_an_encoder_without_a_square_of_patches_is_refused(captioner, monkeypatch):
    pixels = load_golden("a").expected["image"][:1]
    encode = captioner.encode
    monkeypatch.setattr(captioner, "encode", lambda pixels: encode(pixels)[:, :-1])
    with pytest.raises(UserError, match="the encoder gives 16 tokens of an image: expected one"):
        word_maps(captioner, pixels, Caption("a", -0.5, [("a", -0.5), ("[SEP]", -1.0)]))


def test_hooks_are_gone_afterwards(captioner):
    pixels = load_golden("a").expected["image"][:1]
    cross_attention(captioner, pixels, torch.tensor([[5, 6]]))
    blocks = captioner.decoder.blocks
    assert not any(block.cross_attention._forward_pre_hooks for block in blocks)


def test_what_the_caption_leaves_out_has_no_map(captioner):
    pixels = load_golden("a").expected["image"][:1]
    tokens = [("##gy", -0.5), ("[UNK]", -1.0), ("dog", -0.25), ("[PAD]", -1.0), ("[SEP]", -2.0)]
    maps = word_maps(captioner, pixels, Caption("gy dog", -4.75, tokens))
    assert [(m.word, m.logprob) for m in maps] == [("gy", -0.5), ("dog", -0.25)]
    # The pieces left out were read all the same: the map of "dog" is that after them.
    start = captioner.tokenizer.prompt_ids(captioner.config.data.prompt)
    ids = [*start, *(captioner.tokenizer.ids[piece] for piece in ("##gy", "[UNK]", "dog"))]
    weights = cross_attention(captioner, pixels, torch.tensor([ids])).mean(dim=(0, 1))
    expected = weights[len(ids) - 2, 1:].reshape(4, 4)
    assert_close(maps[1].heat, expected / expected.sum())


@pytest.mark.slow
def test_explain_draws_a_panel_for_each_word(captioner, tmp_path):
    image = Image.effect_noise((120, 60), 80).convert("RGB")
    sizes = []
    for name, length in (("few.png", 6), ("many.png", 24)):
        settings = {"num_beams": 1, "max_length": length, "min_length": length}
        caption = explain(captioner, image, tmp_path / name, **settings)
        assert len(caption.tokens) == length - 4
        sheet = Image.open(tmp_path / name)
        assert len(sheet.getcolors(maxcolors=10**6)) > 100
        sizes.append(sheet.height)
    assert sizes[1] > 2 * sizes[0]
