"""The study's tables, plots and contact sheet, from the numbers in results/.

    python configs/study/draw.py configs/study/results/h200.json --to docs/study
    python configs/study/draw.py RESULTS.json --sheet runs/sheet.jpg --photos data/flickr8k/images

Prints tables in Markdown: the scores, those after each epoch of what follows MLE (on validation
photos), and what a few runs say of twelve test photos. `--to` writes plots as NAME.png for pages in
light and NAME-dark.png for those in dark: retrieval (length against R@1), losses, lengths, and
stops (R@10 after each epoch). What the file lacks the numbers for is left out, a plot with a
message. `--sheet` draws the twelve photos with their captions. Flickr8k's photos are other people's
and may not be passed on, so it takes no file that git might commit.
"""

import argparse
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import matplotlib.style
import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg  # pyplot might open a window
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from PIL import Image

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT)]

from smile.captioning.contact_sheet import Shown, Told, contact_sheet  # noqa: E402
from smile.errors import UserError  # noqa: E402
from smile.model.images import open_image  # noqa: E402
from smile.system.files import read_json, write_atomically, writing  # noqa: E402
from smile.system.output import ending, prepare_output, say  # noqa: E402

# Paper, ink, faint, MLE, everything else; light pages are GitHub's, and so are dark ones.
PALETTES = {
    "": ("#ffffff", "#262a33", "#7d8491", "#2f6fde", "#e2711d"),
    "-dark": ("#0d1117", "#e6edf3", "#8d96a0", "#6ea8fe", "#ff9d57"),
}
COLUMNS = {  # of the table: metric → title, decimals
    "length": ("words", 1),
    "distinct_words": ("distinct words", 0),
    "tail_repeats": ("repeats at the end, %", 1),
    "bleu_1": ("BLEU-1", 1),
    "bleu_4": ("BLEU-4", 1),
    "meteor": ("METEOR", 1),
    "rouge_l": ("ROUGE-L", 1),
    "cider_d": ("CIDEr-D", 3),
    "judge_r1": ("R@1, %", 1),
    "judge_r5": ("R@5, %", 1),
    "judge_r10": ("R@10, %", 1),
    "judge_rank": ("mean rank", 0),
}
EXPECTED = "expected a file of results/, or the collected/results.json of run.py"
SHOWN = ("mle-1", "smile-1", "mix-0.1-1", "scratch-1")  # whose captions are shown
Systems = dict[str, dict[str, Any]]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("results", type=Path, metavar="RESULTS.json")
    parser.add_argument("--to", type=Path, metavar="DIR", help="for the plots")
    parser.add_argument("--sheet", type=Path, metavar="FILE.jpg", help="for the contact sheet")
    parser.add_argument("--photos", type=Path, metavar="DIR", help="with Flickr8k's photos")
    prepare_output()
    args = parser.parse_args()
    if bool(args.sheet) is not bool(args.photos):
        parser.error("--sheet and --photos go together")
    with ending("draw.py"):
        found = read_results(args.results)
        if args.sheet:
            sheet(found, args.photos, args.sheet)
        tables = table(found["systems"]), stops_table(found["systems"]), captions_table(found)
        if args.to:
            draw(found["systems"], args.to)
        say("\n\n".join(filter(None, tables)))


def read_results(path: Path) -> dict[str, Any]:
    """What run.py has collected.

    Raises:
        UserError: there is no such file, or it is another one.
    """
    found = read_json(path)
    systems = found.get("systems")
    if not isinstance(systems, dict) or not systems:
        raise UserError(f"{path}: it has no runs under `systems`: {EXPECTED}")
    for name, system in systems.items():
        if not isinstance(system, dict) or not {"meaning", "epochs"} <= set(system):
            raise UserError(f"{path}: `systems` → `{name}` is not a run of the study: {EXPECTED}")
    return found


# The table ----------------------------------------------------------------------------------------


def table(systems: Systems) -> str:
    """A row for each scored run."""
    rows = {label(name, of): of["metrics"] for name, of in systems.items() if "metrics" in of}
    return in_markdown(rows)


def stops_table(systems: Systems) -> str:
    """A row for each epoch of what follows MLE, and one for the MLE of each seed; "" if none is."""
    rows = {}
    for name, system in systems.items():
        for stop in system.get("stops", []):
            epoch = stop["epoch"]
            run = {"meaning": f"{system['meaning']}, epoch {epoch}" if epoch else "MLE"}
            rows[label(name, run)] = stop["metrics"]
    return in_markdown(rows) if rows else ""


def in_markdown(rows: dict[str, dict[str, list[float]]]) -> str:
    """A table of the metrics that any row has, each with its interval."""
    keys = [key for key in COLUMNS if any(key in metrics for metrics in rows.values())]
    lines = [f"| {' | '.join(['', *(COLUMNS[key][0] for key in keys)])} |"]
    lines.append(f"|---|{'---|' * len(keys)}")
    for title, metrics in rows.items():
        cells = [cell(metrics.get(key, []), COLUMNS[key][1]) for key in keys]
        lines.append(f"| {' | '.join([title, *cells])} |")
    return "\n".join(lines)


def cell(numbers: list[float], decimals: int) -> str:
    if not numbers:
        return "not measured"
    value, low, high = (f"{number:.{decimals}f}" for number in numbers)
    return f"{value} [{low}, {high}]"


def label(name: str, system: dict[str, Any]) -> str:
    """What a run is, in words; the second seed says so."""
    return system["meaning"] + (", seed 2" if name.endswith("-2") else "")


# Captions -----------------------------------------------------------------------------------------


def captions_table(found: dict[str, Any]) -> str:
    """What the runs of `SHOWN` say of each of the twelve test photos; "" if none is there."""
    shown = speakers(found["systems"])
    if not shown:
        return ""
    lines = [f"| photo | {' | '.join(shown)} |", f"|---|{'---|' * len(shown)}"]
    for name, *captions in zip(found["photos"], *shown.values(), strict=True):
        lines.append(f"| {name.removesuffix('.jpg')} | {' | '.join(captions)} |")
    return "\n".join(lines)


def speakers(systems: Systems) -> dict[str, list[str]]:
    """The captions of each run of `SHOWN` that is there, by what the run is."""
    there = [name for name in SHOWN if "captions" in systems.get(name, {})]
    return {label(name, systems[name]): systems[name]["captions"] for name in there}


def sheet(found: dict[str, Any], photos: Path, path: Path) -> None:
    """The twelve test photos with what the runs of `SHOWN` say of them.

    Raises:
        UserError: a photo is missing, or the file lies where git might commit it.
    """
    own, kept = path.resolve(), ROOT / "runs"  # which git ignores
    if own.is_relative_to(ROOT) and not own.is_relative_to(kept):
        raise UserError(
            f"--sheet {path}: Flickr8k's photos may not be committed: name a file in {kept}, or "
            "one outside the checkout"
        )
    said = speakers(found["systems"])
    shown = [
        Shown(
            image=open_image(str(photos / name)),
            name=name,
            captions=[Told(text=texts[number], label=who) for who, texts in said.items()],
        )
        for number, name in enumerate(found["photos"])
    ]
    path.parent.mkdir(parents=True, exist_ok=True)
    contact_sheet(shown, path)


# The plots ----------------------------------------------------------------------------------------


def draw(systems: Systems, folder: Path) -> None:
    """Every plot, for light and for dark pages."""
    with writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
    for name, plot in PLOTS.items():
        for kind, palette in PALETTES.items():
            with matplotlib.style.context(["default", style(palette)]):
                figure = plot(systems, palette)
                if figure is None:
                    print(f"draw.py: no plot of {name}: no run has its numbers", file=sys.stderr)
                    break
                save(figure, folder / f"{name}{kind}.png")


def save(figure: Figure, path: Path) -> None:
    """As a PNG of 64 colours, a third of the size."""
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    picture = Image.fromarray(np.asarray(canvas.buffer_rgba())).convert("RGB").quantize(64)
    with writing(path):
        write_atomically(path, lambda temporary: picture.save(temporary, "PNG", optimize=True))


def style(palette: tuple[str, ...]) -> dict[str, Any]:
    paper, ink, faint, *_ = palette
    return {
        "font.size": 10,
        "figure.dpi": 120,
        "figure.facecolor": paper,
        "axes.facecolor": paper,
        "text.color": ink,
        "axes.edgecolor": faint,
        "axes.labelcolor": ink,
        "axes.spines.top": False,
        "axes.spines.right": False,
        "axes.titlesize": 10,
        "xtick.color": faint,
        "ytick.color": faint,
        "lines.markersize": 4,
    }


def colour(name: str, palette: tuple[str, ...]) -> str:
    """MLE's, or that of everything else."""
    return palette[3 if name.startswith(("start", "mle", "recipe")) else 4]


def name_points(axes: Axes, points: list[tuple[float, float, str, str]], faint: str) -> None:
    """Names in a column to the right of the axes, each with a line to its point (x, y).

    Points lie too close together for names beside them. A name is as high as its point, or as near
    to that as the others let it.
    """
    low, high = axes.get_ylim()
    left, right = axes.get_xlim()
    points = sorted(points, key=lambda point: point[1])
    room = (high - low) / max(17, len(points))
    places: list[float] = []
    for _, y, *_ in points:
        places.append(max(y, places[-1] + room if places else low))
    for number in reversed(range(len(places))):  # down again where they passed the top
        above = places[number + 1] if number + 1 < len(places) else high + room / 2
        places[number] = min(places[number], above - room)
    for (x, y, text, shade), place in zip(points, places, strict=True):
        axes.annotate(
            text,
            (x, y),
            (right + 0.04 * (right - left), place),
            color=shade,
            va="center",
            annotation_clip=False,
            arrowprops={"arrowstyle": "-", "color": faint, "linewidth": 0.5}
            | {"shrinkA": 2, "shrinkB": 3, "relpos": (0, 0.5)},
        )


def retrieval(systems: Systems, palette: tuple[str, ...]) -> Figure | None:
    """Words of a caption against R@1, with both intervals."""
    scored = {name: s for name, s in systems.items() if "judge_r1" in s.get("metrics", {})}
    if not scored:
        return None
    figure = Figure(figsize=(8.5, 4.6))
    axes = figure.add_axes((0.08, 0.12, 0.5, 0.82))
    points = []
    for name, system in scored.items():
        (x, *across), (y, *up) = (system["metrics"][key] for key in ("length", "judge_r1"))
        errors = [[[x - across[0]], [across[1] - x]], [[y - up[0]], [up[1] - y]]]
        shade = colour(name, palette)
        axes.errorbar(x, y, xerr=errors[0], yerr=errors[1], fmt="o", color=shade, elinewidth=1)
        points.append((x, y, label(name, system), shade))
    axes.set(xlabel="words in a caption", ylabel="R@1 by the other seed's MLE captioner, %")
    axes.set_ylim(bottom=0)
    name_points(axes, points, palette[2])
    return figure


def losses(systems: Systems, palette: tuple[str, ...]) -> Figure | None:
    """The losses over the epochs. Those of two objectives differ in kind, so MLE's stand apart."""
    trained = {name: system for name, system in systems.items() if len(system["epochs"]) > 1}
    if not trained:
        return None
    by_mle = {name: s for name, s in trained.items() if s["epochs"][0][1] == "mle"}
    others = {name: s for name, s in trained.items() if name not in by_mle}
    title, figure = "MLE (dotted: training)", Figure(figsize=(8.5, 4.2))
    if by_mle and others:
        _losses(figure.add_axes((0.07, 0.12, 0.24, 0.78)), systems, by_mle, palette, title)
        axes = figure.add_axes((0.38, 0.12, 0.22, 0.78))
        name_points(axes, _losses(axes, systems, others, palette, "the others"), palette[2])
    else:
        axes = figure.add_axes((0.08, 0.12, 0.5, 0.78))
        points = _losses(axes, systems, trained, palette, title if by_mle else "")
        name_points(axes, points, palette[2])
    return figure


def _losses(
    axes: Axes, systems: Systems, shown: Systems, palette: tuple[str, ...], title: str
) -> list[tuple[float, float, str, str]]:
    """Draws some runs' losses; returns their ends, to be named."""
    points = []
    for name, system in shown.items():
        epochs, objectives, training, validation = zip(*system["epochs"], strict=True)
        shade = colour(name, palette)
        if name.startswith("mle-"):  # goes on where its start ended
            start = systems.get(f"start-{name[4:]}", {"epochs": [[0]]})
            epochs = [start["epochs"][-1][0] + epoch for epoch in epochs]
        axes.plot(epochs, validation, "o-", color=shade, linewidth=1)
        if objectives[0] == "mle":
            axes.plot(epochs, training, ":", color=shade, linewidth=1)
        points.append((epochs[-1], validation[-1], label(name, system), shade))
    axes.set(xlabel="epoch", ylabel="loss per token", title=title)
    return points


def lengths(systems: Systems, palette: tuple[str, ...]) -> Figure | None:
    """How long captions are: a row of its own scale for each run of seed 1, its mean marked."""
    shown = {name: s for name, s in systems.items() if "lengths" in s and not name.endswith("-2")}
    if not shown:
        return None
    height = 0.36 * len(shown) + 0.9
    figure = Figure(figsize=(8.5, height))
    axes = figure.add_axes((0.36, 0.55 / height, 0.62, 1 - 0.7 / height))
    for row, (name, system) in enumerate(reversed(shown.items())):
        counts, shade = system["lengths"], colour(name, palette)
        tops = [row + 0.9 * count / max(counts) for count in counts]
        axes.fill_between(range(len(counts)), row, tops, step="mid", color=shade, linewidth=0)
        mean = system["metrics"]["length"][0]
        axes.plot([mean, mean], [row, row + 0.9], color=palette[1], linewidth=1)
    axes.set_yticks([row + 0.3 for row in range(len(shown))])
    axes.set_yticklabels([label(*item) for item in reversed(shown.items())], color=palette[1])
    axes.tick_params(axis="y", length=0)
    axes.spines["left"].set_visible(False)
    axes.set(xlabel="words in a caption", ylim=(0, len(shown)))
    axes.set_xlim(left=0)
    return figure


def stops(systems: Systems, palette: tuple[str, ...]) -> Figure | None:
    """R@10 on validation photos after each epoch of what follows MLE; epoch 0 is MLE's."""
    followed = {
        name: system
        for name, system in systems.items()
        if system.get("stops") and all("judge_r10" in row["metrics"] for row in system["stops"])
    }
    if not followed:
        return None
    figure = Figure(figsize=(8.5, 4.6))
    axes = figure.add_axes((0.08, 0.12, 0.5, 0.82))
    points = []
    for name, system in followed.items():
        epochs = [row["epoch"] for row in system["stops"]]
        values, low, high = zip(
            *(row["metrics"]["judge_r10"] for row in system["stops"]), strict=True
        )
        errors = [
            [value - end for value, end in zip(values, low, strict=True)],
            [end - value for value, end in zip(values, high, strict=True)],
        ]
        shade = colour(name, palette)
        axes.errorbar(epochs, values, errors, fmt="o-", color=shade, elinewidth=0.7, linewidth=1)
        points.append((epochs[-1], values[-1], label(name, system), shade))
    axes.set(xlabel="epochs after MLE", ylabel="R@10 on validation photos, %")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.set_ylim(bottom=0)
    name_points(axes, points, palette[2])
    return figure


PLOTS: dict[str, Callable[[Systems, tuple[str, ...]], Figure | None]] = {
    "retrieval": retrieval,
    "losses": losses,
    "lengths": lengths,
    "stops": stops,
}


if __name__ == "__main__":
    main()
