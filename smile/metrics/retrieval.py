"""Retrieval by the captioner itself: which image makes a caption likeliest?

A caption that names what sets its image apart finds it among many. With log p(caption | image) of
a judge, which may be the captioner that wrote it, R@K needs no other model.

`log_likelihoods` scores every caption on every image, a million pairs for a thousand of each, so
nothing is computed twice: an image is encoded, and its keys and values projected, once for all
captions; and captions that begin alike (all do: with the prompt) share the states of their common
beginning.
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
from smile.model.decoder import Decoder
from smile.model.layers import Attention

# Ranks --------------------------------------------------------------------------------------------


def ranks(scores: np.ndarray, target: np.ndarray) -> np.ndarray:
    """(N captions, M images) scores, (N,) each caption's own image → (N,) float ranks from 1.

    Images with the same score share the mean of their ranks: a judge that cannot tell any apart
    gets the middle of the pool, not its top.

    Raises:
        ValueError: if a score is NaN, which has no rank.
    """
    scores, target = np.asarray(scores), np.asarray(target)
    if np.isnan(scores).any():
        raise ValueError(f"{np.isnan(scores).sum()} of {scores.size} scores are NaN")
    own = scores[np.arange(len(scores)), target][:, None]
    better, ties = (scores > own).sum(axis=1), (scores == own).sum(axis=1) - 1
    return 1 + better + ties / 2


def recall(ranks: np.ndarray, k: int) -> np.ndarray:
    """(N,) 1.0 where a caption found its image among the first `k`, else 0.0; the mean is R@k.

    A tie counts at its mean rank: five images tied for the ranks 1 to 5 are found by R@3, not R@2.
    """
    return (np.asarray(ranks) <= k).astype(np.float64)


# Scores -------------------------------------------------------------------------------------------

MAX_LOGITS = 1 << 24  # at a time; BLIP's vocabulary would fill gigabytes


@torch.inference_mode()
def log_likelihoods(
    judge: Captioner,
    images: Iterable[Image.Image],
    captions: Sequence[str],
    *,
    image_block: int = 16,
    caption_block: int = 16,
    progress: bool = True,
    total: int | None = None,
) -> np.ndarray:
    """(N captions, M images) float32: log p(caption, `[SEP]` | image, prompt) of every pair.

    Args:
        judge: in evaluation mode; on the CPU, `packed.pack` makes it quicker.
        images: RGB pictures; a generator that opens files is read as it goes.
        captions: cleaned, as the judge's training captions were, without the prompt; longer than
            the decoder's positions they are cut.
        image_block: images encoded, and scored, at a time.
        caption_block: captions scored at a time. More share more of their beginnings, but each
            token's attention is computed, and thrown away, for all that do not belong to its text.
        progress: show a bar on a terminal.
        total: how many images there are, for the bar, where `images` cannot say.
    """
    prompt = judge.config.data.prompt
    # The last id, [SEP], is predicted but never read.
    limit = judge.config.decoder.max_positions + 1
    ids = [judge.tokenizer.encode(text, prompt=prompt, max_tokens=limit) for text in captions]
    start = len(judge.tokenizer.prompt_ids(prompt))
    order = sorted(range(len(ids)), key=ids.__getitem__)  # those that begin alike side by side
    blocks = list(batches_of(order, caption_block))
    trees = [_tree([ids[i] for i in own], start=start, device=judge.device) for own in blocks]
    columns = [np.empty((len(captions), 0), np.float32)]
    total = total or length_hint(images) or None
    bar = tqdm(total=total, desc="retrieval", unit=" images", disable=not progress or None)
    with bar:
        for pictures in batches_of(images, image_block):
            pixels = torch.stack([judge.transform(picture) for picture in pictures])
            features = judge.encode(pixels.to(judge.device))
            image = judge.new_cache(features, max_length=0).image  # contiguous: each tree reads it
            column = np.empty((len(captions), len(pictures)), np.float32)
            for own, tree in zip(blocks, trees, strict=True):
                column[own] = _score(judge, image, tree, len(pictures), len(own)).T.cpu()
            columns.append(column)
            bar.update(len(pictures))
    return np.concatenate(columns, axis=1)


@dataclass(frozen=True)
class _Tree:
    """Captions laid over each other as far as they begin alike: T tokens, each in one place.

        [DEC] ─ a ─ red ─ circle ─ and ─ a ─ star      "a red circle and a star"
                    │        └─ with ─ stripes         "a red circle with stripes"
                    └─ heart                           "a red heart"

    ids, positions: (1, T) and (T,).
    mask: (T, T), True where a token (row) may look: at itself and what its text has before it.
    states, targets, captions: (M,) each, for every word to score: which token's state predicts it,
        its id, and whose it is.
    """

    ids: Tensor
    positions: Tensor
    mask: Tensor
    states: Tensor
    targets: Tensor
    captions: Tensor


def _tree(rows: list[list[int]], *, start: int, device: torch.device) -> _Tree:
    """The tree of `rows`: ids with prompt and `[SEP]`, whose words from `start` on are scored."""
    place: dict[tuple[int, ...], int] = {}  # beginning of a text → where its last token is
    scored, ancestors = [], []
    for caption, ids in enumerate(rows):
        path = []
        for end in range(1, len(ids)):
            beginning = tuple(ids[:end])
            if beginning not in place:
                place[beginning] = len(place)
                ancestors.append([*path, place[beginning]])
            path.append(place[beginning])
            if end >= start:
                scored.append((place[beginning], ids[end], caption))
    mask = torch.zeros(len(place), len(place), dtype=torch.bool)
    for token, seen in enumerate(ancestors):
        mask[token, seen] = True
    states, targets, captions = torch.tensor(scored, device=device).T.contiguous()
    return _Tree(
        ids=torch.tensor([[beginning[-1] for beginning in place]], device=device),
        positions=torch.tensor([len(beginning) - 1 for beginning in place], device=device),
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
    said = []
    for part in states.split(max(1, MAX_LOGITS // logits_per_image)):
        logits = judge.logits(part).float()
        said.append(logits[:, tree.states, tree.targets] - logits.logsumexp(dim=2)[:, tree.states])
    said = torch.cat(said)
    return said.new_zeros(images, captions).index_add_(1, tree.captions, said)


def _states(decoder: Decoder, tree: _Tree, image: list[KeysValues]) -> Tensor:
    """(images, T, D): the states of a tree's tokens beside each image.

    What `Decoder.forward` computes of each of the texts by itself, without dropout. Up to the first
    cross-attention the images have no part in it, so it is computed once for all of them.
    """
    x = decoder.word_embed(tree.ids) + decoder.position_embed(tree.positions)
    x = decoder.embed_norm(x)
    for block, keys_values in zip(decoder.blocks, image, strict=True):
        x = block.self_norm(x + _self_attend(block.self_attention, x, tree.mask))
        x = block.cross_norm(x + _cross_attend(block.cross_attention, x, keys_values))
        x = block.mlp_norm(x + block.mlp(x))
    return decoder.head_norm(F.gelu(decoder.head_dense(x)))


def _self_attend(attention: Attention, x: Tensor, mask: Tensor) -> Tensor:
    """(B, T, D) → (B, T, D): each token attends to those of its own text."""
    queries, (keys, values) = attention.project(x)
    attended = F.scaled_dot_product_attention(queries, keys, values, attn_mask=mask)
    return attention.out(attention.merge_heads(attended))


def _cross_attend(attention: Attention, x: Tensor, keys_values: KeysValues) -> Tensor:
    """(1 or B, T, D), keys and values of B images → (B, T, D); one row attends to every image."""
    images = keys_values[0].size(0)
    queries = attention.split_heads(attention.query(x)).expand(images, -1, -1, -1)
    return attention.out(attention.merge_heads(attention.attend(queries, keys_values)))
