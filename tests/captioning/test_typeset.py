"""Text set in lines: nothing lost, nothing torn, in reading order, and by the fonts there are."""

import random
import re
import unicodedata

import pytest
from PIL import Image

from smile.captioning import lettering, pictures
from smile.captioning.attention_sheet import attention_sheet
from smile.captioning.contact_sheet import Shown, Told, contact_sheet
from smile.captioning.fonts import Face, Fonts
from smile.captioning.typeset import Line, Typesetter


class OneFont(Fonts):
    """As if the first font had every character."""

    def face(self, text: str, region: str = "SC") -> Face | None:
        return self.first


def measure(text: str, face: Face, rtl: bool) -> float:
    """As if every character were one wide, and marks nothing."""
    return sum(not unicodedata.combining(char) for char in text)


def text_of(line: Line) -> str:
    """A line in reading order."""
    runs = sorted(line.runs, key=lambda run: run.start)
    return "".join(run.text for run in runs)


def lines(text: str, width: float = 20, **options) -> list[str]:
    return [
        text_of(line) for line in Typesetter(OneFont([])).lines(text, width, measure, **options)
    ]


@pytest.mark.parametrize(
    ("text", "width", "expected"),
    [
        ("a dog runs", 20, ["a dog runs"]),
        ("a dog runs on grass", 10, ["a dog runs", "on grass"]),
        ("  a \t dog\n\nruns\r\n", 10, ["a dog", "runs"]),
        ("extraordinary", 5, ["extra", "ordin", "ary"]),
        ("an extraordinary dog", 6, ["an", "extrao", "rdinar", "y dog"]),
        ("", 5, []),
        (" \n ", 5, []),
        ("e\u0301e\u0301e\u0301", 1, ["é", "é", "é"]),
        ("q\u0301q\u0301", 1, ["q\u0301", "q\u0301"]),
        ("क्षि", 1, ["क्षि"]),
        ("เก้า", 2, ["เก้", "า"]),
        ("一只狗在跑", 3, ["一只狗", "在跑"]),
        ("一只狗，在跑。", 3, ["一只", "狗，在", "跑。"]),
        ("「犬」がいる", 2, ["「犬", "」が", "いる"]),
        ("走っている", 2, ["走っ", "てい", "る"]),
        ("ab犬cd", 3, ["ab犬", "cd"]),
        ("개가 달린다", 3, ["개가", "달린다"]),
    ],
)
def test_lines_break_where_they_may(text, width, expected):
    assert lines(text, width) == expected


def test_nothing_is_lost_and_no_line_is_too_wide():
    rng = random.Random(0)
    letters = "ab  אב عا 12.,()-一狗。é\u0301\u094dक"
    for _ in range(200):
        text = "".join(rng.choices(letters, k=rng.randint(0, 60)))
        found = Typesetter(OneFont([])).lines(text, 7, measure)
        joined = "".join(map(text_of, found)).replace(" ", "")
        assert joined == unicodedata.normalize("NFC", text).replace(" ", ""), ascii(text)
        for line in found:
            assert sum(measure(run.text, run.face, run.rtl) for run in line.runs) <= 7, ascii(text)


def test_a_line_stands_from_left_to_right():
    [line] = Typesetter(Fonts([])).lines("חתול abc כלב", 99, measure)
    assert [(run.text, run.rtl) for run in line.runs] == [
        (" כלב", True), ("abc", False), ("חתול ", True),
    ]  # fmt: skip
    assert line.rtl
    [line] = Typesetter(Fonts([])).lines("abc قطة 12", 99, measure)
    assert [run.text for run in line.runs] == ["abc ", "12", "قطة "]
    assert not line.rtl


def test_what_would_turn_the_order_is_dropped():
    assert lines("a\u202eb\u2067c\x07\x1b\ufeffd") == ["abcd"]


def test_a_label_is_a_run_of_its_own():
    [line] = Typesetter(Fonts([])).lines("MLE: a dog", 99, measure, splits=[4, 7])
    runs = [(run.text, run.start) for run in line.runs]
    assert runs == [("MLE:", 0), (" a ", 4), ("dog", 7)]


def test_a_character_that_no_font_has_is_shown_by_number_and_said_once():
    setter = Typesetter(Fonts([]))
    assert setter.warning() == ""
    [line] = setter.lines("a 中 b 中文 \udc80", 99, measure)
    assert text_of(line) == "a U+4E2D b U+4E2D U+6587 U+DC80"
    assert setter.warning() == (
        "no font here has U+4E2D, U+6587, U+DC80, so the number stands in the text; a font that "
        "has it can be installed, such as one of Noto's"
    )
    setter.lines("".join(map(chr, range(0x4E00, 0x4E40))), 99, measure)
    assert re.search(r"has U\+4E2D, .* and 58 more, so the number", setter.warning())


def test_joiners_without_end_are_broken_too():
    lines = Typesetter(Fonts([])).lines("a\u200d" * 1000, 99, measure)
    assert len(lines) > 1


def test_sheets_say_what_no_font_has(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("smile.captioning.typeset.system_fonts", lambda: Fonts([]))
    monkeypatch.setattr("smile.data.notices._printed", set())
    image = Image.new("RGB", (4, 4))
    shown = [Shown(image=image, captions=[Told(text="\U0010fffd", label="MLE")])]
    contact_sheet(shown, tmp_path / "a.png")
    contact_sheet(shown, tmp_path / "a.png")
    attention_sheet(image, "", [("\U0010fffc", -1.0, [[1.0]])], tmp_path / "b.png")
    said = capsys.readouterr().err.splitlines()
    assert len(said) == 2
    assert "U+10FFFD" in said[0] and "U+10FFFC" in said[1]


@pytest.mark.parametrize("has_raqm", [True, False])
def test_a_sheet_draws_a_text_from_right_to_left_at_the_right(tmp_path, monkeypatch, has_raqm):
    monkeypatch.setattr(lettering, "_has_raqm", lambda: has_raqm)
    image = Image.new("RGB", (9, 9))
    shown = [Shown(image=image, captions=[Told(text=text)]) for text in ("cat", "حد")]
    contact_sheet(shown, tmp_path / "a.png", tile=240)
    with Image.open(tmp_path / "a.png") as sheet:
        for left, inked in ((30, 0), (290, 1)):  # the left and the right half below each tile
            halves = [(left, 275, left + 120, 320), (left + 120, 275, left + 240, 320)]
            inks = [pictures.INK in sheet.crop(half).get_flattened_data() for half in halves]
            assert inks == [inked == 0, inked == 1]
