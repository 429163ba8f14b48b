"""Outputs, losses, gradients and searches equal to the reference code's on its own checkpoints."""

import pytest
import torch
from golden_fixtures import load_golden
from torch.testing import assert_close

from smile.config import GenerateConfig
from smile.loss import mle_loss, reverse_loss, smile_loss
from smile.model.generate import generate
from smile.training.head_loss import caption_loss

pytestmark = pytest.mark.parametrize("golden", ["a", "b"], indirect=True)


@pytest.fixture
def golden(request):
    return load_golden(request.param)


def test_encoder_and_logits(golden):
    features = golden.captioner.encode(golden.expected["image"])
    assert_close(features, golden.expected["image_embeds"], rtol=1e-4, atol=1e-5)
    ids = golden.expected["ids"]
    logits = golden.captioner.logits(golden.captioner.decode(ids, features))
    words = ids != 0  # what stands at padding is nobody's concern
    assert_close(logits[words], golden.expected["logits"][words], rtol=1e-4, atol=1e-5)


def test_losses_from_logits(golden):
    labels = golden.labels
    logits = golden.captioner.logits(golden.states())
    ours = {
        "mle": mle_loss(logits, labels),
        "mle_label_smoothing_0_1": mle_loss(logits, labels, label_smoothing=0.1),
        "smile": smile_loss(logits, labels),
        "smile_no_first_token": smile_loss(logits, labels, first_token_mle=False),
        "reverse": reverse_loss(logits, labels),
    }
    ours = {name: loss.item() for name, loss in ours.items()}
    assert ours == pytest.approx(golden.expected["losses"], rel=1e-5)


@pytest.mark.parametrize(
    ("name", "settings"),
    [
        ("mle", {"objective": "mle"}),
        ("mle_label_smoothing_0_1", {"objective": "mle", "label_smoothing": 0.1}),
        ("smile", {"objective": "smile"}),
        ("smile_no_first_token", {"objective": "smile", "first_token_mle": False}),
        ("reverse", {"objective": "reverse"}),
    ],
)
def test_training_loss_and_gradients(golden, name, settings):
    decoder = golden.captioner.decoder
    loss = caption_loss(
        golden.states(),
        golden.labels,
        weight=decoder.word_embed.weight,
        bias=decoder.head_bias,
        **settings,
    )
    assert loss.item() == pytest.approx(golden.expected["losses"][name], rel=1e-5)
    loss.backward()
    if name in golden.expected["grads"]:
        ours = golden.gradients()
        for key, gradient in golden.expected["grads"][name].items():
            assert_close(
                ours[key], gradient, rtol=1e-4, atol=1e-6, msg=lambda m, k=key: f"{k}: {m}"
            )


@pytest.mark.slow
def test_searches(golden):
    """Greedy and beam search find the reference's sequences, with its scores."""
    sizes = golden.sizes
    with torch.inference_mode():
        features = golden.captioner.encode(golden.expected["image"])
    for setting, expected in golden.expected["generate"].items():
        names = ("num_beams", "max_length", "min_length", "repetition_penalty")
        found = generate(
            golden.captioner,
            features,
            expected["sequences"][:, : sizes.prompt_length],
            sep_id=sizes.sep,
            options=GenerateConfig(**{name: expected[name] for name in names}),
        )
        for row, [hypothesis] in zip(expected["sequences"].tolist(), found, strict=True):
            ids = [token for token in row[sizes.prompt_length :] if token != sizes.pad]
            ended = ids[-1] == sizes.sep
            assert hypothesis.ids == (ids[:-1] if ended else ids), setting
        if expected["score"] is not None:
            scores = [hypothesis.score for [hypothesis] in found]
            assert scores == pytest.approx(expected["score"].tolist(), abs=1e-4), setting
