"""The training objective from the states before the head, without computing all logits.

SMILE's softmax over a caption of N tokens needs only those tokens' logits, (B, N, N) instead of
(B, N, V); loss and gradients are the same. Losses that need all V logits of a position get them a
block of positions at a time. Read `loss.py` first, where the losses are written as defined; the
results here are equal to those.
"""

from collections.abc import Callable
from typing import TypedDict

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from smile.loss import IGNORE, first_token, random_loss, reverse_loss

# Positions in a block: 63 MB of logits with BLIP's vocabulary. With a small vocabulary a GPU gets
# enough positions for `SCORES` logits, since fewer take it as long. A CPU gains nothing by that,
# and other block sizes would round differently from earlier runs.
BLOCK, SCORES = 512, 1 << 22


class _Shared(TypedDict):
    """What the variants of SMILE are told alike."""

    first_token_mle: bool
    end_id: int | None
    reduction: str


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
    end_id: int | None = None,
    reduction: str = "mean",
) -> Tensor:
    """The training objective, computed from states and head.

    Args:
        states: (B, N, D), the decoder's output at the positions that predict `labels`.
        labels: (B, N) token ids, -100 at positions without a target.
        weight, bias: the head, (V, D) and (V,).
        objective: "smile", "mle", "reverse" or "random".
        mle_weight: λ in λ·MLE + (1 - λ)·objective.
        label_smoothing: of the MLE term.
        first_token_mle, num_random, end_id, reduction: as in `smile_loss` and `random_loss`.

    Raises:
        ValueError: `objective` is none of the four.
    """
    if objective not in ("smile", "mle", "reverse", "random"):
        raise ValueError(f"objective {objective!r} is none of smile, mle, reverse, random")
    if objective == "mle":
        mle_weight = 1.0
    seen = labels != IGNORE
    loss = states.new_zeros((), dtype=torch.float32)
    if mle_weight > 0:
        settings = label_smoothing, end_id, torch.is_grad_enabled()
        mle = _BlockwiseMLE.apply(states[seen], labels[seen], weight, bias, *settings)
        loss = loss + mle_weight * mle
    if mle_weight < 1 and objective == "smile":
        smile = _smile_from_states(
            states, labels, weight, bias, first_token_mle=first_token_mle, end_id=end_id
        )
        loss = loss + (1 - mle_weight) * smile
    elif mle_weight < 1:

        def variant(states: Tensor, labels: Tensor) -> Tensor:
            logits = F.linear(states, weight, bias)
            shared: _Shared = {
                "first_token_mle": first_token_mle,
                "end_id": end_id,
                "reduction": "sum",
            }
            if objective == "reverse":
                return reverse_loss(logits, labels, **shared)
            return random_loss(logits, labels, num_random=num_random, **shared)

        rows = max(1, _positions(weight) // labels.size(1))
        loss = loss + (1 - mle_weight) * _in_blocks(variant, states, labels, rows=rows)
    return loss / seen.sum() if reduction == "mean" else loss


def _positions(weight: Tensor) -> int:
    """How many positions to score at a time with a (V, D) head."""
    return max(BLOCK, SCORES // weight.size(0)) if weight.is_cuda else BLOCK


def _in_blocks(
    loss: Callable[[Tensor, Tensor], Tensor], states: Tensor, labels: Tensor, *, rows: int
) -> Tensor:
    """`loss(states, labels)`, summed over blocks of `rows` captions.

    With several blocks, their logits are not kept for the backward pass but computed again block by
    block: a third more work in the head, and memory that does not grow with the batch.
    """
    if len(labels) <= rows:
        return loss(states, labels)
    total = states.new_zeros((), dtype=torch.float32)
    for block in zip(states.split(rows), labels.split(rows), strict=True):
        total = total + checkpoint(loss, *block, use_reentrant=False)
    return total


def _smile_from_states(
    states: Tensor,
    labels: Tensor,
    weight: Tensor,
    bias: Tensor,
    *,
    first_token_mle: bool,
    end_id: int | None,
) -> Tensor:
    """The sum of `smile_loss` from (B, N, D) states, by (B, N, N) logits of the captions' tokens.

    Column j is the token `labels[:, j]`. A token that occurs several times keeps only its first
    column, so that the softmax counts it once.
    """
    seen = labels != IGNORE
    words = labels.masked_fill(~seen, 0)
    same = (labels[:, :, None] == labels[:, None, :]) & seen[:, None, :]
    first_column = same.int().argmax(dim=2)  # (B, N): where each position's token occurs first
    order = torch.arange(labels.size(1), device=labels.device)
    counted = seen & (first_column == order)
    first = first_token(labels) if first_token_mle else torch.zeros_like(seen)

    scores, loss = _Scores.apply(
        states, states[first], words, labels[first], weight, bias, end_id, torch.is_grad_enabled()
    )
    allowed = counted[:, None, :]
    if end_id is not None:  # the end token's column counts only where it is the target
        allowed = allowed & ((words != end_id)[:, None, :] | (labels == end_id)[:, :, None])
    # A position without a target keeps every column, so that its loss, which is ignored, is finite.
    allowed = allowed | ~seen[:, :, None]
    scores = scores.float().masked_fill(~allowed, float("-inf"))
    targets = first_column.masked_fill(~seen | first, IGNORE)
    return loss + F.cross_entropy(
        scores.flatten(0, 1), targets.flatten(), ignore_index=IGNORE, reduction="sum"
    )


class _Scores(torch.autograd.Function):
    """Logits of the tokens of each caption, and MLE's summed loss at a few positions.

    Autograd would make two gradients of the size of the whole head and add them: with BLIP's
    vocabulary and 16 captions of 24 tokens, 103 MB beside the result. Here the few rows of the
    first are added into the second: 7 MB.
    """

    @staticmethod
    def forward(
        ctx,
        states: Tensor,
        firsts: Tensor,
        words: Tensor,
        targets: Tensor,
        weight: Tensor,
        bias: Tensor,
        end_id: int | None,
        with_gradients: bool,
    ) -> tuple[Tensor, Tensor]:
        """(B, N, D), (F, D), (B, N) ids, (F,) ids, (V, D), (V,) → (B, N, N), float32 scalar."""
        scores = F.linear(firsts, weight, bias)
        loss, grad_scores = _cross_entropy(scores, targets, end_id=end_id)
        if with_gradients:  # under autocast, in lower precision
            ctx.save_for_backward(states, firsts, words, weight)
            # Now, because autocast, which casts the head once, is off in the backward pass.
            ctx.grad_scores, ctx.grad_firsts = grad_scores, grad_scores @ weight
        embeddings = F.embedding(words, weight).transpose(1, 2)
        return states @ embeddings + bias[words][:, None, :], loss

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, grad: Tensor, grad_loss: Tensor) -> tuple[Tensor | None, ...]:
        states, firsts, words, weight = ctx.saved_tensors
        # Under autocast the gradients of the scores have a lower precision; so do these products.
        grad_scores, low = ctx.grad_scores, ctx.grad_scores.dtype
        grad = grad.to(low)
        grad_states = grad @ F.embedding(words, weight).to(low)
        grad_own = (grad.transpose(1, 2) @ states.to(low)).flatten(0, 1)
        # `grad_loss` is one number, so the smaller factor is multiplied by it.
        grad_weight = (grad_scores.t() @ (firsts * grad_loss).to(low)).to(weight.dtype)
        grad_weight.index_add_(0, words.flatten(), grad_own.to(weight.dtype))
        grad_bias = grad_scores.sum(dim=0, dtype=weight.dtype) * grad_loss
        grad_bias.index_add_(0, words.flatten(), grad.sum(dim=1, dtype=weight.dtype).flatten())
        grad_firsts = (ctx.grad_firsts * grad_loss).to(firsts.dtype)
        grads = grad_states.to(states.dtype), grad_firsts, None, None, grad_weight, grad_bias
        return *grads, None, None


def _cross_entropy(
    scores: Tensor, targets: Tensor, *, label_smoothing: float = 0.0, end_id: int | None = None
) -> tuple[Tensor, Tensor]:
    """(T, V) scores, (T,) ids → the sum of `mle_loss`, and its gradient, of the scores' dtype."""
    targets, dtype = targets[:, None], scores.dtype
    words: int | Tensor = scores.size(1)  # how many are in each softmax
    scores = scores.float()
    if end_id is not None:
        excluded = targets != end_id
        scores[:, end_id : end_id + 1].masked_fill_(excluded, float("-inf"))
        words = words - excluded.long()
    logprobs = scores.log_softmax(dim=-1)
    loss = -(1 - label_smoothing) * logprobs.gather(1, targets).sum()
    if label_smoothing:
        finite = logprobs if end_id is None else logprobs.masked_fill(logprobs.isneginf(), 0)
        loss -= label_smoothing * (finite.sum(dim=1, keepdim=True) / words).sum()
    # Prediction minus target: softmax - (1 - ε) one-hot - ε / words.
    grad = logprobs.exp_().sub_(label_smoothing / words)
    if end_id is not None:
        grad[:, end_id : end_id + 1].masked_fill_(excluded, 0)
    grad.scatter_add_(1, targets, grad.new_full(targets.shape, label_smoothing - 1))
    return loss, grad.to(dtype)


class _BlockwiseMLE(torch.autograd.Function):
    """The sum of `mle_loss` from states, in memory that does not grow with their number.

    Scores are computed block by block. The gradient of cross entropy (softmax minus target) follows
    from them at once, so the forward pass also sums the gradients and frees each block's scores:
    they are neither kept for the backward pass nor computed again.
    """

    @staticmethod
    def forward(
        ctx,
        states: Tensor,
        labels: Tensor,
        weight: Tensor,
        bias: Tensor,
        label_smoothing: float,
        end_id: int | None,
        with_gradients: bool,
    ) -> Tensor:
        """(T, D) states, (T,) ids, (V, D), (V,) → a float32 scalar."""
        total = states.new_zeros((), dtype=torch.float32)
        if with_gradients:
            ctx.gradients = [torch.zeros_like(tensor) for tensor in (states, weight, bias)]
            grad_states, grad_weight, grad_bias = ctx.gradients
        block = _positions(weight)
        for start in range(0, len(labels), block):
            rows = slice(start, start + block)
            scores = F.linear(states[rows], weight, bias)
            loss, grad = _cross_entropy(
                scores, labels[rows], label_smoothing=label_smoothing, end_id=end_id
            )
            total += loss
            if with_gradients:  # under autocast, in lower precision
                grad_states[rows] = grad @ weight
                _add_product(grad_weight, grad.t(), states[rows].to(grad.dtype))
                grad_bias += grad.sum(dim=0, dtype=bias.dtype)
        return total

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, grad: Tensor) -> tuple[Tensor | None, ...]:
        grad_states, grad_weight, grad_bias = (kept * grad for kept in ctx.gradients)
        return grad_states, None, grad_weight, grad_bias, None, None, None


def _add_product(total: Tensor, a: Tensor, b: Tensor) -> None:
    """total += a @ b, without a copy if all have the same dtype."""
    if total.dtype == a.dtype:
        total.addmm_(a, b)
    else:
        total += a @ b
