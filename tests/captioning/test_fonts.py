"""Fonts are found without help, told apart by what they can draw, and damaged ones passed over."""

from pathlib import Path

import pytest
from fontTools.fontBuilder import FontBuilder
from fontTools.pens.ttGlyphPen import TTGlyphPen
from fontTools.ttLib import TTCollection, TTFont

from smile.captioning import fonts
from smile.captioning.fonts import Face, Fonts
from smile.errors import UserError


def make_font(path: Path, characters: str, family: str = "Made") -> Path:
    """A font of squares for these characters."""
    names = [".notdef", *(f"g{number}" for number in range(len(characters)))]
    pen = TTGlyphPen(None)
    pen.moveTo((0, 0))
    for point in ((0, 700), (700, 700), (700, 0)):
        pen.lineTo(point)
    pen.closePath()
    square = pen.glyph()
    builder = FontBuilder(1000, isTTF=True)
    builder.setupGlyphOrder(names)
    builder.setupCharacterMap(
        {ord(char): name for char, name in zip(characters, names[1:], strict=True)}
    )
    builder.setupGlyf(dict.fromkeys(names, square))
    builder.setupHorizontalMetrics(dict.fromkeys(names, (800, 0)))
    builder.setupHorizontalHeader(ascent=800, descent=-200)
    builder.setupNameTable({"familyName": family, "styleName": "Regular"})
    builder.setupOS2()
    builder.setupPost()
    path.parent.mkdir(parents=True, exist_ok=True)
    builder.save(path)
    return path


def test_dejavu_comes_along_and_has_five_scripts():
    first = Fonts([]).first
    assert first.path.name == "DejaVuSans.ttf"
    assert first.has("Zoë γάτα кошка חתול قطة")
    assert not first.has("a中") and not first.has("\U0010fffd")


def test_a_font_is_found_in_a_folder_by_what_it_has(tmp_path):
    made = make_font(tmp_path / "deep" / "folder" / "made.TTF", "中文 ")
    (tmp_path / "aaa.ttf").write_bytes(b"not a font")
    (tmp_path / "notes.txt").write_text("中")
    make_font(tmp_path / "Made-Bold.ttf", "中文字 ")
    here = Fonts([tmp_path, tmp_path / "absent"])
    assert here.face("中文") == Face(made)
    assert here.face("abc") == here.first
    assert here.face("字") is None  # only the bold one has it
    assert here.face("a中") is None


def test_noto_is_preferred(tmp_path):
    for name in ("Aardvark.ttf", "NotoSerifMade.ttf", "NotoSansMade.ttf"):
        make_font(tmp_path / name, "中")
    assert Fonts([tmp_path]).face("中") == Face(tmp_path / "NotoSansMade.ttf")


def test_chinese_characters_are_drawn_as_in_their_region(tmp_path):
    collection = TTCollection()
    for region in ("JP", "KR", "SC"):
        part = make_font(tmp_path / "part.ttf", "直", f"Made {region}")
        collection.fonts.append(TTFont(part))
    (tmp_path / "part.ttf").unlink()
    collection.save(tmp_path / "made.ttc")
    here = Fonts([tmp_path])
    numbers = [
        face.index for region in ("JP", "KR", "SC", "TC") if (face := here.face("直", region))
    ]
    assert numbers == [0, 1, 2, 0]


def test_where_matplotlib_has_no_fonts_the_system_s_are_taken(tmp_path, monkeypatch):
    monkeypatch.setattr(fonts, "_shipped", lambda: None)
    with pytest.raises(UserError, match="no font to write with: DejaVu Sans comes with matplotlib"):
        _ = Fonts([tmp_path]).first
    made = make_font(tmp_path / "made.ttf", "abc")
    assert Fonts([tmp_path]).first == Face(made)


@pytest.mark.parametrize(
    ("platform", "folder"),
    [("linux", "/opt/share/fonts"), ("darwin", "/Library/Fonts"), ("win32", "Fonts")],
)
def test_each_system_has_its_folders(monkeypatch, platform, folder):
    monkeypatch.setattr("sys.platform", platform)
    monkeypatch.setenv("XDG_DATA_DIRS", "/opt/share")
    assert any(str(path).endswith(folder) for path in fonts.system_folders())
