"""Losses for captioning: MLE, SMILE and the paper's variants (Yue et al. 2023, arXiv 2306.13460).

MLE's softmax runs over the whole vocabulary: a caption that says "a dog" teaches the model that
"small", "brown" and "running" were all wrong after "a". SMILE's runs only over the words of that
very caption, so richer words it did not use are neither rewarded nor punished: more detail may get
in, less may not ("semipermeable").

    target caption    a   dog  chases  a   ball  [SEP]           N = 6 positions
    its words         {a, dog, chases, ball, [SEP]}              repeated ones counted once, no pad

                      whole vocabulary (V columns)
    position          a  dog chases ball [SEP] │ cat red small …
    1   → a           ■   ·    ·     ·    ·    │  ·   ·    ·       first token: all of them (MLE)
    2   → dog         ·   ■    ·     ·    ·    │                   after it: only the columns
    3   → chases      ·   ·    ■     ·    ·    │    no gradient    left of the bar
    …                                          │
    6   → [SEP]       ·   ·    ·     ·    ■    │

Without the first row's full softmax nothing would ever say how a caption starts, and words outside
every caption could float up there ("first-token MLE", on by default).

Two ways to the same number stand here. `smile_loss`, `reverse_loss` and `random_loss` take any
language model's `(logits, labels)` and read like their definitions. `caption_loss` takes the states
before the head and scores only the N words that matter: (B, N, N) scores instead of (B, N, V).
What does need all V scores of a position gets them a block of positions at a time.
"""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.checkpoint import checkpoint

IGNORE = -100  # the label of positions that are not predicted: padding and the prompt
BLOCK = 512  # positions scored by the whole vocabulary at a time: 63 MB of scores for BLIP's


def mle_loss(
    logits: Tensor, labels: Tensor, *, label_smoothing: float = 0.0, reduction: str = "mean"
) -> Tensor:
    """Maximum likelihood: cross entropy over the whole vocabulary (the paper's equation 1).

    Args:
        logits: (B, N, V), any float type; `logits[:, i]` predicts `labels[:, i]`.
        labels: (B, N) token ids, -100 where nothing is to be predicted.
        label_smoothing: share of the target spread over all words; BLIP uses 0.1.
        reduction: "mean" over all predicted tokens, or their "sum".
    """
    return F.cross_entropy(
        logits.flatten(0, 1).float(),
        labels.flatten(),
        ignore_index=IGNORE,
        label_smoothing=label_smoothing,
        reduction=reduction,
    )


def smile_loss(
    logits: Tensor, labels: Tensor, *, first_token_mle: bool = True, reduction: str = "mean"
) -> Tensor:
    """SMILE: cross entropy over the words of each caption only (the paper's equation 2).

    For any language model: give it logits already aligned with their labels (for a decoder-only
    model that is `logits[:, :-1], labels[:, 1:]`).

    Args:
        logits: (B, N, V), any float type; `logits[:, i]` predicts `labels[:, i]`.
        labels: (B, N) token ids, -100 where nothing is to be predicted.
        first_token_mle: the first predicted token of each caption uses the whole vocabulary.
        reduction: "mean" over all predicted tokens, or their "sum".
    """
    allowed = _words_of(labels, logits.size(2))[:, None, :].expand_as(logits)
    if first_token_mle:
        allowed = allowed | _first_token(labels)[:, :, None]
    return _masked_cross_entropy(logits, labels, allowed, reduction)


def reverse_loss(
    logits: Tensor,
    labels: Tensor,
    *,
    first_token_mle: bool = True,
    pad_id: int = 0,
    reduction: str = "mean",
) -> Tensor:
    """The "reverse" subset: every word *except* the caption's others (the paper's ablation).

    As in the reference, `pad_id` counts as one of the caption's words where the caption is followed
    by padding. The other arguments are those of `smile_loss`.
    """
    words = _words_of(labels, logits.size(2))
    words[:, pad_id] |= (labels[:, -1] == IGNORE) & (labels != IGNORE).any(dim=1)
    allowed = ~words[:, None, :].expand_as(logits)
    if first_token_mle:
        allowed = allowed | _first_token(labels)[:, :, None]
    return _masked_cross_entropy(logits, labels, allowed, reduction)


def random_loss(
    logits: Tensor,
    labels: Tensor,
    *,
    num_random: int = 10,
    first_token_mle: bool = True,
    pad_id: int = 0,
    reduction: str = "mean",
) -> Tensor:
    """Random subset: at each position the label and `num_random` random words (the ablation).

    Ids are drawn anew at each call, with replacement, from torch's global generator; one drawn
    twice counts once, and `pad_id` never counts. The other arguments are those of `smile_loss`.
    """
    drawn = torch.randint(logits.size(2), (*labels.shape, num_random), device=logits.device)
    allowed = torch.zeros_like(logits, dtype=torch.bool).scatter_(2, drawn, True)
    allowed[:, :, pad_id] = False
    if first_token_mle:
        allowed = allowed | _first_token(labels)[:, :, None]
    return _masked_cross_entropy(logits, labels, allowed, reduction)


def caption_loss(
    states: Tensor,
    labels: Tensor,
    *,
    weight: Tensor,
    bias: Tensor,
    objective: str = "smile",
    mle_weight: float = 0.0,
    label_smoothing: float = 0.0,
    first_token_mle: bool = True,
    num_random: int = 10,
    reduction: str = "mean",
) -> Tensor:
    """The training objective, computed from states and head without needless scores.

    Args:
        states: (B, N, D), the decoder's output at the positions that predict `labels`.
        labels: (B, N) token ids, -100 where nothing is to be predicted.
        weight, bias: the head, (V, D) and (V,).
        objective: "smile", "mle", "reverse" or "random".
        mle_weight: λ in λ·MLE + (1 - λ)·objective; 0 leaves MLE out.
        label_smoothing: of the MLE part.
        first_token_mle, num_random, reduction: as in `smile_loss` and `random_loss`.

    Raises:
        ValueError: if `objective` is none of the four.
    """
    if objective not in ("smile", "mle", "reverse", "random"):
        raise ValueError(f"objective {objective!r} is none of smile, mle, reverse, random")
    if objective == "mle":
        mle_weight = 1.0
    seen = labels != IGNORE
    loss = states.new_zeros((), dtype=torch.float32)
    if mle_weight > 0:
        mle = _BlockwiseMLE.apply(  # padding goes no further than this
            states[seen], labels[seen], weight, bias, label_smoothing, torch.is_grad_enabled()
        )
        loss = loss + mle_weight * mle
    if mle_weight < 1 and objective == "smile":
        smile = _smile_from_states(states, labels, weight, bias, first_token_mle=first_token_mle)
        loss = loss + (1 - mle_weight) * smile
    elif mle_weight < 1:

        def variant(states: Tensor, labels: Tensor) -> Tensor:
            logits = F.linear(states, weight, bias)
            shared = {"first_token_mle": first_token_mle, "reduction": "sum"}
            if objective == "reverse":
                return reverse_loss(logits, labels, **shared)
            return random_loss(logits, labels, num_random=num_random, **shared)

        rows = max(1, BLOCK // labels.size(1))
        loss = loss + (1 - mle_weight) * _in_blocks(variant, states, labels, rows=rows)
    return loss / seen.sum() if reduction == "mean" else loss


def _in_blocks(
    loss: Callable[[Tensor, Tensor], Tensor], states: Tensor, labels: Tensor, *, rows: int
) -> Tensor:
    """`loss(states, labels)` as a sum over blocks of so many rows.

    Where there are several, none of their scores is kept for the backward pass, which computes them
    again block by block: more work by a third of the head's, for memory that does not grow.
    """
    if len(labels) <= rows:
        return loss(states, labels)
    total = states.new_zeros((), dtype=torch.float32)
    for some, their in zip(states.split(rows), labels.split(rows), strict=True):
        total = total + checkpoint(loss, some, their, use_reentrant=False)
    return total


def _smile_from_states(
    states: Tensor, labels: Tensor, weight: Tensor, bias: Tensor, *, first_token_mle: bool
) -> Tensor:
    """The sum of `smile_loss` from (B, N, D) states: (B, N, N) scores of the captions' own words.

    Column j stands for the word `labels[:, j]`. A word that occurs again keeps only its first
    column, so that it is counted once in the softmax.
    """
    seen = labels != IGNORE
    words = labels.masked_fill(~seen, 0)
    same = (labels[:, :, None] == labels[:, None, :]) & seen[:, None, :]
    first_column = same.int().argmax(dim=2)  # (B, N): where each position's word stands first
    order = torch.arange(labels.size(1), device=labels.device)
    counted = seen & (first_column == order)
    first = _first_token(labels) if first_token_mle else torch.zeros_like(seen)

    scores, first_logits = _Scores.apply(states, states[first], words, weight, bias)
    # A position that is not predicted keeps every column: its loss is dropped, and stays finite.
    allowed = counted[:, None, :] | ~seen[:, :, None]
    scores = scores.float().masked_fill(~allowed, float("-inf"))
    targets = first_column.masked_fill(~seen | first, IGNORE)
    loss = F.cross_entropy(
        scores.flatten(0, 1), targets.flatten(), ignore_index=IGNORE, reduction="sum"
    )
    return loss + F.cross_entropy(first_logits.float(), labels[first], reduction="sum")


class _BlockwiseMLE(torch.autograd.Function):
    """The sum of `mle_loss` from states, in memory that does not grow with their number.

    Scores are made block by block. The gradient of cross entropy in the scores is known as soon as
    they are (softmax minus target), so each block's share of the gradients is added up at once, and
    its scores are let go: what a backward pass would do, without keeping or computing them again.
    """

    @staticmethod
    def forward(
        ctx,
        states: Tensor,
        labels: Tensor,
        weight: Tensor,
        bias: Tensor,
        label_smoothing: float,
        with_gradients: bool,
    ) -> Tensor:
        """(T, D) states, (T,) ids, (V, D), (V,) → a float32 scalar."""
        total = states.new_zeros((), dtype=torch.float32)
        if with_gradients:
            ctx.gradients = [torch.zeros_like(tensor) for tensor in (states, weight, bias)]
            grad_states, grad_weight, grad_bias = ctx.gradients
        for start in range(0, len(labels), BLOCK):
            some, target = states[start : start + BLOCK], labels[start : start + BLOCK, None]
            scores = F.linear(some, weight, bias)
            logprobs = scores.float().log_softmax(dim=-1)
            losses = -(1 - label_smoothing) * logprobs.gather(1, target)
            if label_smoothing:
                losses = losses - label_smoothing * logprobs.mean(dim=1, keepdim=True)
            total += losses.sum()
            if with_gradients:
                grad = logprobs.exp_().sub_(label_smoothing / len(weight))
                grad.scatter_add_(1, target, torch.full_like(losses, label_smoothing - 1))
                grad_bias += grad.sum(dim=0)
                grad = grad.to(scores.dtype)  # under autocast, products are of a shorter type
                grad_states[start : start + BLOCK] = grad @ weight.to(scores.dtype)
                _add_product(grad_weight, grad.t(), some.to(scores.dtype))
        return total

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, grad: Tensor) -> tuple[Tensor | None, ...]:
        grad_states, grad_weight, grad_bias = (ours * grad for ours in ctx.gradients)
        return grad_states, None, grad_weight, grad_bias, None, None


def _add_product(total: Tensor, a: Tensor, b: Tensor) -> None:
    """total += a @ b, without a copy where all are of one type."""
    if total.dtype == a.dtype:
        total.addmm_(a, b)
    else:
        total += a @ b


class _Scores(torch.autograd.Function):
    """Scores of each caption's own words, and of all words at a few positions.

    Left to autograd, each of the two would make a gradient of the whole head, to be added up;
    here the few rows of the one go into that of the other.
    """

    @staticmethod
    def forward(
        ctx, states: Tensor, firsts: Tensor, words: Tensor, weight: Tensor, bias: Tensor
    ) -> tuple[Tensor, Tensor]:
        """(B, N, D), (F, D), (B, N) ids, (V, D), (V,) → (B, N, N), (F, V)."""
        ctx.save_for_backward(states, firsts, words, weight)
        own = F.embedding(words, weight).transpose(1, 2)
        return states @ own + bias[words][:, None, :], F.linear(firsts, weight, bias)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, grad: Tensor, grad_firsts: Tensor) -> tuple[Tensor | None, ...]:
        states, firsts, words, weight = ctx.saved_tensors
        # Under autocast the scores' gradients are of a shorter type, and so are these products.
        low = grad_firsts.dtype
        grad = grad.to(low)
        grad_states = grad @ F.embedding(words, weight).to(low)
        grad_own = (grad.transpose(1, 2) @ states.to(low)).flatten(0, 1)
        grad_weight = (grad_firsts.t() @ firsts.to(low)).to(weight.dtype)
        grad_weight.index_add_(0, words.flatten(), grad_own.to(weight.dtype))
        grad_bias = grad_firsts.sum(dim=0, dtype=weight.dtype)
        grad_bias.index_add_(0, words.flatten(), grad.sum(dim=1, dtype=weight.dtype).flatten())
        return (
            grad_states.to(states.dtype),
            (grad_firsts @ weight.to(low)).to(firsts.dtype),
            None,
            grad_weight,
            grad_bias,
        )


def _words_of(labels: Tensor, vocab_size: int) -> Tensor:
    """(B, N) labels → (B, V), True at the words that occur in each row."""
    words = torch.zeros(labels.size(0), vocab_size, dtype=torch.bool, device=labels.device)
    rows, columns = (labels != IGNORE).nonzero(as_tuple=True)
    words[rows, labels[rows, columns]] = True
    return words


def _first_token(labels: Tensor) -> Tensor:
    """(B, N) → True at the first predicted position of each row that has one."""
    seen = labels != IGNORE
    return seen & (seen.cumsum(dim=1) == 1)


def _masked_cross_entropy(
    logits: Tensor, labels: Tensor, allowed: Tensor, reduction: str
) -> Tensor:
    """Cross entropy over the `allowed` (B, N, V) words and the label itself, in float32.

    float32 and -inf rather than the reference's -1e9, which overflows in fp16. Positions that are
    not predicted keep all words: their loss is dropped, and its gradient stays finite.
    """
    seen = labels != IGNORE
    targets = labels.masked_fill(~seen, 0)
    allowed = (allowed | ~seen[:, :, None]).scatter(2, targets[:, :, None], True)
    return mle_loss(
        logits.float().masked_fill(~allowed, float("-inf")), labels, reduction=reduction
    )
