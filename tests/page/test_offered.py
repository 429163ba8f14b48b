"""The captioners to choose from, by the command line, the runs and the known names."""

import pytest

from smile.errors import UserError
from smile.page.offered import asked_models, find_offers
from smile.weights.known import KNOWN, SMALL
from tests.helpers import make_run


def test_models_are_named_any_number_of_times():
    assert asked_models([]) == []
    assert asked_models(["--model", "a", "--model=b", "--model", "a"]) == ["a", "b"]


@pytest.mark.parametrize(
    "words", [["a"], ["--mode", "a"], ["--model"], ["--model", ""], ["--help"]]
)
def test_anything_else_is_refused_in_one_line(words, capsys):
    with pytest.raises(UserError, match=r"usage: streamlit run app.py -- --model MODEL"):
        asked_models(words)
    assert capsys.readouterr() == ("", "")


def test_what_is_named_is_offered_in_that_order(tmp_path):
    run = make_run(tmp_path / "mine")
    offers = find_offers(["blip-base", str(run), "owner/name"])
    assert [offer.source for offer in offers.models] == ["blip-base", str(run), "owner/name"]
    assert "one download of 990 MB" in offers["blip-base"].label
    assert offers[str(run)].settings.max_length == 16  # the run's own


def test_what_to_expect_is_said(tmp_path):
    run = make_run(tmp_path / "drawn")
    config = (run / "config.toml").read_text()
    drawn = config.replace('trained_on = "unknown"', 'trained_on = "shapes"')
    (run / "config.toml").write_text(drawn)
    small, drawn = find_offers([SMALL, str(run)]).models
    assert "is included" in small.label and "often wrong" in small.remark
    assert small.settings.length_penalty == 0.5  # its own
    assert drawn.drawn and "drawn scenes only" in drawn.label
    assert "of photos the captions make no sense" in drawn.remark


def test_without_a_name_runs_come_before_downloads(tmp_path):
    make_run(tmp_path / "good")
    make_run(tmp_path / "good" / "mle")
    (make_run(tmp_path / "bad") / "config.toml").write_text("nonsense")
    offers = find_offers([], runs=tmp_path)
    sources = [offer.source for offer in offers.models if KNOWN.get(offer.source) is None]
    assert sources == [str(tmp_path / "good"), str(tmp_path / "good" / "mle")]
    needs_nothing = [offer for offer in offers.models if "download" not in offer.label]
    assert list(offers.models[: len(needs_nothing)]) == needs_nothing
    assert {offer.source for offer in offers.models} >= set(KNOWN)
    [line] = offers.left_out
    assert "bad" in line
