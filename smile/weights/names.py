"""Converts weights between naming conventions, with every key accounted for.

Three conventions name the same captioner: ours, BLIP's `.pth` files and the `transformers` library.
`TABLE` sets them side by side. A `*` stands for a module's parameters (weight and bias), `N` for a
layer's number, and `a + b` for tensors that the other convention concatenates along their first
dimension: BLIP's ViT keeps queries, keys and values in one matrix. `^T` after a name of theirs says
that their weight is transposed, (in, out).

The functions work for any model: the metrics bring tables for CLIP and GPT-2.
"""

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
from torch import Tensor

from smile.errors import UserError, first_few
from smile.weights.dtypes import unusable


class Names(NamedTuple):
    """One parameter, or one module's parameters, under each convention."""

    ours: str
    blip: str
    transformers: str


def _same_in_both(ours: str, theirs: str) -> Names:
    return Names(ours, theirs, theirs)


# fmt: off
_VIT, _HF = "visual_encoder.blocks.N", "vision_model.encoder.layers.N"
_BERT, _HEAD = "text_decoder.bert.encoder.layer.N", "text_decoder.cls.predictions"
TABLE = (
    Names("vit.class_token",   "visual_encoder.cls_token",          "vision_model.embeddings.class_embedding"),
    Names("vit.positions",     "visual_encoder.pos_embed",          "vision_model.embeddings.position_embedding"),
    Names("vit.patch_embed.*", "visual_encoder.patch_embed.proj.*", "vision_model.embeddings.patch_embedding.*"),
    Names("vit.blocks.N.norm1.*", f"{_VIT}.norm1.*", f"{_HF}.layer_norm1.*"),
    Names(" + ".join(f"vit.blocks.N.attention.{part}.*" for part in ("query", "key", "value")),
          f"{_VIT}.attn.qkv.*", f"{_HF}.self_attn.qkv.*"),
    Names("vit.blocks.N.attention.out.*", f"{_VIT}.attn.proj.*", f"{_HF}.self_attn.projection.*"),
    Names("vit.blocks.N.norm2.*", f"{_VIT}.norm2.*", f"{_HF}.layer_norm2.*"),
    Names("vit.blocks.N.mlp.fc1.*", f"{_VIT}.mlp.fc1.*", f"{_HF}.mlp.fc1.*"),
    Names("vit.blocks.N.mlp.fc2.*", f"{_VIT}.mlp.fc2.*", f"{_HF}.mlp.fc2.*"),
    Names("vit.norm.*", "visual_encoder.norm.*", "vision_model.post_layernorm.*"),

    _same_in_both("decoder.word_embed.weight", "text_decoder.bert.embeddings.word_embeddings.weight"),
    _same_in_both("decoder.position_embed.weight", "text_decoder.bert.embeddings.position_embeddings.weight"),
    _same_in_both("decoder.embed_norm.*", "text_decoder.bert.embeddings.LayerNorm.*"),
    *(
        _same_in_both(f"decoder.blocks.N.{ours}", theirs)
        for attention, theirs_attention in (("self", "attention"), ("cross", "crossattention"))
        for ours, theirs in (
            (f"{attention}_attention.query.*", f"{_BERT}.{theirs_attention}.self.query.*"),
            (f"{attention}_attention.key.*", f"{_BERT}.{theirs_attention}.self.key.*"),
            (f"{attention}_attention.value.*", f"{_BERT}.{theirs_attention}.self.value.*"),
            (f"{attention}_attention.out.*", f"{_BERT}.{theirs_attention}.output.dense.*"),
            (f"{attention}_norm.*", f"{_BERT}.{theirs_attention}.output.LayerNorm.*"),
        )
    ),
    _same_in_both("decoder.blocks.N.mlp.fc1.*", f"{_BERT}.intermediate.dense.*"),
    _same_in_both("decoder.blocks.N.mlp.fc2.*", f"{_BERT}.output.dense.*"),
    _same_in_both("decoder.blocks.N.mlp_norm.*", f"{_BERT}.output.LayerNorm.*"),
    _same_in_both("decoder.head_dense.*", f"{_HEAD}.transform.dense.*"),
    _same_in_both("decoder.head_norm.*", f"{_HEAD}.transform.LayerNorm.*"),
    _same_in_both("decoder.head_bias", f"{_HEAD}.bias"),
)
# fmt: on

# What a BLIP file holds besides the captioner, and why it is not needed here.
DROPPED = (
    (r".*\.position_ids", "a constant 0, 1, 2, …"),
    (r"visual_encoder_m\..*", "momentum copy, for pre-training"),
    (r"text_encoder_m\..*", "momentum copy, for pre-training"),
    (r"(vision|text)_proj_m\..*", "momentum copy, for pre-training"),
    (
        r"(image|text)_queue|queue_ptr|ptr_queue|idx_queue",
        "queue of pre-training's contrastive loss",
    ),
    (r"temp", "temperature of pre-training's contrastive loss"),
    (r"(vision|text)_proj\..*", "head of pre-training's contrastive loss (ITC)"),
    (r"itm_head\..*", "head of image-text matching (ITM)"),
    (r"text_encoder\..*", "text encoder of pre-training; captions come from the decoder"),
    (r"n_averaged", "number of steps in a moving average of the weights"),
)

# Keys that repeat another: the head is tied to the word embedding, its bias is listed twice.
TIED = {
    f"{_HEAD}.decoder.weight": "text_decoder.bert.embeddings.word_embeddings.weight",
    f"{_HEAD}.decoder.bias": f"{_HEAD}.bias",
}


@dataclass(frozen=True)
class Convention:
    """How other software names the weights of one of our models, and what else its files hold.

    start: the prefix of names by which the convention is recognised.
    table: pairs of our name and theirs, in the notation of the module's docstring.
    dropped: pairs of a pattern of names that are dropped, and why.
    tied: names that repeat another.
    """

    name: str
    model: str  # for messages, such as "a BLIP captioner"
    table: tuple[tuple[str, str], ...]
    dropped: tuple[tuple[str, str], ...] = ()
    tied: dict[str, str] = field(default_factory=dict)
    start: str = ""


BLIP = Convention(
    "BLIP",
    "a BLIP captioner",
    tuple((row.ours, row.blip) for row in TABLE),
    DROPPED,
    TIED,
    start="visual_encoder.",
)
TRANSFORMERS = Convention(
    "transformers",
    "a BLIP captioner",
    tuple((row.ours, row.transformers) for row in TABLE),
    DROPPED,
    TIED,
    start="vision_model.",
)


class Row(NamedTuple):
    """A line of the table for one layer: tensors that are equal once concatenated."""

    ours: tuple[str, ...]
    theirs: tuple[str, ...]
    transposed: bool = False


def rows(convention: Convention, depths: dict[str, int]) -> Iterator[Row]:
    """The table for a model whose parts ("vit", "decoder") have that many layers."""
    for ours, theirs in convention.table:
        depth = depths[ours.split(".")[0]] if ".N." in ours else 1
        transposed = theirs.endswith("^T")
        for layer in range(depth):
            for parameter in ("weight", "bias") if ours.endswith("*") else [""]:
                own, other = (
                    tuple(
                        name.replace(".N.", f".{layer}.").replace("*", parameter)
                        for name in side.split(" + ")
                    )
                    for side in (ours, theirs.removesuffix("^T"))
                )
                yield Row(own, other, transposed and parameter != "bias")


class Account(NamedTuple):
    """How every key of a foreign file is used."""

    rows: list[Row]
    tied: dict[str, str]  # key → the key it repeats
    dropped: dict[str, str]  # key → why it is dropped
    left_over: list[str]
    missing: list[str]


def account(names: Iterable[str], convention: Convention) -> Account:
    """Sorts the keys of a file that follows `convention`."""
    names = set(names)
    wanted = list(rows(convention, _depths(names, convention, side=1)))
    used = {name for row in wanted for name in row.theirs}
    rest = sorted(names - used)
    tied = {name: convention.tied[name] for name in rest if name in convention.tied}
    dropped = {
        name: reason for name in rest if (reason := _reason_to_drop(name, convention.dropped))
    }
    return Account(
        rows=wanted,
        tied=tied,
        dropped=dropped,
        left_over=[name for name in rest if name not in tied and name not in dropped],
        missing=sorted(used - names),
    )


def to_ours(theirs: dict[str, Any], convention: Convention, *, source: object) -> dict[str, Tensor]:
    """Renames weights of that convention to our names, every key accounted for.

    What a file has in place of a tensor (a `Placeholder`) is refused here.
    The tensors are removed from `theirs`, so that no second reference keeps them in memory.

    Raises:
        UserError: naming `source` and the first few keys that are missing, left over, or no
            weights, or that should repeat another and do not.
    """
    book = account(theirs, convention)
    problems = [f"{name} is missing" for name in book.missing]
    problems += [
        f"{name} {tuple(theirs[name].shape)} is not part of {convention.model}"
        for name in book.left_over
    ]
    used = [name for row in book.rows for name in row.theirs if name in theirs]
    problems += [
        f"{name} {reason}" for name in (*used, *book.tied) if (reason := unusable(theirs[name]))
    ]
    if not problems:
        problems += [
            f"{name} is {shape}, expected {len(row.ours)} concatenated tensors"
            for row in book.rows
            for name, shape in ((name, tuple(theirs[name].shape)) for name in row.theirs)
            if len(row.ours) > len(row.theirs) and (not shape or shape[0] % len(row.ours))
        ]
        problems += [
            f"{name} differs from {original}, which it should repeat"
            for name, original in book.tied.items()
            if original in theirs and not _same(theirs[name], theirs[original])
        ]
    if problems:
        raise UserError(f"{source}: {first_few(problems)}")
    ours: dict[str, Tensor] = {}
    for row in book.rows:
        tensors = [theirs.pop(name) for name in row.theirs]
        if row.transposed:
            tensors = [tensor.t() for tensor in tensors]
        ours |= zip(row.ours, _refit(tensors, row.ours), strict=True)
    return ours


def _reason_to_drop(name: str, dropped: tuple[tuple[str, str], ...]) -> str | None:
    """Why a key of theirs is dropped, or None if it may not be."""
    return next((reason for pattern, reason in dropped if re.fullmatch(pattern, name)), None)


def _depths(names: Iterable[str], convention: Convention, *, side: int) -> dict[str, int]:
    """How many layers each part has, from the numbers in names that are ours (side 0) or theirs."""
    first = {row[0].split(".")[0]: row for row in reversed(convention.table) if ".N." in row[0]}
    depths = {}
    for part, row in first.items():
        start = re.escape(row[side].partition("N.")[0])
        numbers = (re.match(start + r"(\d+)\.", name) for name in names)
        depths[part] = len({match[1] for match in numbers if match})
    return depths


def _same(a: Tensor, b: Tensor) -> bool:
    """Whether two weights are equal. NaN counts as equal to NaN here; it is refused later."""
    if a.shape != b.shape or a.dtype != b.dtype:
        return False
    if a.is_meta or b.is_meta or a.data_ptr() == b.data_ptr() or torch.equal(a, b):
        return True
    a, b = a.float(), b.float()
    return bool(((a == b) | (a.isnan() & b.isnan())).all())


def from_ours(weights: dict[str, Tensor], convention: Convention) -> dict[str, Tensor]:
    """Our weights by the convention's names, tied ones included."""
    theirs: dict[str, Tensor] = {}
    for row in rows(convention, _depths(weights, convention, side=0)):
        tensors = _refit([weights[name] for name in row.ours], row.theirs)
        if row.transposed:
            tensors = [tensor.t() for tensor in tensors]
        theirs |= zip(row.theirs, tensors, strict=True)
    return theirs | {copy: theirs[original] for copy, original in convention.tied.items()}


def _refit(tensors: list[Tensor], names: tuple[str, ...]) -> list[Tensor]:
    """Splits or concatenates tensors to one per name; only concatenating copies."""
    if len(tensors) == len(names):
        return tensors
    return [torch.cat(tensors)] if len(names) == 1 else list(tensors[0].chunk(len(names)))
