"""Retrieval by the captioner itself: which image makes a caption most likely?

A caption that names what distinguishes its image finds it among many. The score is
log p(caption | image) of a judge, which may be the captioner that wrote it: R@K needs no other
model.

`log_likelihoods` scores every caption on every image, a million pairs for a thousand of each, so
nothing is computed twice. An image is encoded, and its keys and values computed, once for all
captions. Captions that share a prefix (all share the prompt) share its states.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from operator import length_hint

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor
from tqdm import tqdm

from smile.data.batches import batches_of
from smile.model.cache import KeysValues
from smile.model.captioner import Captioner
from smile.model.decoder import Decoder, DecoderBlock
from smile.model.layers import Attention

# Ranks --------------------------------------------------------------------------------------------


def ranks(scores: np.ndarray, target: np.ndarray) -> np.ndarray:
    """(N captions, M images) scores, (N,) each caption's image → (N,) float ranks from 1.

    Images with the same score share the mean of their ranks: a judge that gives all images the same
    score gets the middle of the pool, not its top.

    Raises:
        ValueError: a score is NaN, which has no rank.
    """
    scores, target = np.asarray(scores), np.asarray(target)
    if np.isnan(scores).any():
        raise ValueError(f"{np.isnan(scores).sum()} of {scores.size} scores are NaN")
    correct = scores[np.arange(len(scores)), target][:, None]
    better, ties = (scores > correct).sum(axis=1), (scores == correct).sum(axis=1) - 1
    return 1 + better + ties / 2


def recall(ranks: np.ndarray, k: int) -> np.ndarray:
    """(N,) 1.0 where a caption found its image among the first `k`, else 0.0; the mean is R@k.

    A tie counts at its mean rank: five images tied for the ranks 1 to 5 are found by R@3, not R@2.
    """
    return (np.asarray(ranks) <= k).astype(np.float64)


# Scores -------------------------------------------------------------------------------------------

BLOCK = 16  # images or captions at a time, unless the caller knows better
MAX_LOGITS = 1 << 24  # at a time; all of them, with BLIP's vocabulary, would take gigabytes


@torch.inference_mode()
def log_likelihoods(
    judge: Captioner,
    images: Iterable[Image.Image],
    captions: Sequence[str],
    *,
    image_block: int = BLOCK,
    caption_block: int = BLOCK,
    progress: bool = True,
    total: int | None = None,
) -> np.ndarray:
    """(N captions, M images) float32: log p(caption, `[SEP]` | image, prompt) of every pair.

    Args:
        judge: in evaluation mode; on the CPU, `packed.pack` makes it faster.
        images: RGB pictures; a generator may open their files one by one.
        captions: cleaned like the judge's training captions, without the prompt; cut off at the
            decoder's number of positions.
        image_block: images encoded and scored at a time.
        caption_block: captions scored at a time. In larger blocks more captions share a prefix, but
            more attention weights are computed only to be masked.
        progress: show a bar on a terminal.
        total: number of images, for the bar, if `images` has no length.
    """
    prompt = judge.config.data.prompt
    # The last id, [SEP], is predicted but never read.
    limit = judge.config.decoder.max_positions + 1
    ids = [judge.tokenizer.encode(text, prompt=prompt, max_tokens=limit) for text in captions]
    start = len(judge.tokenizer.prompt_ids(prompt))
    order = sorted(range(len(ids)), key=ids.__getitem__)  # shared prefixes next to each other
    blocks = list(batches_of(order, caption_block))
    trees = [_tree([ids[i] for i in block], start=start, device=judge.device) for block in blocks]
    columns = [np.empty((len(captions), 0), np.float32)]
    total = total or length_hint(images) or None
    bar = tqdm(total=total, desc="retrieval", unit=" images", disable=not progress or None)
    with bar:
        for pictures in batches_of(images, image_block):
            pixels = torch.stack([judge.transform(picture) for picture in pictures])
            features = judge.encode(pixels.to(next(judge.parameters())))  # its device and dtype
            image = judge.new_cache(features, max_length=0).image  # contiguous: each tree reads it
            column = np.empty((len(captions), len(pictures)), np.float32)
            for block, tree in zip(blocks, trees, strict=True):
                column[block] = _score(judge, image, tree, len(pictures), len(block)).T.cpu()
            columns.append(column)
            bar.update(len(pictures))
    return np.concatenate(columns, axis=1)


@dataclass(frozen=True)
class _Tree:
    """The prefix tree of several captions: T tokens, shared prefixes once.

        [DEC] ─ a ─ red ─ circle ─ and ─ a ─ star      "a red circle and a star"
                    │        └─ with ─ stripes         "a red circle with stripes"
                    └─ heart                           "a red heart"

    ids, positions: (1, T) token ids, (T,) the position of each token in its captions.
    mask: (T, T) bool, True where a token (row) attends: to itself and to its prefix.
    states, targets, captions: (M,) each, for every word to score: the token whose state predicts
        it, its id, and its caption.
    """

    ids: Tensor
    positions: Tensor
    mask: Tensor
    states: Tensor
    targets: Tensor
    captions: Tensor


def _tree(rows: list[list[int]], *, start: int, device: torch.device) -> _Tree:
    """The tree of `rows`, ids with prompt and `[SEP]`; those from `start` on are to be scored."""
    place: dict[tuple[int, ...], int] = {}  # prefix → the place of its last token
    scored, ancestors = [], []
    for caption, ids in enumerate(rows):
        path: list[int] = []
        for end in range(1, len(ids)):
            prefix = tuple(ids[:end])
            if prefix not in place:
                place[prefix] = len(place)
                ancestors.append([*path, place[prefix]])
            path.append(place[prefix])
            if end >= start:
                scored.append((place[prefix], ids[end], caption))
    mask = torch.zeros(len(place), len(place), dtype=torch.bool)
    for token, seen in enumerate(ancestors):
        mask[token, seen] = True
    states, targets, captions = torch.tensor(scored, device=device).T.contiguous()
    return _Tree(
        ids=torch.tensor([[prefix[-1] for prefix in place]], device=device),
        positions=torch.tensor([len(prefix) - 1 for prefix in place], device=device),
        mask=mask.to(device),
        states=states,
        targets=targets,
        captions=captions,
    )


def _score(
    judge: Captioner, image: list[KeysValues], tree: _Tree, images: int, captions: int
) -> Tensor:
    """(images, captions) float32: log-likelihoods of a tree's captions."""
    states = _states(judge.decoder, tree, image)
    logits_per_image = states.size(1) * judge.config.decoder.vocab_size
    parts = []
    for part in states.split(max(1, MAX_LOGITS // logits_per_image)):
        logits = judge.logits(part).float()
        of_targets = logits[:, tree.states, tree.targets]
        parts.append(of_targets - logits.logsumexp(dim=2)[:, tree.states])
    logprobs = torch.cat(parts)
    return logprobs.new_zeros(images, captions).index_add_(1, tree.captions, logprobs)


def _states(decoder: Decoder, tree: _Tree, image: list[KeysValues]) -> Tensor:
    """(images, T, D): the states of a tree's tokens for each image.

    They are those that `Decoder.forward` gives for each caption alone, without dropout. `x` has one
    row up to the first cross-attention, since nothing before it depends on the image.
    """
    x = decoder.word_embed(tree.ids) + decoder.position_embed(tree.positions)
    x = decoder.embed_norm(x)
    for block, keys_values in zip(decoder.blocks, image, strict=True):
        assert isinstance(block, DecoderBlock)  # what a ModuleList holds has no type
        x = block.self_norm(x + _self_attend(block.self_attention, x, tree.mask))
        x = block.cross_norm(x + _cross_attend(block.cross_attention, x, keys_values))
        x = block.mlp_norm(x + block.mlp(x))
    return decoder.head_norm(F.gelu(decoder.head_dense(x)))


def _self_attend(attention: Attention, x: Tensor, mask: Tensor) -> Tensor:
    """(B, T, D) → (B, T, D): each token attends to itself and its prefix."""
    queries, (keys, values) = attention.project(x)
    attended = F.scaled_dot_product_attention(queries, keys, values, attn_mask=mask)
    return attention.out(attention.merge_heads(attended))


def _cross_attend(attention: Attention, x: Tensor, keys_values: KeysValues) -> Tensor:
    """(1 or B, T, D), keys and values of B images → (B, T, D); one row attends to every image."""
    images = keys_values[0].size(0)
    queries = attention.split_heads(attention.query(x)).expand(images, -1, -1, -1)
    return attention.out(attention.merge_heads(attention.attend(queries, keys_values)))
