"""Encoder, decoder and cache: what must be equal however it is computed."""

import copy
import io
from dataclasses import replace

import pytest
import torch
from golden_fixtures import load_golden
from helpers import make_run, ramp, walks_by_chance
from torch.testing import assert_close

import smile
from smile.config import Config, DecoderConfig, ViTConfig
from smile.model.captioner import Captioner
from smile.model.layers import DropPath
from smile.model.vit import ConvStem, ViT
from smile.training.ema import WeightAverage

# Weights as files, optimiser states and averages know them: by name, or by place alone.
NAMES = """
vit.class_token
vit.positions
vit.patch_embed weight bias
vit.blocks.0.norm1 weight bias
vit.blocks.0.attention.query weight bias
vit.blocks.0.attention.key weight bias
vit.blocks.0.attention.value weight bias
vit.blocks.0.attention.out weight bias
vit.blocks.0.norm2 weight bias
vit.blocks.0.mlp.fc1 weight bias
vit.blocks.0.mlp.fc2 weight bias
vit.norm weight bias
decoder.head_bias
decoder.word_embed weight
decoder.position_embed weight
decoder.embed_norm weight bias
decoder.blocks.0.self_attention.query weight bias
decoder.blocks.0.self_attention.key weight bias
decoder.blocks.0.self_attention.value weight bias
decoder.blocks.0.self_attention.out weight bias
decoder.blocks.0.self_norm weight bias
decoder.blocks.0.cross_attention.query weight bias
decoder.blocks.0.cross_attention.key weight bias
decoder.blocks.0.cross_attention.value weight bias
decoder.blocks.0.cross_attention.out weight bias
decoder.blocks.0.cross_norm weight bias
decoder.blocks.0.mlp.fc1 weight bias
decoder.blocks.0.mlp.fc2 weight bias
decoder.blocks.0.mlp_norm weight bias
decoder.head_dense weight bias
decoder.head_norm weight bias
"""


def one_block(**vit) -> Captioner:
    """A captioner of one block each, its weights drawn from seed 0."""
    config = Config(
        vit=ViTConfig(image_size=32, dim=8, depth=1, num_heads=1, mlp_dim=8, **vit),
        decoder=DecoderConfig(
            vocab_size=11, dim=8, features_dim=8, depth=1, num_heads=1, mlp_dim=8, max_positions=8
        ),
    )
    torch.manual_seed(0)
    return Captioner(config=config).init_weights()


@pytest.fixture
def golden():
    return load_golden("a")


def test_weights_keep_their_names_and_their_order():
    """Or a run could not be resumed: an optimiser's state goes by place."""
    captioner, expected = one_block(), []
    for line in NAMES.strip().splitlines():
        module, *parts = line.split()
        expected += [f"{module}.{part}" for part in parts] or [module]
    assert [name for name, _ in captioner.named_parameters()] == expected
    assert list(captioner.state_dict()) == expected


def test_a_cache_changes_nothing(golden):
    """Word by word, after a prompt or from the first word on, or all at once: the same states."""
    captioner, ids = golden.captioner, golden.expected["ids"][:1]
    with torch.inference_mode():
        features = captioner.encode(golden.expected["image"][:1])
        whole = captioner.decode(ids, features)
        for prompt in (1, 4, ids.size(1)):
            cache = captioner.new_cache(features, max_length=ids.size(1))
            parts = [ids[:, :prompt], *ids[:, prompt:].split(1, dim=1)]
            states = [captioner.decode(part, None, cache=cache) for part in parts if part.numel()]
            assert_close(torch.cat(states, dim=1), whole, rtol=1e-4, atol=1e-5)


def test_cache_follows_its_rows(golden):
    """After `select`, row i goes on from what row rows[i] said, about the image it belongs to."""
    captioner, ids = golden.captioner, golden.expected["ids"]
    with torch.inference_mode():
        features = captioner.encode(golden.expected["image"])
        cache = captioner.new_cache(features, max_length=8, copies=2)
        assert all(tensor.is_contiguous() for layer in cache.image for tensor in layer)
        captioner.decode(ids[:, :4], None, cache=cache)
        cache.spread()
        said = ids[:, :4].repeat_interleave(2, dim=0)
        # Beams change places within their image; then the image in the middle leaves.
        for rows in ([1, 0, 3, 2, 5, 5], [0, 1, 5, 4], [1, 1, 3, 2]):
            new = torch.arange(7, 7 + len(said))[:, None]
            states = captioner.decode(new, None, cache=cache)
            said = torch.cat([said, new], dim=1)
            images = [0, 0, 1, 1, 2, 2] if len(said) == 6 else [0, 0, 2, 2]
            alone = captioner.decode(said, features[images])[:, -1:]
            assert_close(states, alone, rtol=1e-4, atol=1e-5)
            cache.select(torch.tensor(rows))
            said = said[rows]


def test_captions_of_one_image_share_it(golden):
    """K captions per image give what K copies of the image with one caption each give."""
    captioner = golden.captioner
    images = golden.expected["image"][:2]
    ids = torch.randint(4, 200, (6, 7), generator=torch.Generator().manual_seed(0))
    apart = captioner(images.repeat_interleave(3, dim=0), ids)
    assert apart.shape == (6, 7, golden.sizes.vocab_size)
    assert_close(captioner(images, ids), apart, rtol=1e-4, atol=1e-5)
    image = captioner.decoder.keys_values(captioner.encode(images))
    for row in (slice(0, None, 3), slice(1, None, 3)):  # projected once, for several groups
        logits = captioner.logits(captioner.decode(ids[row], image))
        assert_close(logits, apart[row], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("shape", "message"),
    [
        ((5, 7), "5 caption rows beside 2 images; expected a whole number of captions for each"),
        ((0, 7), "0 caption rows beside 2 images; expected a whole number of captions for each"),
        ((1, 7), "1 caption rows beside 2 images"),
        ((2, 3, 7), r"ids are \(2, 3, 7\), expected \(rows, words\)"),
    ],
    ids=["too many", "none", "too few", "in groups"],
)
@pytest.mark.parametrize("kind", ["features", "keys and values", "cache"])
def test_captions_that_cannot_be_matched_to_images_are_refused(kind, shape, message):
    captioner, ids = one_block(), torch.ones(shape, dtype=torch.long)
    features, cache = captioner.encode(torch.randn(2, 3, 32, 32)), None
    if kind == "keys and values":
        features = captioner.decoder.keys_values(features)
    elif kind == "cache":
        features, cache = None, captioner.new_cache(features, max_length=8, copies=3)
    with pytest.raises(ValueError, match=message):
        captioner.decode(ids, features, cache=cache)


@torch.inference_mode()
def test_the_head_follows_the_weights_it_is_tied_to():
    """However a captioner is copied or its weights are replaced, scores are those of its own."""
    plain, other = one_block(), one_block(drop_path=0.5)
    for parameter in other.parameters():
        parameter.copy_(torch.randn_like(parameter))
    average = WeightAverage(other, decay=0.5)
    saved = io.BytesIO()
    torch.save(plain, saved)
    saved.seek(0)
    with torch.device("meta"):
        empty = Captioner(config=plain.config)

    def assigned(captioner: Captioner) -> Captioner:
        captioner.load_state_dict(other.state_dict(), assign=True)
        return captioner

    def moved(captioner: Captioner, *, overwrite: bool) -> Captioner:
        torch.__future__.set_overwrite_module_params_on_conversion(overwrite)
        try:
            return captioner.double()
        finally:
            torch.__future__.set_overwrite_module_params_on_conversion(False)

    captioners = {
        "deepcopy": copy.deepcopy(plain),
        "pickle": torch.load(saved, weights_only=False),
        "load_state_dict": one_block(),
        "assign": assigned(one_block()),
        "assign to meta": assigned(empty),
        "to": moved(one_block(), overwrite=False),
        "to, with new parameters": moved(one_block(), overwrite=True),
        "average": other,
    }
    captioners["load_state_dict"].load_state_dict(other.state_dict())
    plain.decoder.word_embed.weight.fill_(torch.nan)  # using it would give NaN
    with average.shown():
        for name, captioner in captioners.items():
            decoder = captioner.decoder
            decoder.head_bias.add_(1)
            states = torch.randn(3, 8, dtype=decoder.head_bias.dtype)
            expected = states @ decoder.word_embed.weight.t() + decoder.head_bias
            assert_close(decoder.logits(states), expected, msg=lambda m, n=name: f"{n}: {m}")


def test_padding_is_not_attended_to(golden):
    captioner, ids = golden.captioner, golden.expected["ids"][2:]
    image = golden.expected["image"][2:]
    length = int((ids != 0).sum())
    features = captioner.encode(image)
    padded = captioner.decode(ids, features)
    assert ids.size(1) > length
    assert_close(padded[:, :length], captioner.decode(ids[:, :length], features))
    # A padded position sees only the words before it, so more padding does not change it either.
    assert_close(padded[:, length], captioner.decode(ids[:, : length + 1], features)[:, length])


@pytest.mark.slow
def test_a_key_s_bias_changes_nothing(golden):
    """A softmax does not see what is added to all its scores; every other bias is seen."""
    captioner, ids = golden.captioner, golden.expected["ids"]

    @torch.inference_mode()
    def logits() -> torch.Tensor:
        return captioner(golden.expected["image"], ids)

    before = logits()
    biases = {name: p for name, p in captioner.named_parameters() if name.endswith("bias")}
    assert any(map(walks_by_chance, biases))
    for name, bias in biases.items():
        kept = bias.detach().clone()
        bias.data += torch.linspace(-1, 1, bias.numel())
        same = torch.allclose(logits(), before, rtol=1e-4, atol=1e-4)
        assert same == walks_by_chance(name), name
        bias.data.copy_(kept)


def test_a_row_of_padding_is_finite(golden):
    nothing = torch.zeros(1, 5, dtype=torch.long)
    assert golden.captioner(golden.expected["image"][:1], nothing).isfinite().all()


def test_a_word_sees_only_the_past(golden):
    captioner, ids = golden.captioner, golden.expected["ids"][:1]
    features = captioner.encode(golden.expected["image"][:1])
    changed = ids.clone()
    changed[0, 6] = 17
    before, after = captioner.decode(ids, features), captioner.decode(changed, features)
    assert_close(before[:, :6], after[:, :6])
    assert not torch.allclose(before[:, 6:], after[:, 6:])


@pytest.mark.slow
def test_dropout_and_stochastic_depth_only_in_training():
    config = Config(
        vit=ViTConfig(image_size=32, dim=32, depth=3, num_heads=2, mlp_dim=64, drop_path=0.5),
        decoder=DecoderConfig(
            vocab_size=50, dim=32, features_dim=32, depth=2, num_heads=2, mlp_dim=64, dropout=0.2
        ),
    )
    torch.manual_seed(0)
    captioner = Captioner(config=config).init_weights()
    images, ids = torch.randn(2, 3, 32, 32), torch.randint(3, 50, (2, 6))
    captioner.eval()
    assert_close(captioner(images, ids), captioner(images, ids), rtol=0, atol=0)
    captioner.train()
    assert not torch.allclose(captioner.encode(images), captioner.encode(images))
    features = captioner.encode(images)
    assert not torch.allclose(captioner.decode(ids, features), captioner.decode(ids, features))
    probabilities = [block.drop_path.probability for block in captioner.vit.blocks]
    assert probabilities == pytest.approx([0.0, 0.25, 0.5])


def test_a_convolutional_stem_gives_the_same_patches_to_the_same_blocks():
    """(B, D, grid, grid) as the one large convolution does, whatever the width."""
    for dim, patch in ((32, 16), (20, 4), (8, 2)):
        config = ViTConfig(
            image_size=32, patch_size=patch, dim=dim, depth=1, num_heads=1, mlp_dim=8, stem="conv"
        )
        stem = ConvStem(config=config)
        images = torch.randn(3, 3, 32, 32)
        patches = stem(images)
        assert patches.shape == (3, dim, 32 // patch, 32 // patch)
        assert_close(stem(images[:1]), patches[:1])
        names = set(ViT(config=config).state_dict()) ^ set(
            ViT(config=replace(config, stem="patch")).state_dict()
        )
        assert all(name.startswith("patch_embed.") for name in names)


class Grid(torch.nn.Module):
    """(B, 3, S, S) → (B, 16, D): an encoder that shares nothing with the ViT."""

    def __init__(self, dim: int):
        super().__init__()
        self.embed = torch.nn.Linear(3, dim)

    def forward(self, images):
        return self.embed(torch.nn.functional.adaptive_avg_pool2d(images, 4).flatten(2).mT)


def test_an_encoder_need_not_be_a_vit(tmp_path):
    captioner = smile.load(make_run(tmp_path))
    captioner.vit = Grid(captioner.config.decoder.features_dim)
    captioner.double()  # the pixels follow
    pixels = torch.rand(2, *captioner.transform(ramp(20)).shape)
    assert len(captioner.describe(pixels, num_beams=2)) == 2
    assert captioner.to("meta").device.type == "meta"


def test_drop_path_keeps_the_mean_and_drops_whole_samples():
    torch.manual_seed(0)
    branch = DropPath(probability=0.25).train()(torch.ones(4000, 2, 3))
    assert branch.mean().item() == pytest.approx(1.0, abs=0.05)
    per_sample = branch.flatten(1)
    assert (per_sample == per_sample[:, :1]).all()
    assert per_sample.unique().tolist() == pytest.approx([0.0, 1 / 0.75])


def test_wrong_sizes_are_named(golden):
    with pytest.raises(ValueError, match=r"expected \(B, 3, 64, 64\)"):
        golden.captioner.encode(torch.zeros(1, 3, 96, 96))
    with pytest.raises(ValueError, match="65 tokens, but the decoder has 64"):
        golden.captioner.decode(torch.ones(1, 65, dtype=torch.long), torch.zeros(1, 17, 48))
    features = golden.captioner.encode(golden.expected["image"][:1])
    cache = golden.captioner.new_cache(features, max_length=9)
    golden.captioner.decode(torch.ones(1, 4, dtype=torch.long), None, cache=cache)
    with pytest.raises(ValueError, match="2 words a row after the 4 in the cache; expected one"):
        golden.captioner.decode(torch.ones(1, 2, dtype=torch.long), None, cache=cache)
    config = copy.deepcopy(golden.captioner.config)
    object.__setattr__(config.decoder, "features_dim", 7)
    with pytest.raises(ValueError, match=r"features_dim 7 is not vit\.dim 48"):
        Captioner(config=config)
