"""What is worth taking along from a study: a few files, of at most about 16 MiB each."""

import json
import tarfile
import zipfile
from pathlib import Path

from plan import Run
from results import as_text, results
from safetensors.torch import load_file, save

from smile.system.files import write_text

MODELS = ("mle-1", "smile-1")  # beside the best of the others
WEIGHTS = "model.safetensors"


def collect(out: Path, runs: list[Run], to: Path, *, command: str, device: str) -> None:
    """Writes results.json, results.tar.gz, and a few captioners: run folders in half precision."""
    to.mkdir(parents=True, exist_ok=True)
    write_text(to / "results.json", as_text(results(out, runs, command=command, device=device)))
    names = [run.name for run in runs]
    _archive(out, names, to / "results.tar.gz")
    others = [n for n in names if n.partition("-")[0] not in ("start", "mle", "smile", "scratch")]
    captioners = {name: name for name in MODELS} | {"best": best_by_retrieval(out, others)}
    for label, name in captioners.items():
        if name and (out / name / "last" / WEIGHTS).exists():
            _captioner(out / name / "last", to / f"{label}.zip", name)


def best_by_retrieval(out: Path, names: list[str]) -> str:
    """The run whose captions find their photo most often; "" if none is scored."""
    found = {}
    for name in names:
        path = out / "scores" / name / "report.json"
        if path.exists():
            for row in json.loads(path.read_text("utf-8"))["metrics"]:
                if row["key"] == "judge_r1":
                    (cell,) = row["values"].values()
                    if cell.get("value") is not None:
                        found[name] = cell["value"]
    return max(found, key=found.get, default="")


def _archive(out: Path, names: list[str], path: Path) -> None:
    """Configs, logs and reports of each run; captions are in the reports."""
    wanted = [out / "timeline.json", *sorted((out / "logs").glob("*.log"))]
    for name in names:
        wanted += [out / "scores" / f"{name}{kind}" / "report.json" for kind in ("", "-epochs")]
        wanted += [out / name / part for part in ("config.toml", "log.jsonl")]
    unfinished = path.with_name(".unfinished")
    with tarfile.open(unfinished, "w:gz", compresslevel=6) as archive:
        for file in wanted:
            if file.exists():
                archive.add(file, file.relative_to(out))
    unfinished.replace(path)


def _captioner(run: Path, path: Path, name: str) -> None:
    weights = {name: tensor.half() for name, tensor in load_file(run / WEIGHTS).items()}
    unfinished = path.with_name(f".unfinished-{path.name}")
    with zipfile.ZipFile(unfinished, "w") as archive:  # weights do not compress
        archive.writestr(WEIGHTS, save(weights))
        archive.writestr("name.txt", name + "\n")
        for name in ("config.toml", "vocab.txt"):
            archive.write(run / name, name)
    unfinished.replace(path)
