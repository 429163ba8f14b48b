"""Retrieval by the captioner: pair by pair, rank by rank, the plain way."""

import numpy as np
import pytest
import torch
from PIL import Image

from smile.captioning.packed import can_pack, pack
from smile.config import Config, DataConfig, DecoderConfig, ViTConfig
from smile.metrics import retrieval
from smile.metrics.retrieval import log_likelihoods, ranks, recall
from smile.model.captioner import Captioner
from smile.model.tokenizer import Tokenizer

CAPTIONS = [
    "a small red circle to the left of two large squares",
    "a small red circle to the left of a star",
    "a small red circle",  # begins as others do, and ends there
    "a small red circle",  # said twice
    "",
    "two stars",
    "a very large green heart above a tiny blue cross in the corner of the picture today",
]


@pytest.fixture(params=["a picture of ", ""], ids=["prompt", "no prompt"])
def judge(request):
    tokenizer = Tokenizer.train(CAPTIONS, vocab_size=200)
    config = Config(
        vit=ViTConfig(image_size=32, dim=32, depth=1, num_heads=2, mlp_dim=64),
        decoder=DecoderConfig(
            vocab_size=tokenizer.vocab_size,
            dim=32,
            features_dim=32,
            depth=2,
            num_heads=2,
            mlp_dim=64,
            max_positions=32,
        ),
        data=DataConfig(prompt=request.param),
    )
    torch.manual_seed(0)
    judge = Captioner(config=config, tokenizer=tokenizer).init_weights().eval()
    for parameter in judge.parameters():  # sharper than at the start, so pairs differ
        parameter.data.mul_(1.5).add_(torch.randn_like(parameter) * 0.05)
    return judge


@pytest.fixture
def images():
    rng = np.random.default_rng(0)
    return [
        Image.fromarray(rng.integers(0, 256, (32, 32, 3), dtype=np.uint8) // (i + 1))
        for i in range(5)
    ]


@torch.inference_mode()
def one_by_one(judge, images, captions) -> np.ndarray:
    prompt = judge.config.data.prompt
    start = len(judge.tokenizer.prompt_ids(prompt))
    limit = judge.config.decoder.max_positions + 1
    scores = np.empty((len(captions), len(images)))
    for m, image in enumerate(images):
        features = judge.encode(judge.transform(image)[None])
        for n, caption in enumerate(captions):
            ids = judge.tokenizer.encode(caption, prompt=prompt, max_tokens=limit)
            logits = judge.logits(judge.decode(torch.tensor([ids[:-1]]), features))[0]
            logprobs = logits.log_softmax(dim=-1)
            said = [logprobs[t - 1, ids[t]].item() for t in range(start, len(ids))]
            scores[n, m] = sum(said)
    return scores


@pytest.mark.slow
@pytest.mark.parametrize(
    "blocks",
    [
        {},
        {"image_block": 2, "caption_block": 3},
        {"image_block": 1, "caption_block": 1},
        {"image_block": 5, "caption_block": 4},
    ],
)
def test_every_pair_as_if_scored_alone(judge, images, blocks, monkeypatch):
    if blocks.get("image_block") == 5:  # then the head scores one image at a time
        monkeypatch.setattr(retrieval, "MAX_LOGITS", 1)
    captions = [*CAPTIONS, " ".join(CAPTIONS)]  # the last one is longer than the decoder's 32
    found = log_likelihoods(judge, iter(images), captions, progress=False, **blocks)
    assert found.dtype == np.float32 and found.shape == (8, 5)
    expected = one_by_one(judge, images, captions)
    assert np.ptp(expected, axis=1).min() > 0.01  # images do matter
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-4)
    assert (found[2] == found[3]).all()


def test_a_packed_judge_says_the_same(judge, images):
    expected = log_likelihoods(judge, images, CAPTIONS, progress=False)
    if can_pack(judge):
        found = log_likelihoods(pack(judge), images, CAPTIONS, progress=False)
        np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-4)


def test_nothing_to_score(judge, images):
    assert log_likelihoods(judge, [], CAPTIONS, progress=False).shape == (7, 0)
    assert log_likelihoods(judge, images, [], progress=False).shape == (0, 5)


def test_ranks_equal_a_loop_with_ties():
    rng = np.random.default_rng(0)
    scores = rng.integers(0, 4, (60, 11)).astype(np.float32)  # few values, many ties
    target = rng.integers(0, 11, 60)
    found = ranks(scores, target)
    for n in range(60):
        # The mean place of the target over all orders in which the tied may stand.
        own = scores[n, target[n]]
        first = 1 + sum(score > own for score in scores[n])
        last = first + sum(score == own for score in scores[n]) - 1
        assert found[n] == (first + last) / 2
    for k in (1, 5, 10):
        assert recall(found, k).tolist() == [float(rank <= k) for rank in found]
    assert (found % 1 == 0.5).any()


def test_a_judge_that_cannot_tell_is_no_oracle():
    found = ranks(np.zeros((3, 9)), np.array([0, 4, 8]))
    assert found.tolist() == [5.0, 5.0, 5.0]
    assert recall(found, 1).sum() == 0
    assert recall(found, 5).sum() == 3
    with pytest.raises(ValueError, match="1 of 4 scores are NaN"):
        ranks(np.array([[0.0, np.nan], [0.0, 1.0]]), np.array([0, 1]))
