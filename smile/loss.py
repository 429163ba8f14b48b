"""Losses for captioning: MLE, SMILE and the paper's variants (Yue et al. 2023, arXiv 2306.13460).

MLE's softmax runs over the whole vocabulary: a caption that says "a dog" teaches the model that
"small", "brown" and "running" were all wrong after "a". SMILE's softmax runs over the words of that
caption only. Words that the caption did not use are neither rewarded nor punished, so the model may
add detail. The caption's words are still rewarded, so it may not leave detail out: the loss is
"semipermeable".

    target caption    a   dog  chases  a   ball  [SEP]           N = 6 positions
    its words         {a, dog, chases, ball, [SEP]}              repeated ones counted once, no pad

                      whole vocabulary (V columns)
    position          a  dog chases ball [SEP] │ cat red small …
    1   → a           ■   ·    ·     ·    ·    │  ·   ·    ·       first token: all of them (MLE)
    2   → dog         ·   ■    ·     ·    ·    │                   after it: only the columns
    3   → chases      ·   ·    ■     ·    ·    │    no gradient    left of the bar
    …                                          │
    6   → [SEP]       ·   ·    ·     ·    ■    │

The full softmax in the first row ("first-token MLE", on by default) teaches how a caption starts:
without it, words outside the caption could gain probability there.

Every loss takes an `end_id`, the id of `[SEP]`, for Selective EOS Supervision (Yue et al. 2024,
arXiv 2402.14545): where the label is not `[SEP]`, `[SEP]` is taken out of the softmax, so nothing
teaches the model to continue where it could have stopped. Where the label is `[SEP]`, nothing
changes.

The functions here take any language model's `(logits, labels)` and read like their definitions.
Training computes the same numbers faster, in `smile/training/head_loss.py`.
"""

from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor

IGNORE = -100  # the label of positions that are not predicted: padding and the prompt


def mle_loss(
    logits: Tensor,
    labels: Tensor,
    *,
    label_smoothing: float = 0.0,
    end_id: int | None = None,
    reduction: str = "mean",
) -> Tensor:
    """Maximum likelihood: cross entropy over the whole vocabulary (the paper's equation 1).

    Args:
        logits: (B, N, V), any float type; `logits[:, i]` predicts `labels[:, i]`.
        labels: (B, N) token ids, -100 where nothing is to be predicted.
        label_smoothing: share of the target spread over all words; BLIP uses 0.1.
        end_id: the end token, for Selective EOS Supervision; None leaves it in every softmax.
        reduction: "mean" over all predicted tokens, or their "sum".
    """
    logits, labels = logits.flatten(0, 1).float(), labels.flatten()
    cross_entropy = partial(F.cross_entropy, ignore_index=IGNORE, label_smoothing=label_smoothing)
    if end_id is None:
        return cross_entropy(logits, labels, reduction=reduction)
    ends = labels == end_id
    at_end = cross_entropy(logits[ends], labels[ends], reduction="sum")
    # Elsewhere the vocabulary has no end token: the ids after it move down by one.
    logits, labels = logits[~ends], labels[~ends]
    logits = torch.cat([logits[:, :end_id], logits[:, end_id + 1 :]], dim=1)
    labels = labels - (labels > end_id).long()
    loss = at_end + cross_entropy(logits, labels, reduction="sum")
    return loss / (ends.sum() + (labels != IGNORE).sum()) if reduction == "mean" else loss


def smile_loss(
    logits: Tensor,
    labels: Tensor,
    *,
    first_token_mle: bool = True,
    end_id: int | None = None,
    reduction: str = "mean",
) -> Tensor:
    """SMILE: cross entropy over the words of each caption only (the paper's equation 2).

    For any language model: give it logits already aligned with their labels (for a decoder-only
    model that is `logits[:, :-1], labels[:, 1:]`).

    Args:
        logits: (B, N, V), any float type; `logits[:, i]` predicts `labels[:, i]`.
        labels: (B, N) token ids, -100 where nothing is to be predicted.
        first_token_mle: the first predicted token of each caption uses the whole vocabulary.
        end_id: the end token, for Selective EOS Supervision; None leaves it in every subset.
        reduction: "mean" over all predicted tokens, or their "sum".
    """
    allowed = _words_of(labels, logits.size(2))[:, None, :].expand_as(logits)
    if first_token_mle:
        allowed = allowed | first_token(labels)[:, :, None]
    return _masked_cross_entropy(logits, labels, allowed, end_id=end_id, reduction=reduction)


def reverse_loss(
    logits: Tensor,
    labels: Tensor,
    *,
    first_token_mle: bool = True,
    end_id: int | None = None,
    pad_id: int = 0,
    reduction: str = "mean",
) -> Tensor:
    """The "reverse" subset: the label and every word that is not in the caption (an ablation).

    As in the authors' code, `pad_id` counts as one of the caption's words if padding follows the
    caption. The other arguments are those of `smile_loss`.
    """
    words = _words_of(labels, logits.size(2))
    words[:, pad_id] |= (labels[:, -1] == IGNORE) & (labels != IGNORE).any(dim=1)
    allowed = ~words[:, None, :].expand_as(logits)
    if first_token_mle:
        allowed = allowed | first_token(labels)[:, :, None]
    return _masked_cross_entropy(logits, labels, allowed, end_id=end_id, reduction=reduction)


def random_loss(
    logits: Tensor,
    labels: Tensor,
    *,
    num_random: int = 10,
    first_token_mle: bool = True,
    end_id: int | None = None,
    pad_id: int = 0,
    reduction: str = "mean",
) -> Tensor:
    """Random subset: at each position the label and `num_random` random words (an ablation).

    Ids are sampled at each call, with replacement, from torch's global generator. A repeated id
    counts once, a sampled `pad_id` not at all. The other arguments are those of `smile_loss`.
    """
    sampled = torch.randint(logits.size(2), (*labels.shape, num_random), device=logits.device)
    allowed = torch.zeros_like(logits, dtype=torch.bool).scatter_(2, sampled, True)
    allowed[:, :, pad_id] = False
    if first_token_mle:
        allowed = allowed | first_token(labels)[:, :, None]
    return _masked_cross_entropy(logits, labels, allowed, end_id=end_id, reduction=reduction)


def _words_of(labels: Tensor, vocab_size: int) -> Tensor:
    """(B, N) labels → (B, V), True at the tokens that occur in each row."""
    words = torch.zeros(labels.size(0), vocab_size, dtype=torch.bool, device=labels.device)
    rows, columns = (labels != IGNORE).nonzero(as_tuple=True)
    words[rows, labels[rows, columns]] = True
    return words


def first_token(labels: Tensor) -> Tensor:
    """(B, N) labels → (B, N), True at the first predicted position of each row."""
    predicted = labels != IGNORE
    return predicted & (predicted.cumsum(dim=1) == 1)


def _masked_cross_entropy(
    logits: Tensor, labels: Tensor, allowed: Tensor, *, end_id: int | None, reduction: str
) -> Tensor:
    """Cross entropy over the `allowed` (B, N, V) tokens and the label itself, in float32.

    With `end_id`, the end token is allowed only where it is the label.

    The mask is -inf in float32: the -1e9 of the authors' code overflows in float16. Positions that
    are not predicted keep all tokens, so that their gradient is finite; their loss is dropped.
    """
    predicted = labels != IGNORE
    targets = labels.masked_fill(~predicted, 0)
    if end_id is not None:
        allowed = allowed.clone()
        allowed[:, :, end_id] = False
    allowed = (allowed | ~predicted[:, :, None]).scatter(2, targets[:, :, None], True)
    return mle_loss(
        logits.float().masked_fill(~allowed, float("-inf")), labels, reduction=reduction
    )
