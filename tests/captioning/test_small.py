"""The captioner that comes along: by its name, and in place of one that cannot be downloaded.

A tiny random one of these tests takes its place.
"""

import tomllib
from pathlib import Path

import pytest
from helpers import ROOT, make_photos

import sample
from smile.errors import UserError
from smile.weights import needed
from smile.weights.known import KNOWN, SMALL
from smile.weights.load import load, start_check

LARGEST = 16_000_000  # bytes of its weights


@pytest.fixture
def photo(small, tmp_path, monkeypatch):
    """A photo, in a working directory without runs; the hub cannot be reached."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hub"))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setenv("SMILE_OFFLINE", "1")
    return str(make_photos(Path("photos"), 1)[0])


def test_it_describes_where_the_usual_one_cannot_be_had(photo, run_script):
    status, out, said = run_script(sample.main, photo)
    assert status == 0 and out.startswith(f"{photo}: "), said
    assert "blip-base: downloads are off (SMILE_OFFLINE is set)" in said
    assert f"by {SMALL}, a small model" in said and "--model blip-base" in said
    assert run_script(sample.main, photo, "--model", SMALL) == (0, out, "")


@pytest.mark.parametrize(
    "options", [["--out", "c.jsonl"], ["--txt"], ["--json"], ["--json-tokens"], ["--vocab", "v"]]
)
def test_it_fills_no_file_of_another_model_s(photo, options, run_script):
    before = sorted(Path("photos").rglob("*"))
    status, out, said = run_script(sample.main, photo, *options)
    assert status == 2 and out == "" and f"or --model {SMALL}" in said
    assert sorted(Path("photos").rglob("*")) == before and not Path("c.jsonl").exists()


def test_it_replaces_none_that_was_named_or_is_wrong(photo, run_script, monkeypatch):
    assert run_script(sample.main, photo, "--model", "blip-base")[:2] == (2, "")

    def wrong(*args, **options):
        raise UserError("config.json is of another model")

    monkeypatch.setattr(needed, "_download", wrong)
    status, _, said = run_script(sample.main, photo)
    assert status == 2 and "another model" in said and SMALL not in said


def test_damage_and_absence_are_said(photo):
    weights = needed.MODELS / SMALL / "model.safetensors"
    data = bytearray(weights.read_bytes())
    data[-1] ^= 1
    weights.write_bytes(data)
    with pytest.raises(UserError, match="not what was written"):
        start_check(SMALL)()
    for path in weights.parent.iterdir():
        path.unlink()
    weights.parent.rmdir()
    with pytest.raises(UserError, match="clone the project again"):
        load(SMALL)


def test_what_comes_along_is_whole_and_small():
    """With its licence and its model card, and in the wheel."""
    for folder in (
        ROOT / "smile" / "models" / known.folder for known in KNOWN.values() if known.folder
    ):
        names = {path.name for path in folder.iterdir()}
        assert names == {
            *("model.safetensors", "model.safetensors.sha256", "config.toml", "vocab.txt"),
            *("LICENSE", "README.md"),
        }
        assert (folder / "model.safetensors").stat().st_size <= LARGEST
        assert load(folder.name).config.model.trained_on == "photos"
        assert "TO BE FILLED" not in (folder / "README.md").read_text("utf-8")
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))
    assert "models/*/*" in project["tool"]["setuptools"]["package-data"]["smile"]
    assert "smile/models/*/LICENSE" in project["project"]["license-files"]
