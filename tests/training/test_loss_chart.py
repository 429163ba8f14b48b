"""The chart of losses: every loss is where it belongs, and none is squeezed."""

import matplotlib
import pytest
from helpers import colours_of
from PIL import Image

from smile.captioning.pictures import BLUE, ORANGE
from smile.training.loss_chart import GAP, LEAST, LEFT, RIGHT, _widths, light, loss_curve


def record(epoch, train_loss, val_loss, objective="mle") -> dict:
    return {
        "epoch": epoch,
        "objective": objective,
        "train_loss": train_loss,
        "val_loss": val_loss,
    }


# One plot spans x 77 to 931, and two of one epoch each x 77 to 470 and 538 to 931.
MIDDLE, BETWEEN = (500, 70, 509, 470), (475, 70, 480, 470)
SIDES = (80, 70, 498, 470), (510, 70, 928, 470)


def test_one_epoch_is_two_dots_in_the_middle(tmp_path):
    path = tmp_path / "loss.png"
    loss_curve([record(3, 1.0, 4.0)], path)
    with Image.open(path) as chart:
        assert chart.size == (960, 540)
    assert {BLUE, light(BLUE)} <= colours_of(path, MIDDLE)
    assert not {BLUE, light(BLUE)} & set.union(*(colours_of(path, side) for side in SIDES))


def test_each_objective_has_its_own_plot_and_scale(tmp_path):
    path = tmp_path / "loss.png"
    high, low = record(1, 4.0, 4.2), record(2, 0.004, 0.001, "smile")
    loss_curve([high, low], path)
    curves = {BLUE, ORANGE, light(BLUE), light(ORANGE)}
    assert not curves & colours_of(path, BETWEEN)
    assert curves & colours_of(path, (80, 70, 468, 470)) == {BLUE, light(BLUE)}
    # Beside losses a thousand times as high it still has the plot's whole height.
    assert curves & colours_of(path, (540, 70, 928, 150)) == {light(ORANGE)}
    assert curves & colours_of(path, (540, 200, 928, 400)) == {ORANGE}


def test_a_short_phase_is_not_squeezed_by_a_long_one():
    phases = [[{"epoch": e} for e in range(1, 100)], [{"epoch": 100}]]
    long, short = _widths(phases)
    assert short == pytest.approx(LEAST * long)
    assert LEFT + long + GAP + short == pytest.approx(RIGHT)


@pytest.mark.parametrize("missing", [None, float("nan"), float("inf")])
def test_a_loss_that_is_no_number_leaves_a_gap(tmp_path, missing):
    path = tmp_path / "loss.png"
    plot = (80, 70, 928, 470)
    loss_curve([record(1, 2.0, missing), record(2, 1.0, missing)], path)
    assert light(BLUE) in colours_of(path, plot)
    assert BLUE not in colours_of(path, plot)


def test_a_chart_heeds_no_settings_of_the_users(tmp_path, monkeypatch):
    loss_curve([record(1, 1.0, 2.0)], tmp_path / "a.png")
    monkeypatch.setitem(matplotlib.rcParams, "figure.facecolor", "black")
    loss_curve([record(1, 1.0, 2.0)], tmp_path / "b.png")
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()
