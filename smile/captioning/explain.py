"""Which part of the image led to which word: the decoder's cross-attention as heat maps.

When the decoder predicts a word, each head of each layer distributes a weight of 1 over the image
tokens. The mean over heads and layers (or over the heads of one layer) is a map of the patches.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from einops import rearrange
from torch import Tensor

from smile.captioning.attention_sheet import attention_sheet
from smile.captioning.pictures import check_picture
from smile.errors import UserError
from smile.model.cache import KeysValues
from smile.model.captioner import Caption, Captioner
from smile.model.images import Picture, picture_of
from smile.model.layers import Attention


@dataclass(frozen=True)
class WordMap:
    """A word, its log-probability, and where the model looked: (g, g), non-negative, sum 1."""

    word: str
    logprob: float
    heat: Tensor


@torch.inference_mode()
def cross_attention(captioner: Captioner, pixels: Tensor, ids: Tensor) -> Tensor:
    """(1, 3, S, S) image, (1, T) ids → (layers, heads, T, P + 1) weights, class token first.

    Row t is where the decoder looks when it has read ids up to t and predicts the next word.
    """
    seen: list[Tensor] = []

    def record(attention: Attention, args: tuple[Tensor, KeysValues]) -> None:
        x, (keys, _) = args
        [weights] = attention.weights(attention.split_heads(attention.query(x)), keys)
        seen.append(weights)

    hooks = [
        block.get_submodule("cross_attention").register_forward_pre_hook(record)
        for block in captioner.decoder.blocks
    ]
    try:
        captioner.decode(ids, captioner.encode(pixels.to(next(captioner.parameters()))))
    finally:
        for hook in hooks:
            hook.remove()
    return torch.stack(seen)


def word_maps(
    captioner: Captioner,
    pixels: Tensor,
    caption: Caption,
    *,
    prompt: str | None = None,
    layer: int | None = None,
) -> list[WordMap]:
    """A map for each word of a caption: the mean of the maps of its word pieces.

    Pieces that the caption leaves out, such as `[UNK]`, have no map. The class token's weight,
    which belongs to no patch, is left out.

    Args:
        prompt: the prompt that the caption continues; `config.data.prompt` unless given.
        layer: one decoder layer, counted from 0, or None for the mean of all.

    Raises:
        UserError: there is no such layer, or the encoder's output is no square of patches.
    """
    _check_layer(captioner, layer)
    prompt = captioner.config.data.prompt if prompt is None else prompt
    start = captioner.tokenizer.prompt_ids(prompt)
    pieces = [(piece, logprob) for piece, logprob in caption.tokens if piece != "[SEP]"]
    ids = [*start, *(captioner.tokenizer.ids[piece] for piece, _ in pieces)]
    weights = cross_attention(captioner, pixels, torch.tensor([ids], device=captioner.device))
    weights = weights.mean(dim=(0, 1)) if layer is None else weights[layer].mean(dim=0)
    grid = _grid(weights.size(1))
    heat = rearrange(weights[len(start) - 1 : -1, 1:], "t (h w) -> t h w", h=grid).cpu()

    words: list[tuple[str, float, list[Tensor]]] = []
    for (piece, logprob), piece_id, piece_heat in zip(pieces, ids[len(start) :], heat, strict=True):
        if captioner.tokenizer.is_special(piece_id):
            continue
        if piece.startswith("##") and words:
            word, total, heats = words[-1]
            words[-1] = (word + piece[2:], total + logprob, [*heats, piece_heat])
        else:
            words.append((piece.removeprefix("##"), logprob, [piece_heat]))
    return [
        WordMap(word, logprob, (mean := torch.stack(heats).mean(dim=0)) / mean.sum())
        for word, logprob, heats in words
    ]


def _check_layer(captioner: Captioner, layer: int | None) -> None:
    depth = captioner.config.decoder.depth
    if layer is not None and not 0 <= layer < depth:
        raise UserError(f"layer is {layer}, but the decoder's layers are 0 to {depth - 1}")


def _grid(num_tokens: int) -> int:
    """Patches a side, where an encoder gives the class token and then a square of patches."""
    side = math.isqrt(num_tokens - 1)
    if side * side != num_tokens - 1:
        raise UserError(
            f"the encoder gives {num_tokens} tokens of an image: expected one, and then a square "
            "of patches, to draw where each lies"
        )
    return side


def explain(
    captioner: Captioner,
    image: Picture,
    path: str | Path,
    *,
    prompt: str | None = None,
    layer: int | None = None,
    seeds: Sequence[int] | None = None,
    **settings,
) -> Caption:
    """Captions an image and writes a picture to `path`: per word, where the model looked for it.

    `image`, `seeds` (one) and `settings` are those of `Captioner.describe`.

    Raises:
        UserError: there is no such layer, or the picture cannot be written; raised before any work.
            The encoder's output is no square of patches.
    """
    check_picture(path)
    _check_layer(captioner, layer)
    image = picture_of(image)
    pixels = captioner.transform(image)[None]
    [[caption, *_]] = captioner.describe(pixels, prompts=prompt, seeds=seeds, **settings)
    maps = word_maps(captioner, pixels, caption, prompt=prompt, layer=layer)
    words = [(m.word, m.logprob, m.heat.tolist()) for m in maps]
    attention_sheet(image, caption.text, words, path)
    return caption
