"""What a visitor has: pictures, their captions as they come, and a book."""

import json
import threading

import pytest
from PIL import Image

import sample
from smile.captioning.explain import word_maps
from smile.page import session as sessions
from smile.page import uploads
from smile.page.request import Request, confidence
from smile.page.session import Session, maps_found
from smile.page.worker import Workers, load_captioner
from smile.weights.load import load
from tests.helpers import make_photos, make_run
from tests.page.test_uploads import photo

WAIT = 60  # seconds at most, for what takes less than one


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return str(make_run(tmp_path_factory.mktemp("runs") / "tiny"))


@pytest.fixture(scope="module")
def workers():
    return Workers()


@pytest.fixture
def visit(workers):
    return Session(workers)


def add(visit, files):
    """Brings files, and reads them all; the pictures among them."""
    visit.give(files)
    read = [visit.read_next() for _ in range(len(visit.unread))]
    return [picture for picture in read if picture is not None]


def wait(session: Session) -> None:
    for answer in session.asked:
        answer.job.future.exception(WAIT)


@pytest.mark.slow
def test_captions_are_those_of_sample_py(tmp_path, run, visit, run_script):
    """Of the page's defaults and of sampling, for which a picture's seed comes from its name."""
    photos = make_photos(tmp_path, 3)
    added = add(visit, [(path.name, path.read_bytes()) for path in photos])
    for request, options in (
        (Request(), ""),
        (
            Request({"top_p": 0.9, "forbid": ("dog",)}, prompt="a ", prefix="x ", seed=5),
            "--top-p .9 --forbid dog --prompt a --seed 5 --prefix=x|",
        ),
    ):
        words = [word.replace("|", " ") for word in options.split()]
        _, said, _ = run_script(sample.main, *photos, "--model", run, "--json", *words)
        visit.describe(added, [run], request)
        wait(visit)
        texts = [answer.captions[0].text for answer in visit.asked]
        assert texts == [json.loads(line)["captions"][0]["text"] for line in said.splitlines()]


def test_each_visitor_gets_captions_of_his_own_wishes(run, workers):
    visits = [Session(workers) for _ in range(4)]
    data = photo(16, 16)
    for beams, visit in enumerate(visits, 1):
        add(visit, [("a.png", data)])
        visit.describe_all([run], Request({"num_beams": beams, "num_return": beams}))
    for beams, visit in enumerate(visits, 1):
        wait(visit)
        assert [len(answer.captions) for answer in visit.asked] == [beams]


def test_files_that_cannot_be_taken_leave_the_others_alone(visit, monkeypatch):
    monkeypatch.setattr(uploads, "MOST_PICTURES", 2)
    files = {"bad.png": b"", "a.png": photo(), "b.png": photo(), "c.png": photo(), "d": b""}
    assert [picture.name for picture in add(visit, files.items())] == ["a.png", "b.png"]
    assert visit.messages == [
        "bad.png: cannot read this image: the file is empty",
        "2 files left out, since the list holds 2 pictures at most: c.png, d",
    ]
    visit.clear()
    assert visit.messages == []


def test_a_captioner_that_cannot_be_loaded_is_said_of_each_picture(visit, tmp_path):
    [picture] = add(visit, [("a.png", photo())])
    nowhere = str(tmp_path / "nowhere")
    visit.describe([picture], [nowhere], Request())
    wait(visit)
    [answer] = visit.asked
    assert answer.problem.startswith(f"{nowhere}: no such file or folder")
    assert "\n" not in answer.problem
    assert (answer.captions, visit.pending) == ([], 0)


def test_impossible_settings_are_one_line(visit, run):
    add(visit, [("a.png", photo())])
    visit.describe_all([run], Request({"max_length": 4, "min_length": 0}, "a red dog"))
    wait(visit)
    assert visit.asked[0].problem.startswith("max_length is 4, but the prompt alone has")


def test_two_captioners_answer_side_by_side(visit, run, tmp_path):
    other = str(make_run(tmp_path / "other", seed=1))
    add(visit, [("a.png", photo(16, 16))])
    visit.describe_all([run, other], Request())
    wait(visit)
    assert [answer.source for answer in visit.asked] == [run, other]
    for answer in visit.asked:
        [caption] = answer.captions
        assert 0 < confidence(caption) < 1
        assert answer.num_words(caption) == len(caption.text.split())


def test_the_words_of_a_prefix_are_not_the_captioners(visit, run):
    add(visit, [("a.png", photo(16, 16))])
    visit.describe_all([run], Request(prefix="ohwx man, "))
    wait(visit)
    [answer] = visit.asked
    [caption] = answer.captions
    assert answer.num_words(caption) == len(caption.text.split()) - 2


def test_words_maps_are_found_once(visit, run):
    add(visit, [("a.png", photo(16, 16))])
    visit.describe_all([run], Request())
    wait(visit)
    [answer] = visit.asked
    job = visit.maps(answer, 0)
    job.future.result(WAIT)
    assert visit.maps(answer, 0) is job
    words = [word.word for word in maps_found(job) if not word.word.startswith("[")]
    assert " ".join(words) == answer.captions[0].text
    assert all(word.heat.shape == (2, 2) for word in maps_found(job))


def test_a_click_while_files_are_read_loses_none(visit):
    """A click ends a run of the page; the next run reads the rest."""
    visit.give([("a.png", photo()), ("b.png", b"text"), ("c.png", photo())])
    assert visit.read_next().name == "a.png"
    visit.give([])  # the next run, in which no files are given
    visit.give([("d.png", photo())])
    while visit.unread:
        visit.read_next()
    assert [picture.name for picture in visit.pictures] == ["a.png", "c.png", "d.png"]
    [message] = visit.messages
    assert message.startswith("b.png")
    visit.give([])
    assert visit.messages == [message]


def test_the_second_of_two_quick_clicks_finds_nothing_to_do(visit):
    [picture] = add(visit, [("a.png", photo())])
    visit.add_to_book(picture, "one")
    [entry] = visit.book
    for _ in range(2):
        visit.remove_from_book(entry.number)
        visit.move_in_book(entry.number, 0)
    assert len(visit.book) == 0


def test_a_picture_taken_out_is_not_described(run):
    gate = threading.Event()

    def load_later(source, tell):
        assert gate.wait(60)
        return load_captioner(source, tell)

    visit = Session(Workers(load=load_later))
    pictures = add(visit, [(name, photo(16, 16)) for name in ("a.png", "b.png", "c.png")])
    visit.describe_all([run], Request())
    jobs = [answer.job for answer in visit.asked]
    visit.remove(pictures[1].number)
    gate.set()
    wait(visit)
    assert [job.future.cancelled() for job in jobs] == [False, True, False]


def test_clearing_the_list_leaves_the_book(visit, run):
    [picture] = add(visit, [("a.png", photo())])
    visit.describe_all([run], Request())
    wait(visit)
    visit.add_to_book(picture, visit.asked[0].captions[0].text)
    visit.clear()
    assert (visit.pictures, visit.asked, visit.pending) == ([], [], 0)
    [entry] = visit.book
    assert visit.previews[entry.number] == picture.preview
    visit.remove_from_book(entry.number)
    assert not len(visit.book) and not visit.previews
    [again] = add(visit, [("b.png", photo())])
    assert again.number != picture.number


def test_a_full_book_takes_no_more(visit, monkeypatch):
    monkeypatch.setattr(sessions, "MOST_IN_BOOK", 1)
    [picture] = add(visit, [("a.png", photo())])
    visit.add_to_book(picture, "one")
    with pytest.raises(sessions.UserError, match="holds 1 pictures and 500 MB at most"):
        visit.add_to_book(picture, "two")
    assert len(visit.book) == 1


def test_packed_layers_find_the_same_maps(run):
    """The page's captioners are packed for speed; `--explain` of a plain one agrees."""
    packed, plain = load_captioner(run, print), load(run)
    image = Image.effect_noise((16, 16), 80).convert("RGB")
    pixels = plain.transform(image)[None]
    [[caption]] = plain.describe(pixels)
    for ours, theirs in zip(
        word_maps(packed, pixels, caption), word_maps(plain, pixels, caption), strict=True
    ):
        assert (ours.heat - theirs.heat).abs().max() < 1e-5
