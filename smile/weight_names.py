"""BLIP's weights in and out: one table of names, and every key accounted for.

Three conventions name the same captioner: ours, BLIP's `.pth` files and the `transformers` library.
`TABLE` sets them side by side. A `*` stands for a module's parameters (weight and bias), `N` for a
layer's number, and `a + b` for two tensors laid end to end along their first dimension: ours keeps
queries apart from keys and values, BLIP's ViT keeps all three together, its BERT all three apart.
"""

import re
from collections.abc import Iterable, Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from smile.errors import UserError, first_few


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
    Names("vit.blocks.N.attention.query.* + vit.blocks.N.attention.key_value.*",
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
            (f"{attention}_attention.key_value.*",
             f"{_BERT}.{theirs_attention}.self.key.* + {_BERT}.{theirs_attention}.self.value.*"),
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

# What a BLIP file holds beside the captioner, and why it is not needed here.
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
)

# Keys that repeat another: the head is the word embedding again, its bias is listed twice.
TIED = {
    f"{_HEAD}.decoder.weight": "text_decoder.bert.embeddings.word_embeddings.weight",
    f"{_HEAD}.decoder.bias": f"{_HEAD}.bias",
}


class Row(NamedTuple):
    """A line of the table made concrete: tensors that are equal once laid end to end."""

    ours: tuple[str, ...]
    theirs: tuple[str, ...]

    @property
    def change(self) -> str:
        """What happens to the tensors on their way here: "renamed", "merged" or "split"."""
        if len(self.ours) == len(self.theirs):
            return "renamed"
        return "merged" if len(self.theirs) > len(self.ours) else "split"


def rows(convention: str, *, vit_depth: int, decoder_depth: int) -> Iterator[Row]:
    """The table for a model of that many layers; `convention` is "blip" or "transformers"."""
    for names in TABLE:
        theirs = getattr(names, convention)
        depth = vit_depth if names.ours.startswith("vit.") else decoder_depth
        for layer in range(depth) if ".N." in names.ours else [0]:
            for parameter in ("weight", "bias") if names.ours.endswith("*") else [""]:
                yield Row(
                    *(
                        tuple(
                            name.replace(".N.", f".{layer}.").replace("*", parameter)
                            for name in side.split(" + ")
                        )
                        for side in (names.ours, theirs)
                    )
                )


def to_ours(theirs: dict[str, Tensor], convention: str, *, source: str) -> dict[str, Tensor]:
    """BLIP's or `transformers`' weights by our names, every key accounted for.

    Raises:
        UserError: naming `source` and the first few keys that are missing or left over, or that
            should repeat another and do not.
    """
    vit_layer, decoder_layer = (
        next(getattr(n, convention) for n in TABLE if n.ours == ours).partition("N")[0]
        for ours in ("vit.blocks.N.norm1.*", "decoder.blocks.N.mlp_norm.*")
    )
    depths = {"vit_depth": _layers(theirs, vit_layer)}
    depths["decoder_depth"] = _layers(theirs, decoder_layer)
    ours: dict[str, Tensor] = {}
    used: set[str] = set()
    missing: list[str] = []
    for row in rows(convention, **depths):
        lacking = [name for name in row.theirs if name not in theirs]
        missing += lacking
        if not lacking:
            used |= set(row.theirs)
            tensors = _refit([theirs[name] for name in row.theirs], row.ours)
            ours |= zip(row.ours, tensors, strict=True)
    problems = [f"{name} is missing" for name in missing]
    for name in theirs.keys() - used:
        if name in TIED:
            if TIED[name] in theirs and not torch.equal(theirs[name], theirs[TIED[name]]):
                problems.append(f"{name} differs from {TIED[name]}, which it should repeat")
        elif not reason_to_drop(name):
            problems.append(f"{name} {tuple(theirs[name].shape)} is not part of a BLIP captioner")
    if problems:
        raise UserError(f"{source}: {first_few(problems)}")
    return ours


def reason_to_drop(name: str) -> str | None:
    """Why a key of theirs is left out, or None if it may not be."""
    return next((reason for pattern, reason in DROPPED if re.fullmatch(pattern, name)), None)


def _layers(names: Iterable[str], start: str) -> int:
    """How many different layer numbers follow `start`."""
    numbers = (re.match(re.escape(start) + r"(\d+)\.", name) for name in names)
    return len({match[1] for match in numbers if match})


def from_ours(weights: dict[str, Tensor], convention: str) -> dict[str, Tensor]:
    """Our weights by BLIP's or `transformers`' names, tied ones included."""
    depths = {f"{part}_depth": _layers(weights, f"{part}.blocks.") for part in ("vit", "decoder")}
    theirs: dict[str, Tensor] = {}
    for row in rows(convention, **depths):
        tensors = _refit([weights[name] for name in row.ours], row.theirs)
        theirs |= zip(row.theirs, tensors, strict=True)
    return theirs | {copy: theirs[original] for copy, original in TIED.items()}


def _refit(tensors: list[Tensor], names: tuple[str, ...]) -> list[Tensor]:
    """The same numbers in as many tensors as there are names; a copy only where tensors merge."""
    if len(tensors) == len(names):
        return tensors
    whole = torch.cat(tensors) if len(tensors) > 1 else tensors[0]
    shares = [2 if ".key_value." in name else 1 for name in names]
    return list(whole.split([whole.size(0) // sum(shares) * share for share in shares]))
