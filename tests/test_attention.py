"""Attention maps against the attention that is computed, and the picture drawn from them."""

import pytest
import torch
from golden_fixtures import load_golden
from PIL import Image
from torch.testing import assert_close

from smile.captioning.explain import cross_attention, explain, word_maps
from smile.errors import UserError
from smile.model.captioner import Caption
from smile.model.layers import Attention
from smile.model.tokenizer import Tokenizer


@pytest.fixture
def captioner():
    captioner = load_golden("a").captioner
    words = ["a", "picture", "of", "dog", "##gy", *map(str, range(200))]
    captioner.tokenizer = Tokenizer(["[PAD]", "[UNK]", "[CLS]", "[SEP]", *words])
    return captioner


def test_weights_are_those_that_attend_uses():
    """Weights times values is what `attend` gives."""
    torch.manual_seed(0)
    attention = Attention(dim=12, num_heads=3, source_dim=7)
    keys, values = attention.keys_values(torch.randn(2, 6, 7))
    queries = torch.randn(2, 3, 5, 4)
    weights = attention.weights(queries, keys)
    assert_close(weights.sum(dim=-1), torch.ones(2, 3, 5))
    assert_close(weights @ values, attention.attend(queries, (keys, values)))


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


def test_hooks_are_gone_afterwards(captioner):
    pixels = load_golden("a").expected["image"][:1]
    cross_attention(captioner, pixels, torch.tensor([[5, 6]]))
    blocks = captioner.decoder.blocks
    assert not any(block.cross_attention._forward_pre_hooks for block in blocks)


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
