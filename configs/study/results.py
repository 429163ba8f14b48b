"""What a study found, in one small file: scores, losses and lengths of each run, a few captions."""

import json
import os
import platform
import re
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import torch
from plan import Run

from smile.weights.run_folder import LOG

TIMELINE = "timeline.json"  # which job took how long, of all calls of run.py
PHOTOS = 12  # test photos whose captions are kept
STOP_METRICS = (  # of the captioner of each epoch
    *("length", "distinct_words", "bleu_4", "cider_d"),
    *("judge_r1", "judge_r10", "judge_rank"),
)
INTERVAL = (
    "95 %, bootstrap over the test photos (distinct words: jackknife); "
    "R@K judged by the MLE captioner of the other seed"
)


def results(out: Path, runs: list[Run], *, command: str, device: str) -> dict[str, Any]:
    """Everything that is there so far of the study in `out`."""
    systems = {run.name: system(out, run) for run in runs if (out / run.name / LOG).exists()}
    timeline = out / TIMELINE
    jobs = json.loads(timeline.read_text("utf-8")) if timeline.exists() else []
    return {
        "machine": machine(device),
        "command": command,
        "job_seconds": round(sum(job["seconds"] for job in jobs), 1),  # of all calls
        "interval": INTERVAL,
        "photos": photos(out, runs),
        "systems": systems,
    }


def system(out: Path, run: Run) -> dict[str, Any]:
    """A run: its losses, and its scores where it has them.

    seconds: of training alone, over all calls that it took. epochs: rows of epoch, objective,
    training and validation loss. metrics: value, low and high end of the interval. lengths: how
    many captions have 0 words, 1, 2 … stops: STOP_METRICS of each epoch's captioner, on validation
    photos; epoch 0 is what the run began with.
    """
    records = [json.loads(line) for line in (out / run.name / LOG).read_text("utf-8").splitlines()]
    found: dict[str, Any] = {
        "meaning": run.meaning,
        "seconds": round(sum(record["seconds"] for record in records), 1),
        "epochs": [
            [record["epoch"], record["objective"]]
            + [rounded(record[key]) for key in ("train_loss", "val_loss")]
            for record in records
        ],
    }
    report = out / "scores" / run.name / "report.json"
    if report.exists():
        found |= scores(json.loads(report.read_text("utf-8")))
    report = out / "scores" / f"{run.name}-epochs" / "report.json"
    if report.exists():
        found["stops"] = stops(json.loads(report.read_text("utf-8")))
    return found


def scores(report: dict[str, Any]) -> dict[str, Any]:
    """Metrics, lengths and a few captions from the report of one captioner."""
    (label,) = (one["label"] for one in report["systems"])
    images = [image["systems"][label] for image in report["per_image"]]
    lengths = Counter(round(image["scores"]["length"]) for image in images)
    return {
        "metrics": metrics(report, label),
        "lengths": [lengths[words] for words in range(max(lengths) + 1)],
        "captions": [image["caption"] for image in a_few(images)],
    }


def stops(report: dict[str, Any]) -> list[dict[str, Any]]:
    """The captioner of each epoch: its number, and those of STOP_METRICS that were measured."""
    labels = [one["label"] for one in report["systems"]]
    return [
        {
            "epoch": int(label) if label.isdecimal() else 0,
            "metrics": {
                key: numbers
                for key, numbers in metrics(report, label).items()
                if key in STOP_METRICS
            },
        }
        for label in labels
    ]


def metrics(report: dict[str, Any], label: str) -> dict[str, list[float | None]]:
    """What was measured of a captioner: three numbers of each metric."""
    return {row["key"]: cell for row in report["metrics"] if (cell := three(row, label))}


def three(row: dict[str, Any], label: str) -> list[float | None]:
    """Value, low and high end; nothing if it was not measured."""
    cell = row["values"][label]
    if cell.get("value") is None:
        return []
    return [rounded(cell.get(key)) for key in ("value", "low", "high")]


def photos(out: Path, runs: list[Run]) -> list[str]:
    """Names of the test photos whose captions are kept, as far apart as can be."""
    for run in runs:
        report = out / "scores" / run.name / "report.json"
        if report.exists():
            per_image = json.loads(report.read_text("utf-8"))["per_image"]
            return [Path(image["image"]).name for image in a_few(per_image)]
    return []


def a_few(images: list) -> list:
    """PHOTOS of them, evenly spread."""
    count = min(PHOTOS, len(images))
    return [images[number * len(images) // count] for number in range(count)]


def rounded(number: float | None) -> float | None:
    return None if number is None else round(number, 4)


def machine(device: str) -> str:
    """The processor, or the GPU where one was used, cores and the version of torch."""
    name = platform.processor() or platform.machine()
    if sys.platform == "linux":
        found = re.search(r"model name\s*:\s*(.+)", Path("/proc/cpuinfo").read_text("utf-8"))
        name = found[1] if found else name
    if device != "cpu" and torch.cuda.is_available():
        name = torch.cuda.get_device_name()
    return f"{name}, {os.cpu_count()} CPU cores, torch {torch.__version__}"


def as_text(found: dict[str, Any]) -> str:
    """JSON with each list of numbers or words on a line of its own."""
    text = json.dumps(found, indent=1, ensure_ascii=False)
    inner = re.compile(r"\[\s+[^\[\]{}]*?\s+\]")  # lists that hold no other
    between = re.compile(r"(?<=[\[,])\s*\n\s*|\s*\n\s*(?=\])")

    def on_a_line(match: re.Match) -> str:
        return between.sub(" ", match[0]).replace("[ ", "[").replace(" ]", "]")

    return inner.sub(on_a_line, text) + "\n"
