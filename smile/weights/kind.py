"""Which model some weights are of, and whose names they go by."""

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
    """A captioner's weights by the names of a convention, and which convention that is.

    Where they are part of something larger ("captioner.visual_encoder…", as code writes them that
    trains a model inside another), the larger thing's name is taken off.

    Raises:
        UserError: they are of another kind of model, or of several; says which.
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
        raise UserError(f"{source}: some weights are there with and without {place!r} before them")
    if not any(name.startswith("text_decoder.") for name in found):
        raise UserError(
            f"{source}: a BLIP model without a text decoder (for retrieval or matching?), "
            "so it cannot write captions; see the README for the checkpoints that can"
        )
    return found, BLIP if name == BLIP.name else TRANSFORMERS


def _other_model(names: Iterable[str]) -> str:
    """Which model has such names of weights, "" if none that is known."""
    return next((what for start, what in OTHERS if any(re.match(start, n) for n in names)), "")
