"""How far the metrics agree with experts: what the terminal shows, and agreement.json."""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from smile.errors import counted
from smile.evaluation.agreement import Scores
from smile.evaluation.catalogue import METRICS
from smile.evaluation.measured import Missing
from smile.evaluation.published import AGREEMENT, AGREEMENT_NOTE
from smile.evaluation.rated_captions import Ratings
from smile.evaluation.report import json_text, row_as_json, versions, write_files
from smile.evaluation.rows import Row
from smile.evaluation.table import table
from smile.system.files import sha256

__all__ = ["AGREEMENT_FILE", "agreement_text", "write_agreement"]

AGREEMENT_FILE = "agreement.json"
LABEL = "tau-c x 100"
VERSION = 1  # of agreement.json


def agreement_text(ratings: Ratings, rows: Sequence[Row]) -> str:
    """What was rated, what is left out, and the table."""
    lines, photos = len(ratings.rated), len(ratings.images.examples)
    found = (
        f"{ratings.path}: {3 * lines} pairs of a score and an expert's rating, of "
        f"{counted(lines, 'caption')}, each rated three times as one of {counted(photos, 'photo')}"
    )
    left_out = [f"left out: {counted(ratings.num_own, 'caption')} of the rated photo itself"]
    if ratings.num_elsewhere:
        left_out.append(f"{ratings.num_elsewhere} of a photo that Flickr8k does not have")
    return "\n".join(
        [
            found,
            "; ".join(left_out),
            "",
            f"{LABEL}: 100 for the experts' order, 0 for chance, -100 for the opposite order",
            "",
            table(rows, [LABEL], published=AGREEMENT),
            AGREEMENT_NOTE,
        ]
    )


def write_agreement(
    folder: Path, ratings: Ratings, scores: Scores, rows: Sequence[Row], *, settings: dict[str, Any]
) -> Path:
    """Writes agreement.json into a folder, whole or not at all; returns its path.

    Raises:
        UserError: it cannot be written.
    """
    content = {
        "version": VERSION,
        "ratings": {"source": str(ratings.path), "sha256": sha256(ratings.path)},
        "captions": {
            "source": str(ratings.captions_path),
            "sha256": sha256(ratings.captions_path),
        },
        "photos": len(ratings.images.examples),
        "pairs": 3 * len(ratings.rated),
        "left_out": {"own_captions": ratings.num_own, "elsewhere": ratings.num_elsewhere},
        "settings": settings,
        "metrics": [
            row_as_json(row, ["tau_c"]) | {"published": AGREEMENT.get(row.metric.key)}
            for row in rows
        ],
        "rated": [
            {
                "image": line.photo,
                "caption_id": line.caption_id,
                "caption": ratings.captions[number],
                "ratings": list(line.ratings),
                "scores": _scores_of(number, scores),
            }
            for number, line in enumerate(ratings.rated)
        ],
        "versions": versions(),
    }
    (path,) = write_files(folder, {AGREEMENT_FILE: json_text(content)})
    return path


def _scores_of(number: int, scores: Scores) -> dict[str, float | None]:
    """A caption's scores, in the units that tables show.

    All digits: rounding would turn scores that differ into ties, and tau-c would be another.
    """
    scale = {metric.key: metric.scale for metric in METRICS}
    found = {
        key: float(values[number]) * scale[key]
        for key, values in scores.items()
        if not isinstance(values, Missing)
    }
    return {key: score if math.isfinite(score) else None for key, score in found.items()}
