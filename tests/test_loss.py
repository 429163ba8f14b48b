"""The losses against hand computation, brute force and each other."""

import math

import pytest
import torch
import torch.nn.functional as F
from torch.testing import assert_close
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from smile.loss import IGNORE, mle_loss, random_loss, reverse_loss, smile_loss
from smile.training.head_loss import caption_loss


def brute_force(logits, labels, allowed_words, *, first_token_mle=True, end=None, smoothing=0.0):
    """Cross entropy position by position over explicit sets of words.

    `end` is left out of the set wherever it is not the label.
    """
    losses = []
    for row_logits, row in zip(logits, labels.tolist(), strict=True):
        caption = [label for label in row if label != IGNORE]
        seen = 0
        for scores, label in zip(row_logits, row, strict=True):
            if label == IGNORE:
                continue
            everything = set(range(logits.size(2)))
            first = first_token_mle and seen == 0
            words = everything if first else allowed_words(set(caption), label, everything)
            words = (words | {label}) - ({end} if label != end else set())
            total = math.log(sum(math.exp(scores[word]) for word in words))
            nll = {word: total - scores[word].item() for word in words}
            spread = sum(nll.values()) / len(words)
            losses.append((1 - smoothing) * nll[label] + smoothing * spread)
            seen += 1
    return sum(losses) / len(losses)


@pytest.fixture
def batch():
    """Captions with a repeated word, of one token, behind a prompt, and of padding only."""
    generator = torch.Generator().manual_seed(0)
    labels = torch.tensor(
        [
            [5, 7, 5, 9, 3],
            [3, IGNORE, IGNORE, IGNORE, IGNORE],
            [IGNORE, IGNORE, 8, 6, 3],
            [IGNORE, IGNORE, IGNORE, IGNORE, IGNORE],
        ]
    )
    states = torch.randn(4, 5, 6, generator=generator, dtype=torch.float64)
    weight = torch.randn(11, 6, generator=generator, dtype=torch.float64)
    bias = torch.randn(11, generator=generator, dtype=torch.float64)
    return states, labels, weight, bias


def test_smile_by_hand():
    """Caption "1 2" of a three-word vocabulary, logits chosen so that the sums are easy."""
    log = math.log
    logits = torch.tensor([[[log(2), log(3), log(5)], [log(7), log(1), log(4)]]])
    labels = torch.tensor([[1, 2]])
    # First token: 3 of 2 + 3 + 5. Second: only words 1 and 2 compete, 4 of 1 + 4.
    expected = (-log(3 / 10) - log(4 / 5)) / 2
    assert smile_loss(logits, labels).item() == pytest.approx(expected)
    # Without first-token MLE the first also sees words 1 and 2 only: 3 of 3 + 5.
    expected = (-log(3 / 8) - log(4 / 5)) / 2
    assert smile_loss(logits, labels, first_token_mle=False).item() == pytest.approx(expected)


@pytest.mark.parametrize("first_token_mle", [True, False])
def test_smile_equals_brute_force(batch, first_token_mle):
    states, labels, weight, bias = batch
    logits = F.linear(states, weight, bias)
    expected = brute_force(
        logits, labels, lambda caption, label, _: caption, first_token_mle=first_token_mle
    )
    loss = smile_loss(logits, labels, first_token_mle=first_token_mle)
    assert loss.item() == pytest.approx(expected, rel=1e-5)


def test_reverse_equals_brute_force(batch):
    states, labels, weight, bias = batch
    labels = labels[[0, 2]]  # without padding behind them, whose own rule the golden values test
    logits = F.linear(states[[0, 2]], weight, bias)
    expected = brute_force(
        logits, labels, lambda caption, label, everything: everything - caption | {label}
    )
    assert reverse_loss(logits, labels).item() == pytest.approx(expected, rel=1e-5)


def test_random_draws_the_label_and_others(batch):
    """With one random word, each position's loss is that of a choice between two words or one."""
    states, labels, weight, bias = batch
    logits = F.linear(states[:1], weight, bias)
    row = labels[:1, :1]
    scores = logits[0, 0]
    possible = {
        round(math.log1p(math.exp(scores[other] - scores[row.item()])), 5)
        for other in range(1, 11)
        if other != row.item()
    } | {0.0}
    torch.manual_seed(0)
    drawn = {
        round(random_loss(logits[:, :1], row, num_random=1, first_token_mle=False).item(), 5)
        for _ in range(300)
    }
    assert drawn == possible  # every word but the pad turns up, and nothing else


@pytest.mark.parametrize("first_token_mle", [True, False])
def test_states_and_logits_give_the_same_loss_and_gradients(batch, first_token_mle):
    states, labels, weight, bias = batch
    results = []
    for from_states in (True, False):
        leaves = [tensor.clone().requires_grad_() for tensor in (states, weight, bias)]
        s, w, b = leaves
        if from_states:
            loss = caption_loss(s, labels, weight=w, bias=b, first_token_mle=first_token_mle)
        else:
            loss = smile_loss(F.linear(s, w, b), labels, first_token_mle=first_token_mle)
        results.append([loss, *torch.autograd.grad(loss, leaves)])
    for ours, plain in zip(*results, strict=True):
        assert_close(ours, plain, rtol=1e-5, atol=1e-7, check_dtype=False)
        assert ours.isfinite().all()


def test_gradient_never_punishes_an_unsaid_word(batch):
    """After the first token, SMILE's gradient at every word outside the caption is exactly zero."""
    states, labels, weight, bias = batch
    logits = F.linear(states, weight, bias).requires_grad_()
    smile_loss(logits, labels).backward()
    for row, gradient in zip(labels.tolist(), logits.grad, strict=True):
        caption = [label for label in row if label != IGNORE]
        unsaid = [word for word in range(11) if word not in caption]
        first = next((i for i, label in enumerate(row) if label != IGNORE), None)
        later = [i for i in range(5) if i != first]
        assert (gradient[later][:, unsaid] == 0).all()
    assert (logits.grad[0, 0] != 0).all()  # the first token: every word of the vocabulary


def test_a_repeated_word_counts_once():
    """Scores of a caption "5 7 5" depend on two words: repeating 5 adds no mass to the softmax."""
    logits = torch.zeros(1, 3, 11)
    labels = torch.tensor([[5, 7, 5]])
    assert smile_loss(logits, labels, first_token_mle=False).item() == pytest.approx(math.log(2))
    weight, bias, states = torch.zeros(11, 4), torch.zeros(11), torch.zeros(1, 3, 4)
    loss = caption_loss(states, labels, weight=weight, bias=bias, first_token_mle=False)
    assert loss.item() == pytest.approx(math.log(2))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_finite_and_close(batch, dtype):
    states, labels, weight, bias = (tensor.float() for tensor in batch)
    labels = labels.long()
    expected = caption_loss(states, labels, weight=weight, bias=bias)
    halves = [tensor.to(dtype).requires_grad_() for tensor in (states, weight, bias)]
    s, w, b = halves
    for loss in (
        caption_loss(s, labels, weight=w, bias=b),
        smile_loss(F.linear(s, w, b), labels),
    ):
        assert loss.item() == pytest.approx(expected.item(), rel=0.03)
        assert all(g.isfinite().all() for g in torch.autograd.grad(loss, halves))


END = 3  # the last token of every caption of `batch`
SUBSETS = {
    "smile": lambda caption, label, everything: caption,
    "mle": lambda caption, label, everything: everything,
    "reverse": lambda caption, label, everything: everything - caption | {label},
}


@pytest.mark.parametrize("first_token_mle", [True, False])
@pytest.mark.parametrize("objective", ["smile", "mle", "reverse"])
def test_selective_end_equals_brute_force(batch, objective, first_token_mle):
    """Before the end no softmax holds it, at the end all is as usual; from states too."""
    states, labels, weight, bias = batch
    # Without padding behind captions, whose own rule of "reverse" the golden values test.
    rows = [0, 2]
    states, labels = states[rows], labels[rows]
    logits = F.linear(states, weight, bias)
    options = {"first_token_mle": first_token_mle}
    expected = brute_force(logits, labels, SUBSETS[objective], end=END, **options)
    usual = brute_force(logits, labels, SUBSETS[objective], **options)
    assert abs(expected - usual) > 1e-3 or (objective == "reverse" and not first_token_mle)
    as_defined = {
        "smile": lambda: smile_loss(logits, labels, end_id=END, **options),
        "mle": lambda: mle_loss(logits, labels, end_id=END),
        "reverse": lambda: reverse_loss(logits, labels, end_id=END, **options),
    }[objective]()
    from_states = caption_loss(
        states, labels, weight=weight, bias=bias, objective=objective, end_id=END, **options
    )
    assert as_defined.item() == pytest.approx(expected, rel=1e-5)
    assert from_states.item() == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_selective_end_takes_no_smoothing_before_the_end(batch, smoothing):
    """Value and gradients, of the definition and of the shorter way, with padding too."""
    states, labels, weight, bias = batch
    logits = F.linear(states, weight, bias)
    expected = brute_force(logits, labels, SUBSETS["mle"], end=END, smoothing=smoothing)
    options = {"label_smoothing": smoothing, "end_id": END}
    results = []
    for from_states in (True, False):
        s, w, b = leaves = [tensor.clone().requires_grad_() for tensor in (states, weight, bias)]
        if from_states:
            loss = caption_loss(s, labels, weight=w, bias=b, objective="mle", **options)
        else:
            loss = mle_loss(F.linear(s, w, b), labels, **options)
        assert loss.item() == pytest.approx(expected, rel=1e-5)
        results.append(torch.autograd.grad(loss, leaves))
    for ours, plain in zip(*results, strict=True):
        assert_close(ours, plain, rtol=1e-5, atol=1e-6, check_dtype=False)


@pytest.mark.parametrize("objective", ["smile", "mle", "reverse", "random"])
def test_selective_end_pushes_the_end_down_nowhere(batch, objective):
    """No caption's gradient lowers the end's score before the end; with a share of MLE too."""
    states, labels, weight, bias = batch
    bias = bias.clone().requires_grad_()
    before_the_end = labels.masked_fill(labels == END, IGNORE)
    settings = {"objective": objective, "mle_weight": 0.25, "label_smoothing": 0.1}
    loss = caption_loss(states, before_the_end, weight=weight, bias=bias, end_id=END, **settings)
    (gradient,) = torch.autograd.grad(loss, bias)
    assert gradient[END] == 0 and gradient.isfinite().all()


@pytest.mark.parametrize("first_token_mle", [True, False])
def test_selective_end_from_states_has_smiles_gradients(batch, first_token_mle):
    states, labels, weight, bias = batch
    options = {"first_token_mle": first_token_mle, "end_id": END}
    results = []
    for from_states in (True, False):
        s, w, b = leaves = [tensor.clone().requires_grad_() for tensor in (states, weight, bias)]
        if from_states:
            loss = caption_loss(s, labels, weight=w, bias=b, **options)
        else:
            loss = smile_loss(F.linear(s, w, b), labels, **options)
        results.append([loss, *torch.autograd.grad(loss, leaves)])
    for ours, plain in zip(*results, strict=True):
        assert_close(ours, plain, rtol=1e-5, atol=1e-7, check_dtype=False)


def test_mix_is_the_weighted_sum(batch):
    states, labels, weight, bias = batch
    head = {"weight": weight, "bias": bias}
    smile = caption_loss(states, labels, **head)
    mle = caption_loss(states, labels, **head, objective="mle", label_smoothing=0.1)
    mixed = caption_loss(states, labels, **head, mle_weight=0.01, label_smoothing=0.1)
    assert_close(mixed, 0.01 * mle + 0.99 * smile)


@pytest.mark.parametrize("objective", ["smile", "mle", "reverse"])
def test_sum_over_tokens_is_their_number_times_the_mean(batch, objective):
    states, labels, weight, bias = batch
    settings = {"weight": weight, "bias": bias, "objective": objective, "mle_weight": 0.25}
    mean = caption_loss(states, labels, **settings)
    total = caption_loss(states, labels, **settings, reduction="sum")
    assert_close(total, mean * 9)


def test_mle_is_cross_entropy(batch):
    states, labels, weight, bias = batch
    logits = F.linear(states, weight, bias)
    expected = brute_force(logits, labels, lambda caption, label, everything: everything)
    assert mle_loss(logits, labels).item() == pytest.approx(expected, rel=1e-5)


def test_unknown_objective_is_refused(batch):
    states, labels, weight, bias = batch
    with pytest.raises(ValueError, match="'simle' is none of smile, mle, reverse, random"):
        caption_loss(states, labels, weight=weight, bias=bias, objective="simle")


@pytest.mark.parametrize("objective", ["mle", "reverse", "random", "smile"])
def test_blocks_change_nothing(batch, objective, monkeypatch):
    """Scored a few positions at a time: the loss and all gradients of one piece, in its dtype."""
    states, labels, weight, bias = batch
    states, labels = states.repeat(3, 1, 1), labels.repeat(3, 1)
    settings = {"objective": objective, "mle_weight": 0.25, "label_smoothing": 0.1}
    results = []
    for block in (1000, 5, 4):
        monkeypatch.setattr("smile.training.head_loss.BLOCK", block)
        torch.manual_seed(0)
        leaves = [tensor.clone().requires_grad_() for tensor in (states, weight, bias)]
        s, w, b = leaves
        loss = caption_loss(s, labels, weight=w, bias=b, **settings)
        results.append([loss, *torch.autograd.grad(loss, leaves)])
    for ours in results[1:]:
        for value, expected in zip(ours, results[0], strict=True):
            assert_close(value, expected)
    torch.manual_seed(0)
    with torch.inference_mode():  # as validation does, without a backward pass
        assert_close(caption_loss(states, labels, weight=weight, bias=bias, **settings), loss)


class Largest(TorchDispatchMode):
    """Notes the size of the largest tensor that anything makes."""

    def __init__(self):
        super().__init__()
        self.numel = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        result = function(*args, **(kwargs or {}))
        tensors = [t for t in tree_leaves(result) if isinstance(t, torch.Tensor)]
        self.numel = max([self.numel, *(t.untyped_storage().nbytes() // 4 for t in tensors)])
        return result


def test_mle_never_has_all_scores(monkeypatch):
    """Forward and backward, no tensor grows by a row of scores for each position."""
    states = torch.randn(1, 2048, 4, requires_grad=True)
    weight, bias = torch.randn(500, 4, requires_grad=True), torch.zeros(500)
    labels = torch.randint(500, (1, 2048))
    with Largest() as largest:
        caption_loss(states, labels, weight=weight, bias=bias, objective="mle").backward()
    assert 512 * 500 <= largest.numel < 2048 * 500 / 2


def test_mle_from_states_has_autograds_gradients(batch):
    states, labels, weight, bias = batch
    results = []
    for smoothing in (0.0, 0.1):
        for blockwise in (True, False):
            leaves = [tensor.clone().requires_grad_() for tensor in (states, weight, bias)]
            s, w, b = leaves
            if blockwise:
                loss = caption_loss(
                    s, labels, weight=w, bias=b, objective="mle", label_smoothing=smoothing
                )
            else:
                loss = mle_loss(F.linear(s, w, b), labels, label_smoothing=smoothing)
            results.append([loss, *torch.autograd.grad(3 * loss, leaves)])
    for ours, expected in (results[:2], results[2:]):
        for value, other in zip(ours, expected, strict=True):
            assert_close(value, other, rtol=1e-5, atol=1e-6, check_dtype=False)


@pytest.mark.parametrize("objective", ["smile", "mle"])
def test_autocast_gives_the_gradients_of_full_precision(batch, objective):
    states, labels, weight, bias = (tensor.float() for tensor in batch)
    labels = labels.long()
    results = []
    for enabled in (False, True):
        leaves = [tensor.clone().requires_grad_() for tensor in (states, weight, bias)]
        s, w, b = leaves
        with torch.autocast("cpu", torch.bfloat16, enabled=enabled):
            loss = caption_loss(s, labels, weight=w, bias=b, objective=objective)
        assert loss.dtype == torch.float32
        results.append([loss, *torch.autograd.grad(loss, leaves)])
    for full, short in zip(*results, strict=True):
        assert short.dtype == torch.float32
        assert_close(short, full, rtol=0.05, atol=0.02)
