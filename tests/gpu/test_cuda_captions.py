"""Captions on CUDA: those of the CPU in float32, close to them in bfloat16."""

import copy
from itertools import chain

import pytest
import torch
from golden_fixtures import load_golden
from on_device import DEVICE, needs_device

from smile.config import Config, DecoderConfig, GenerateConfig, ViTConfig
from smile.model.captioner import Captioner
from smile.model.forbidden import Forbidden
from smile.model.generate import Hypothesis, generate
from smile.model.tokenizer import Tokenizer

pytestmark = needs_device
SEP, PROMPT, IMAGES = 102, [1, 7, 9], 6


def make_captioner() -> Captioner:
    """Random weights, with scores so far apart that no caption hangs on a rounding error."""
    vit = ViTConfig(image_size=64, patch_size=16, dim=192, depth=4, num_heads=3, mlp_dim=384)
    decoder = DecoderConfig(
        vocab_size=1000, dim=128, features_dim=192, depth=3, num_heads=2, mlp_dim=256
    )
    torch.manual_seed(0)
    captioner = Captioner(config=Config(vit=vit, decoder=decoder)).init_weights().eval()
    with torch.no_grad():
        captioner.decoder.head_norm.weight.mul_(6)
        captioner.vit.norm.weight.mul_(4)
    return captioner


@pytest.fixture(scope="module")
def captioner() -> Captioner:
    return make_captioner()


def describe(model: Captioner, images: torch.Tensor, **options) -> list[list[Hypothesis]]:
    """The hypotheses of each image, on the device and in the arithmetic of the model."""
    like = model.vit.class_token
    images = images.to(like.device, like.dtype)
    prompts = torch.tensor([PROMPT] * len(images), device=images.device)
    options = GenerateConfig(**{"min_length": 0, "max_length": 20} | options)
    forbidden = None
    if options.forbid:
        vocab = ["[PAD]", *(f"{'##' * (i % 2)}{i}" for i in range(1, 998))]
        vocab[1], vocab[SEP] = "[UNK]", "[SEP]"
        lengths = {"prompt_length": len(PROMPT), "max_length": options.max_length}
        forbidden = Forbidden(options.forbid, Tokenizer(vocab), **lengths)
    with torch.inference_mode():
        return generate(
            model,
            model.encode(images),
            prompts,
            sep_id=SEP,
            options=options,
            forbidden=forbidden,
        )


def make_images() -> torch.Tensor:
    return torch.randn(IMAGES, 3, 64, 64, generator=torch.Generator().manual_seed(1))


SEARCHES = {
    "greedy": {"num_beams": 1},
    "beam 3": {"num_beams": 3, "num_return": 3},
    "beam 3, to the end": {"num_beams": 3, "min_length": 20},
    "penalties": {"num_beams": 4, "repetition_penalty": 1.4, "no_repeat_ngram_size": 2},
    "sampling": {"top_p": 0.9, "num_return": 2},
    "forbidden words": {"num_beams": 3, "forbid": tuple(map(str, range(4, 400, 2)))},
    "sampling, forbidden words": {"top_k": 5, "forbid": tuple(map(str, range(4, 400, 2)))},
}


@pytest.mark.parametrize("name", SEARCHES)
def test_captions_in_float32_are_the_cpu_s(captioner, name):
    there = copy.deepcopy(captioner).to(DEVICE)
    expected = describe(captioner, make_images(), **SEARCHES[name])
    found = describe(there, make_images(), **SEARCHES[name])
    assert [[h.ids for h in image] for image in found] == [
        [h.ids for h in image] for image in expected
    ]
    for ours, theirs in zip(chain(*found), chain(*expected), strict=True):
        assert ours.logprobs == pytest.approx(theirs.logprobs, abs=1e-3)
        assert ours.score == pytest.approx(theirs.score, abs=1e-3)
    assert len({tuple(image[0].ids) for image in expected}) > 1


@pytest.mark.parametrize("name", ["a", "b"])
def test_the_reference_s_logits(name):
    golden = load_golden(name)
    expected = golden.expected
    there = golden.captioner.to(DEVICE)
    with torch.inference_mode():
        features = there.encode(expected["image"].to(DEVICE))
        logits = there.logits(there.decode(expected["ids"].to(DEVICE), features)).cpu()
    words = expected["ids"] != 0
    torch.testing.assert_close(logits[words], expected["logits"][words], rtol=1e-3, atol=1e-4)


def test_log_probabilities_in_bfloat16_are_close(captioner, note):
    """Of one and the same text: the searches may part where two words are about as likely."""
    there = copy.deepcopy(captioner).to(DEVICE, torch.bfloat16)
    ids = torch.randint(1000, (IMAGES, 12), generator=torch.Generator().manual_seed(2))

    def logprobs(model: Captioner) -> torch.Tensor:
        like = model.vit.class_token
        with torch.inference_mode():
            features = model.encode(make_images().to(like.device, like.dtype))
            states = model.decode(ids.to(like.device), features)
            return model.logits(states).float().log_softmax(dim=-1).cpu()

    exact, rounded = logprobs(captioner), logprobs(there)
    off = (rounded - exact).abs()
    note(f"bfloat16: log-probabilities {off.mean():.3f} off on average, {off.max():.3f} at most")
    assert off.mean() < 0.02 * exact.std() and off.max() < 0.3 * exact.std()
    found = describe(there, make_images(), num_beams=3)
    assert all(0 >= logprob > -30 for [best] in found for logprob in best.logprobs)


@pytest.mark.parametrize("name", ["greedy", "beam 3", "penalties"])
def test_a_batch_s_captions_are_each_image_s_own(captioner, name):
    """Images leave the batch one by one; those that stay go on as if alone."""
    there = copy.deepcopy(captioner).to(DEVICE)
    together = describe(there, make_images(), **SEARCHES[name])
    for number, image in enumerate(make_images()):
        [alone] = describe(there, image[None], **SEARCHES[name])
        assert [h.ids for h in alone] == [h.ids for h in together[number]]
