"""The chart of a run's losses over its epochs, drawn by matplotlib."""

import math
from collections.abc import Sequence
from itertools import groupby
from pathlib import Path
from typing import Any

from smile.captioning.lettering import Colour
from smile.captioning.pictures import FAINT, INK, LABELS, PLACES, faded, save_picture

CHART = {  # matplotlib's settings for the chart of losses
    "font.size": 11,
    "axes.edgecolor": "none",
    "axes.labelcolor": "#262a33",
    "axes.grid": True,
    "axes.grid.axis": "y",
    "axes.axisbelow": True,
    "grid.color": "#e5e8ed",
    "xtick.color": "#7d8491",
    "ytick.color": "#7d8491",
    "lines.linewidth": 2.5,
    "lines.markersize": 6,
    "legend.frameon": False,
}

LEFT, RIGHT, BOTTOM, TOP = 0.08, 0.97, 0.11, 0.88  # of the plots, as shares of the chart
GAP = 0.07  # between the plots of two phases, for the second one's numbers
LEAST = 0.25  # of a phase's width, as a share of the widest one's


def loss_curve(records: Sequence[dict], path: str | Path) -> None:
    """Save training and validation loss over the epochs as a line chart.

    Each record, one at least, has `epoch`, `objective`, `train_loss` and `val_loss`. Each phase
    has its colour, for training a light one, and a plot with a scale of its own: losses of two
    objectives cannot be compared. A loss that is missing or not finite leaves a gap.
    """
    # Imported here, because it takes a second and most commands draw no chart.
    import matplotlib.style
    from matplotlib.backends.backend_agg import FigureCanvasAgg  # pyplot might open a window
    from matplotlib.figure import Figure

    phases = [list(group) for _, group in groupby(records, key=lambda record: record["objective"])]
    with matplotlib.style.context(["default", CHART]):  # not what the user's matplotlibrc says
        figure = Figure(figsize=(9.6, 5.4))
        left = LEFT
        for phase, width in zip(phases, _widths(phases), strict=True):
            axes = figure.add_axes((left, BOTTOM, width, TOP - BOTTOM))
            _draw_phase(axes, phase)
            if phase is phases[0]:
                axes.set_ylabel("loss per token")
            left += width + GAP
        for name, colour in (("training", light(INK)), ("validation", INK)):
            axes.plot([], [], "o-", color=_hex(colour), label=name)
        figure.legend(loc="upper left", ncols=2, bbox_to_anchor=(LEFT - 0.02, 1))
        if len(phases) > 1:
            note = "each objective has a scale of its own"
            figure.text(RIGHT, 0.955, note, color=_hex(FAINT), ha="right", va="center")
        save_picture(FigureCanvasAgg(figure).print_png, path)


def _widths(phases: Sequence[Sequence[dict]]) -> list[float]:
    """The width of each phase's plot, by its number of epochs, but none too narrow to read."""
    lengths = [phase[-1]["epoch"] - phase[0]["epoch"] + 1 for phase in phases]
    lengths = [max(length, LEAST * max(lengths)) for length in lengths]
    room = RIGHT - LEFT - GAP * (len(phases) - 1)
    return [room * length / sum(lengths) for length in lengths]


def _draw_phase(axes: Any, phase: Sequence[dict]) -> None:
    """The losses of the epochs of one objective, and its name above them."""
    from matplotlib.ticker import MaxNLocator

    objective, epochs = phase[0]["objective"], [record["epoch"] for record in phase]
    colour, known = objective_colour(objective), []
    for key, shade in (("train_loss", light(colour)), ("val_loss", colour)):
        losses = [_finite(record.get(key)) for record in phase]
        axes.plot(epochs, losses, "o-", color=_hex(shade))
        known += [loss for loss in losses if not math.isnan(loss)]
    if not known or min(known) < max(known) / 2:  # else a line from 0 would look flat
        axes.set_ylim(bottom=0)
    axes.set_title(objective.upper(), color=_hex(colour), fontsize=11)
    axes.set_xlabel("epoch")
    axes.set_xlim(epochs[0] - 0.5, epochs[-1] + 0.5)
    axes.spines["bottom"].set_color(_hex(FAINT))
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
    axes.yaxis.set_major_locator(MaxNLocator(nbins=6, min_n_ticks=3))


def _hex(colour: Colour) -> str:
    return f"#{bytes(colour).hex()}"


def _finite(loss: float | None) -> float:
    """The loss, NaN where there is none: matplotlib leaves a gap there."""
    return math.nan if loss is None or not math.isfinite(loss) else loss


def light(colour: Colour) -> Colour:
    """The colour, half faded into the paper."""
    return faded(colour, 0.5)


def objective_colour(objective: str) -> Colour:
    """MLE's, or that of SMILE, which its variants share: they take its place."""
    return LABELS[PLACES["mle" if objective == "mle" else "smile"]]
