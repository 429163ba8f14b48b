"""Perplexity of captions under a language model: exp(mean negative log-likelihood of its tokens).

Each caption is read after `<|endoftext|>`, so its first token counts too. The corpus value is the
arithmetic mean over captions, as in the SMILE paper; the caller computes it.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from smile.data.batches import batches_of
from smile.metrics.models.batching import pad
from smile.metrics.models.gpt2 import GPT2


@dataclass(frozen=True)
class _Window:
    """A part of one caption that the model reads at once, and the tokens it scores there."""

    caption: int
    inputs: list[int]
    targets: list[int]  # the tokens after the last `len(targets)` inputs


def token_log_likelihoods(
    model: GPT2, captions: Sequence[str], *, batch_size: int = 16, progress: bool = True
) -> list[np.ndarray]:
    """Per caption, (tokens,) float32: log p(token | `<|endoftext|>`, the tokens before it).

    A caption longer than the model's context (1024 tokens) is read in windows that overlap by
    half: past the first window, each token is scored with at least half a context before it. An
    empty caption has no tokens.
    """
    encoded = [model.tokenizer.encode(caption) for caption in captions]
    windows = [
        window
        for caption, ids in enumerate(encoded)
        for window in _windows(
            caption, [model.tokenizer.begin_id, *ids], context=model.config.max_positions
        )
    ]
    found: dict[int, list[np.ndarray]] = {caption: [] for caption in range(len(captions))}
    # Longest first, so that batches hold little padding and too large a batch fails at once. The
    # sort is stable and the windows of a caption are equally long, so they stay in order.
    windows.sort(key=lambda window: -len(window.inputs))
    with tqdm(total=len(windows), desc="perplexity", disable=not progress or None) as bar:
        for batch in batches_of(windows, batch_size):
            for window, scores in zip(batch, _score(model, batch), strict=True):
                found[window.caption].append(scores)
            bar.update(len(batch))
    return [np.concatenate(parts or [np.empty(0, np.float32)]) for parts in found.values()]


def perplexities(
    model: GPT2, captions: Sequence[str], *, batch_size: int = 16, progress: bool = True
) -> np.ndarray:
    """(N,) float64: each caption's perplexity. NaN for an empty one, which has no tokens."""
    scores = token_log_likelihoods(model, captions, batch_size=batch_size, progress=progress)
    return np.array([np.exp(-s.mean(dtype=np.float64)) if s.size else np.nan for s in scores])


def _windows(caption: int, ids: list[int], *, context: int) -> list[_Window]:
    """Windows of up to `context` inputs over `ids`, in order; each token but the first once."""
    inputs, targets = ids[:-1], ids[1:]
    windows, scored = [], 0
    while scored < len(targets):
        # The first window scores all that it reads, each later one half a context more.
        end = min(scored + (context // 2 if scored else context), len(targets))
        windows.append(_Window(caption, inputs[max(0, end - context) : end], targets[scored:end]))
        scored = end
    return windows


@torch.inference_mode()
def _score(model: GPT2, batch: list[_Window]) -> list[np.ndarray]:
    """Log-likelihoods of each window's targets. The head reads no padding."""
    ids = pad([w.inputs for w in batch], value=model.tokenizer.begin_id, device=model.device)
    states: Tensor = model(ids)
    counts = [len(window.targets) for window in batch]
    wanted = torch.cat(
        [states[row, len(w.inputs) - len(w.targets) : len(w.inputs)] for row, w in enumerate(batch)]
    )
    targets = torch.tensor([t for w in batch for t in w.targets], device=model.device)
    logits = model.logits(wanted).float()
    scores = logits.gather(1, targets[:, None])[:, 0] - logits.logsumexp(dim=1)
    return [part.cpu().numpy() for part in scores.split(counts)]
