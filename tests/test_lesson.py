"""The lesson's checker finds what is wrong: in outputs, pictures, numbers, names and links.

`docs/learn.py` checks the lesson itself (`.ci/run`); here are made-up ones.
"""

import re
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
sys.path.append(str(ROOT / "docs" / "learn"))

import prose  # noqa: E402
from lesson import Lesson, Picture  # noqa: E402
from pictures import PICTURES  # noqa: E402
from svg import Canvas, data_of  # noqa: E402

LESSON = """# A lesson

```python
number = 0.5
print("half is", number)
```

![a dot](learn/dot.svg)

```python
print(number + 1, "so far")
```
"""


def dot(data) -> Canvas:
    canvas = Canvas(100, 20)
    canvas.text(5, 10, f"{data['number']:.2f} & {data['words']}")
    return canvas


@pytest.fixture
def lesson(tmp_path) -> Lesson:
    """A lesson that was written, so that all in it is right."""
    (tmp_path / "learn").mkdir()
    (tmp_path / "learn.md").write_text(LESSON)
    numbers = Picture(lambda names: {"number": names["number"], "words": "<a>"}, dot)
    lesson = Lesson(tmp_path / "learn.md", {"dot": numbers})
    lesson.write()
    return lesson


def change(path: Path, old: str, new: str) -> None:
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))


def test_what_was_written_is_right_and_checking_writes_nothing(lesson):
    before = {path: path.read_bytes() for path in lesson.path.parent.rglob("*.*")}
    assert "```text\nhalf is 0.5\n```\n\n![a dot]" in lesson.path.read_text()
    assert lesson.check() == []
    lesson.write()
    assert {path: path.read_bytes() for path in lesson.path.parent.rglob("*.*")} == before


@pytest.mark.parametrize(
    ("old", "new", "fault"),
    [
        ("half is 0.5\n", "half is 0.53\n", "prints 'half is 0.5', the text says 'half is 0.53'"),
        ("half is 0.5\n", "Half is 0.5\n", "'Half is 0.5'"),
        ("1.5 so far\n", "", "prints 1 lines, the text has 0"),
        ("number = 0.5", "number = 0.7", "dot.svg shows other data"),
        ("learn/dot.svg", "learn/dots.svg", "dots.svg: there is no such picture"),
        ("learn/dot.svg", "learn/dots.svg", "does not show dot.svg"),
    ],
)
def test_a_wrong_output_or_picture_is_found(lesson, old, new, fault):
    change(lesson.path, old, new)
    assert any(fault in found for found in lesson.check())


def test_rounding_is_no_fault(lesson):
    change(lesson.path, "half is 0.5\n", "half   is 0.51\n")
    change(lesson.path.parent / "learn" / "dot.svg", '"number": 0.5', '"number": 0.49')
    change(lesson.path.parent / "learn" / "dot.svg", "0.50 &amp;", "0.49 &amp;")
    assert lesson.check() == []


def test_a_picture_drawn_by_hand_is_found(lesson):
    change(lesson.path.parent / "learn" / "dot.svg", 'x="5"', 'x="6"')
    [fault] = lesson.check()
    assert "dot.svg is drawn otherwise now" in fault


def test_an_error_in_a_block_shows_its_line_in_the_lesson(lesson):
    change(lesson.path, 'print(number + 1, "so far")', "print(numbers)")
    with pytest.raises(NameError) as error:
        lesson.check()
    line = lesson.path.read_text().splitlines().index("print(numbers)") + 1
    assert error.traceback[-1].lineno + 1 == line


def test_data_come_back_from_a_picture():
    data = {"words": ["<a> & b", "é"], "number": 0.25, "none": None}
    assert data_of(Canvas(1, 1).to_svg("a < b", data)) == data


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("We saw 0.75 of it.\n", "0.75 stands in no code"),
        ("There are 7 of 2.\n", "7 stands in no code"),
        ("```bash\nls\n```\n", "a block of bash"),
        ("```python\n3\n```\n\n```text\n3\n```\n\n```text\n3\n```\n", "a block of text"),
        ("[it](../smile/nothing.py)\n", "there is no such file"),
        ("[`mle_lost`](../smile/loss.py)\n", "that file defines no mle_lost"),
        ("[`BLIP.__unit__`](../smile/model/blip.py)\n", "defines no __unit__"),
    ],
)
def test_wrong_prose_is_found(text, fault):
    code = "```python\nprint(2, 0.25)\n```\n\n"
    assert [fault in found for found in prose.faults(code + text, ROOT / "docs")] == [True]


def test_right_prose_is_not_faulted():
    text = (
        "# 12 words\n\n1. [The 9](#the-9)\n\nIn section 8, 2 words of [Yue 2023](https://x.org/1) "
        "get 0.25 in `V100`, by [`mle_loss`](../smile/loss.py).\n\n```python\nprint(2, 0.25)\n```\n"
    )
    assert prose.faults(text, ROOT / "docs") == []


def test_the_architecture_names_files_that_exist():
    svg = (ROOT / "docs" / "learn" / "architecture.svg").read_text(encoding="utf-8")
    names = re.findall(r">([\w/., ]*(?:\.py|/))<", svg)
    assert len(names) > 12
    for part in (part for name in names for part in name.split(", ")):
        folder = ROOT / "smile" / "model" if part == "cache.py" else ROOT / "smile"
        assert (folder / part).exists() or (ROOT / part).exists(), part


def test_every_picture_says_what_it_shows_and_reads_in_light_and_dark():
    for name in PICTURES:
        svg = (ROOT / "docs" / "learn" / f"{name}.svg").read_text(encoding="utf-8")
        assert len(re.search(r"<title>(.*)</title>", svg)[1]) > 40
        assert "prefers-color-scheme:dark" in svg


def test_a_picture_may_stand_before_the_block_that_computes_it(lesson):
    picture = "![a dot](learn/dot.svg)\n\n"
    text = lesson.path.read_text().replace(picture, "")
    lesson.path.write_text(text.replace("```python", picture + "```python", 1))
    assert lesson.check() == []
