"""Pictures are found by the names that tables give, wherever they lie and however spelled."""

import unicodedata
from pathlib import Path

import pytest

from smile.data.places import Places

NFC, NFD = (unicodedata.normalize(form, "café") for form in ("NFC", "NFD"))


@pytest.mark.parametrize(("on_disk", "named"), [(NFC, NFD), (NFD, NFC), (NFC, NFC), (NFD, NFD)])
def test_accents_may_be_coded_either_way(tmp_path, on_disk, named):
    (tmp_path / on_disk).mkdir()
    (tmp_path / on_disk / f"{on_disk}.jpg").touch()
    places = Places(tmp_path)
    found = places.find(f"{named}/{named}.jpg", tmp_path)
    assert found == str(tmp_path / on_disk / f"{on_disk}.jpg") and Path(found).is_file()
    assert places.find(f"{tmp_path}/{named}/{named}.jpg", "elsewhere") == found
    assert places.find(f"{named}/other.jpg", tmp_path) is None


def test_the_exact_name_goes_first(tmp_path):
    for form in (NFC, NFD):
        (tmp_path / form).touch()
    assert all(Places(tmp_path).find(f, tmp_path) == str(tmp_path / f) for f in (NFC, NFD))


@pytest.mark.parametrize(
    "name", ["", ".", "..", "sub", "a.jpg/b", "no/a.jpg", "a\0.jpg", "x" * 300, "x/" * 5000, "/"]
)
def test_what_names_no_file(tmp_path, name):
    (tmp_path / "a.jpg").touch()
    (tmp_path / "sub").mkdir()
    (tmp_path / "circle").symlink_to("circle")
    assert Places(tmp_path).find(name, tmp_path, tmp_path / "sub", tmp_path / "nowhere") is None


def test_what_lies_outside(tmp_path):
    for name in ("home/in.jpg", "away/out.jpg", "store/a.jpg"):
        (tmp_path / name).parent.mkdir()
        (tmp_path / name).touch()
    home = tmp_path / "home"
    (home / "link.jpg").symlink_to("../away/out.jpg")
    (home / "sub").symlink_to("../away")
    (home / "images").symlink_to("../store")
    places = Places(home, home / "images")

    def outside(name: str) -> bool:
        return places.is_outside(places.find(name, home))

    assert not outside("in.jpg") and not outside("../home/in.jpg")
    assert outside("../away/out.jpg") and outside(f"{tmp_path}/away/out.jpg")
    assert outside("link.jpg") and outside("sub/out.jpg")
    assert not outside("images/a.jpg")  # a home that is a link
    assert Places(home).is_outside(str(home / "images" / "a.jpg"))
