"""The page as Streamlit runs it, without a browser."""

import subprocess
import sys
import time

import pytest
from streamlit.testing.v1 import AppTest

from smile.config import GenerateConfig
from smile.page.plain import plain
from smile.page.settings_view import changed
from tests.helpers import make_run
from tests.page.test_uploads import photo
from tests.test_imports import ROOT

pytestmark = pytest.mark.slow

WAIT = 60  # seconds at most, for what takes less than one


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs")
    return [str(make_run(folder / name, seed=seed)) for seed, name in enumerate(("one", "two"))]


def open_page(*words: str) -> AppTest:
    def page(words, root):
        from pathlib import Path

        from smile.page.main import show

        show(words, Path(root))

    return AppTest.from_function(page, args=(words, str(ROOT)), default_timeout=WAIT).run()


@pytest.fixture
def page(runs):
    return open_page("--model", runs[0], "--model", runs[1])


def settled(page: AppTest) -> AppTest:
    """The page when nothing is pending any more."""
    until = time.monotonic() + WAIT
    while page.session_state.visit.pending:
        assert time.monotonic() < until
        time.sleep(0.01)
    assert not page.run().exception
    return page


def click(page: AppTest, label: str) -> AppTest:
    button = next(button for button in page.button if button.label == label)
    assert not button.click().run().exception
    return page


def test_it_begins_with_examples_and_an_example_is_described(page, runs):
    assert page.selectbox(key="model").value == runs[0]
    assert "Cat" in [button.label for button in page.button]
    settled(click(page, "Cat"))
    [picture] = page.session_state.visit.pictures
    [answer] = page.session_state.visit.asked
    shown = [text.value for text in page.text]
    assert shown == [picture.name, answer.captions[0].text]
    assert "Cat" not in [button.label for button in page.button]
    click(page, "Clear the list")
    assert "Cat" in [button.label for button in page.button]


def test_files_are_taken_once_and_problems_are_plain_text(page):
    page.file_uploader[0].set_value(
        [("a.png", photo(), "image/png"), ("**b** :tada:.png", b"text", "image/png")]
    )
    settled(page.run())
    visit = page.session_state.visit
    assert [picture.name for picture in visit.pictures] == ["a.png"]
    [warning] = page.warning  # one box for all
    assert "**" not in warning.value and "`:tada:" in warning.value
    assert warning.value.replace("\\", "").replace("`", "") == visit.messages[0]
    settled(page.run())
    assert len(visit.pictures) == 1


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("a *b* [c](d) $e$", r"a \*b\* \[c\]\(d\) \$e\$"),
        ("run a --b c:d", r"run a `--b` c\:d"),
        (":tada: www.x.y a->b", "`:tada:` `www.x.y` `a->b`"),
        ("x`y://`", "`` x`y://` ``"),
        ("a\nb", r"a b"),
    ],
)
def test_other_people_s_text_is_shown_as_it_is(text, shown):
    assert plain(text) == shown


def test_settings_reach_the_captioner(page):
    click(page, "Cat")
    page.slider(key=key_of(page, "num_return")).set_value(3)
    page.text_input(key="prompt").set_value(" a photo")
    page.text_input(key="prefix").set_value("sks")
    page.text_input(key="forbid").set_value("dog, , red cat,")
    settled(click(page.run(), "Describe again"))
    [answer] = page.session_state.visit.asked
    assert len(answer.captions) == 3
    assert answer.request.prompt == "a photo "
    assert all(caption.text.startswith("sks ") for caption in answer.captions)
    assert not any("dog" in caption.text for caption in answer.captions)
    assert answer.request.settings["num_beams"] == 3  # as many as captions, though 2 are its own
    page.segmented_control(key=key_of(page, "search")).set_value("Nucleus sampling").run()
    page.slider(key=key_of(page, "top_p")).set_value(0.8)
    settled(click(page.run(), "Describe again"))
    [answer] = page.session_state.visit.asked
    assert not answer.problem
    assert answer.request.settings["top_p"] == 0.8
    assert answer.request.settings["do_sample"] and answer.request.settings["num_beams"] == 1
    assert "max_length" not in answer.request.settings  # nobody changed it


def test_lengths_go_as_far_as_the_captioner_can_write(page):
    slider = page.slider(key=key_of(page, "max_length"))
    assert (slider.min, slider.max, slider.value) == (0, 40, (8, 16))
    slider.set_value((0, 40))
    settled(click(page.run(), "Cat"))
    assert not page.session_state.visit.asked[0].problem


def test_a_second_captioner_keeps_its_own_way():
    own = GenerateConfig(num_beams=2, max_length=16, min_length=0)
    asked = {"num_beams": 2, "num_return": 1, "do_sample": False, "top_p": 1.0, "top_k": 0}
    asked |= {"temperature": 1.0, "min_length": 0, "max_length": 16}
    assert changed(asked, own) == {}
    assert changed(asked | {"max_length": 9}, own) == {"min_length": 0, "max_length": 9}
    beams = changed(asked | {"num_beams": 5}, own)
    assert beams["num_beams"] == 5 and beams["do_sample"] is False and "max_length" not in beams


def key_of(page: AppTest, setting: str) -> str:
    return f"{setting}/{page.selectbox(key='model').value}"


def test_settings_are_kept_while_another_tab_is_open(page):
    page.text_input(key="prompt").set_value("a photo").run()
    go(page, "Book")
    go(page, "Describe")
    assert page.text_input(key="prompt").value == "a photo"


def go(page: AppTest, tab: str) -> AppTest:
    page.session_state.tab = tab
    assert not page.run().exception
    return page


def test_two_captioners_stand_side_by_side_with_their_words_counted(page, runs):
    click(page, "Cat")
    page.selectbox(key="compared").set_value(runs[1]).run()
    settled(click(page, "Describe again"))
    answers = page.session_state.visit.asked
    assert [answer.source for answer in answers] == runs
    first, second = (answer.num_words(answer.captions[0]) for answer in answers)
    line = next(c.value for c in page.caption if c.value.startswith("Words a caption"))
    assert f"{first}.0" in line and f"{second}.0" in line


def test_a_word_is_chosen_and_its_map_shown(page):
    settled(click(page, "Cat"))
    go(page, "Look")
    while not page.pills:
        time.sleep(0.01)
        page.run()
    words, shown = page.pills[0], page.image[0].proto.imgs[0].url
    assert words.value == 0
    words.set_value(2)
    assert not page.run().exception
    assert page.pills[0].value == 2
    assert page.image[0].proto.imgs[0].url != shown
    assert page.metric[0].value.endswith("%")


def test_a_book_is_edited_and_reordered(page):
    for example in ("Cat", "Rocket"):
        settled(click(page, example))
        click(page, "Add all to the book")
        click(page, "Add all to the book")  # twice, by mistake
        assert ":material/check: in the book" in [line.value for line in page.caption]
        click(page, "Clear the list")
    go(page, "Book")
    book = page.session_state.visit.book
    assert [entry.name for entry in book] == ["chelsea.jpg", "rocket.jpg"]
    page.text_input(key="title").set_value("Summer").run()
    page.text_area[0].set_value("My cat").run()
    click(page, "Picture 1 down")
    assert [entry.name for entry in book] == ["rocket.jpg", "chelsea.jpg"]
    assert page.text_area[1].value == "My cat"
    go(page, "Describe")
    go(page, "Book")
    assert (book.title, page.text_input(key="title").value) == ("Summer", "Summer")
    assert page.text_area[1].value == "My cat"
    click(page, "Remove picture 1")
    assert [entry.caption for entry in book] == ["My cat"]


def test_a_book_is_made_when_asked_and_again_when_it_changed(page):
    settled(click(page, "Cat"))
    click(page, "Add to the book")
    go(page, "Book")
    assert not page.download_button
    for kind, file in (("PDF", "book.pdf"), ("zip", "book.zip")):
        click(page, f"Make the {kind}")
        assert any(button.label.startswith(f"Download {file}") for button in page.download_button)
    page.text_area[0].set_value("My cat").run()
    assert not page.download_button


def test_a_captioner_that_is_not_there_is_a_line(tmp_path):
    page = open_page("--model", str(tmp_path / "no_run"))
    settled(click(page, "Cat"))
    [error] = page.error
    assert "no such file or folder" in error.value


def test_a_wrong_command_line_is_a_line(capsys):
    page = open_page("--modle", "x")
    [error] = page.error
    assert "modle" in error.value
    assert capsys.readouterr().err.count("\n") == 1


@pytest.mark.parametrize(("blocked", "said"), [("streamlit", "pip install -r"), ("", "start the")])
def test_app_py_alone_says_what_to_type(blocked, said):
    code = (
        f"import sys, runpy; sys.modules.update({{{blocked!r}: None}}) if {blocked!r} else None; "
        f"runpy.run_path({str(ROOT / 'app.py')!r}, run_name='__main__')"
    )
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    [line] = [line for line in ended.stderr.splitlines() if "app.py" in line]
    assert said in line and "streamlit run app.py" in line
    assert ended.returncode == 1
