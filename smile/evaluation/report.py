"""report.json with everything, and report.html that shows it: a single file, without network."""

import base64
import io
import json
import math
import platform
from collections.abc import Sequence
from dataclasses import asdict
from functools import partial
from importlib import metadata, resources
from pathlib import Path
from string import Template
from typing import Any

from PIL import Image
from tqdm import tqdm

from smile.captioning.marks import differing_words, false_words, pieces
from smile.captioning.pictures import colour_numbers
from smile.data.batches import Example
from smile.data.shapes import Scene
from smile.evaluation.image_set import ImageSet, lies_outside, thumbnail
from smile.evaluation.published import NOTE, PUBLISHED, PUBLISHED_ROWS
from smile.evaluation.rows import Row, System
from smile.evaluation.table import not_measured, show, show_difference
from smile.metrics.bootstrap import Comparison, Interval
from smile.system.files import write_atomically, writing
from smile.version import NAME, __version__

__all__ = [
    "FILES",
    "as_json",
    "finite",
    "json_text",
    "row_as_json",
    "versions",
    "write_files",
    "write_report",
]

FILES = ("report.json", "report.html")
VERSION = 1  # of report.json
THUMBNAIL, QUALITY = 160, 80  # longest side in pixels, and JPEG's quality
PACKAGES = ("torch", "numpy", "pillow", "tokenizers", "pycocoevalcap")


def write_report(
    folder: str | Path,
    images: ImageSet,
    systems: Sequence[System],
    rows: Sequence[Row],
    *,
    settings: dict[str, Any],
    published: bool = False,
    embed_outside: bool = False,
) -> list[Path]:
    """Writes both files into `folder`, each whole or not at all; returns their paths.

    Args:
        embed_outside: also show pictures outside the folder of the data set or references. Off by
            default: a stranger's list can name any picture of this machine, and reports are shared.

    Raises:
        UserError: they cannot be written.
    """
    content = as_json(images, systems, rows, settings=settings)
    page = _html(content, images, rows, published=published, embed_outside=embed_outside)
    return write_files(Path(folder), dict(zip(FILES, (json_text(content), page), strict=True)))


def json_text(content: dict[str, Any]) -> str:
    return json.dumps(content, ensure_ascii=False, indent=1, allow_nan=False) + "\n"


def write_files(folder: Path, texts: dict[str, str]) -> list[Path]:
    """Writes texts into a folder by their names, each whole or not at all; returns their paths.

    Raises:
        UserError: they cannot be written.
    """
    with writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
        for name, text in texts.items():
            # A lone surrogate (a byte of a file's name) becomes a JSON escape.
            data = text.encode("utf-8", "backslashreplace")
            write_atomically(folder / name, partial(Path.write_bytes, data=data))
    return [folder / name for name in texts]


# report.json --------------------------------------------------------------------------------------


def as_json(
    images: ImageSet, systems: Sequence[System], rows: Sequence[Row], *, settings: dict[str, Any]
) -> dict[str, Any]:
    """All results, in the units that tables show; null where there is no number."""
    labels = [system.label for system in systems]
    return {
        "version": VERSION,
        "images": {
            "title": images.title,
            "number": len(images.examples),
            "number_in_split": images.num_in_split,
            "fingerprint": images.fingerprint(),
            "data": None if images.data is None else asdict(images.data),
        },
        "settings": settings,
        "systems": [{"label": system.label} | system.record for system in systems],
        "metrics": [row_as_json(row, labels) for row in rows],
        "per_image": [
            _image_as_json(number, example, systems, rows)
            for number, example in enumerate(images.examples)
        ],
        "versions": versions(),
    }


def row_as_json(row: Row, labels: Sequence[str]) -> dict[str, Any]:
    values: dict[str, dict[str, float | str | None]] = {}
    for label, cell in zip(labels, row.cells, strict=True):
        if cell.interval is None:
            values[label] = {"missing": cell.missing}
        else:
            values[label] = _interval_as_json(cell.interval) | {"note": cell.note}
    content = asdict(row.metric) | {"values": values}
    if row.comparisons:
        content["differences"] = {
            label: comparison and _comparison_as_json(comparison, labels[0])
            for label, comparison in zip(labels[1:], row.comparisons, strict=True)
        }
    return content


def _comparison_as_json(comparison: Comparison, first: str) -> dict[str, Any]:
    return _interval_as_json(comparison.difference) | {
        "from": first,
        "p_value": comparison.p_value,
    }


def _interval_as_json(interval: Interval) -> dict[str, float | None]:
    return {key: finite(value) for key, value in asdict(interval).items()}


def _image_as_json(
    number: int, example: Example, systems: Sequence[System], rows: Sequence[Row]
) -> dict[str, Any]:
    return {
        "image": example.name,
        "references": list(example.captions),
        "systems": {
            system.label: {
                "caption": system.captions[number],
                "scores": {
                    row.metric.key: finite(scores[number])
                    for row in rows
                    if (scores := row.cells[column].per_image) is not None
                },
            }
            for column, system in enumerate(systems)
        },
    }


def finite(value: float) -> float | None:
    """Rounded to float32's precision; null for NaN and infinity."""
    return float(f"{value:.7g}") if math.isfinite(value) else None


def versions() -> dict[str, str]:
    """The versions of Python, of this project, and of installed packages that scores depend on."""
    found = {"python": platform.python_version(), NAME: __version__}
    for package in PACKAGES:
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return found


# report.html --------------------------------------------------------------------------------------


def _html(
    content: dict[str, Any],
    images: ImageSet,
    rows: Sequence[Row],
    *,
    published: bool,
    embed_outside: bool,
) -> str:
    """The page: a template with all data as JSON, which its script shows."""
    systems = content["systems"]
    shown = content | {
        "not_measured": not_measured(rows),
        "thumbnails": [
            ""
            if lies_outside(example) and not embed_outside
            else _data_uri(thumbnail(example, THUMBNAIL))
            for example in tqdm(
                images.examples, desc="thumbnails", unit=" images", leave=False, disable=None
            )
        ],
        "shown": {row.metric.key: _shown(row) for row in rows},
        "pieces": [
            _pieces(example, [image["systems"][system["label"]]["caption"] for system in systems])
            for example, image in zip(images.examples, content["per_image"], strict=True)
        ],
        "colours": colour_numbers([system["label"] for system in systems]),
    }
    if published:
        shown["published"] = {
            "note": NOTE,
            "rows": PUBLISHED_ROWS,
            "systems": [asdict(system) for system in PUBLISHED],
        }
    # Inside <script> only "<" could end the data, so it is written as a JSON escape.
    data = json.dumps(shown, ensure_ascii=False, allow_nan=False).replace("<", "\\u003c")
    template = resources.files("smile.evaluation").joinpath("report.html").read_text("utf-8")
    return Template(template).substitute(data=data)


def _pieces(example: Example, captions: Sequence[str]) -> list[list[tuple[str, bool, bool]]]:
    """Each caption of an image in pieces: a text, if no other caption has it, if it is false.

    Of photos nobody knows what is false.
    """
    found = []
    for caption, differing in zip(captions, differing_words(captions), strict=True):
        false = false_words(caption, example) if isinstance(example, Scene) else ()
        marked = pieces(caption, differing, false)
        found.append([(text, differs, is_false) for text, _, (differs, is_false) in marked])
    return found


def _shown(row: Row) -> dict[str, list[str]]:
    """The texts of a row's cells, as the terminal shows them."""
    return {
        "values": [show(row.metric, cell.interval) if cell.interval else "" for cell in row.cells],
        "differences": [
            show_difference(row.metric, comparison) if comparison else ""
            for comparison in row.comparisons
        ],
    }


def _data_uri(image: Image.Image | None) -> str:
    """The picture as a data URI of a JPEG; "" for none."""
    if image is None:
        return ""
    buffer = io.BytesIO()
    image.convert("RGB").save(buffer, "JPEG", quality=QUALITY)
    return "data:image/jpeg;base64," + base64.b64encode(buffer.getvalue()).decode()
