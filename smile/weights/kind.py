"""Tells which model weights belong to, and by whose convention they are named."""

import re
from collections.abc import Iterable
from typing import Any

from smile.errors import UserError, first_few
from smile.weights.names import BLIP, TRANSFORMERS, Convention

# Names that only other models have.
OTHERS = (
    (r"(Qformer|qformer)\.|query_tokens", "weights of BLIP-2 or a model built like it"),
    (r"text_model\.", "weights of CLIP or a model built like it"),
    (
        r"(vit|decoder)\.(class_token|blocks\.\d+\.self_attention)",
        "weights of a run folder, which holds their config and vocabulary too: name the folder",
    ),
)


def recognise(weights: dict[str, Any], *, source: object) -> tuple[dict[str, Any], Convention]:
    """A captioner's weights by a convention's names, and that convention.

    The prefix of an enclosing module ("captioner.visual_encoder…") is removed.

    Raises:
        UserError: they belong to another kind of model, or to several; says which.
    """
    places = {
        (match[1], convention.name)
        for convention in (BLIP, TRANSFORMERS)
        for name in weights
        if (match := re.match(rf"(|.*?\.){re.escape(convention.start)}", name))
    }
    other = _other_model(weights)
    if other:
        raise UserError(f"{source}: not a BLIP captioner but {other}")
    if not places:
        raise UserError(f"{source}: not a BLIP model; its keys are {first_few(list(weights))}")
    if len(places) > 1:
        several = [f"{place}{name}" for place, name in places]
        raise UserError(f"{source}: expected one captioner, found {first_few(several)}")
    [(place, name)] = places
    found = {name.removeprefix(place): tensor for name, tensor in weights.items()}
    if len(found) < len(weights):
        raise UserError(f"{source}: some weights occur both with and without the prefix {place!r}")
    if not any(name.startswith("text_decoder.") for name in found):
        raise UserError(
            f"{source}: a BLIP model without a text decoder (for retrieval or matching?), "
            "so it cannot write captions; see the README for the checkpoints that can"
        )
    return found, BLIP if name == BLIP.name else TRANSFORMERS


def _other_model(names: Iterable[str]) -> str:
    """The known model whose weights have such names, "" if there is none."""
    return next((what for start, what in OTHERS if any(re.match(start, n) for n in names)), "")
