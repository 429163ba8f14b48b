"""The page in a real browser: pytest tests/page/browser.py

It needs chromium or google-chrome. The name keeps it out of the plain `pytest`: it takes a minute
and a half. These environment variables are asked for:

SMILE_PAGE_MODEL=MODEL     that captioner instead of one of random weights
SMILE_PAGE_SHOTS=FOLDER    pictures of every test go there, to be looked at
SMILE_PAGE_PICTURE=FILE    the README's picture, docs/page.png, of two drawn scenes
"""

import contextlib
import io
import os
import random
import re
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from PIL import Image
from playwright.sync_api import Browser, BrowserContext, Locator, Page, expect, sync_playwright
from pypdf import PdfReader

from smile.page.uploads import drawn_examples
from tests.helpers import make_run
from tests.page.test_uploads import huge_png, photo
from tests.test_imports import ROOT

BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
FLAGS = [
    *("--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync"),
    *("--disable-background-networking", "--disable-component-update"),
    *("--use-fake-device-for-media-stream", "--use-fake-ui-for-media-stream"),  # a camera
]
WAIT = 60  # seconds at most, for what takes one or two
expect.set_options(timeout=1000 * WAIT)
PHONE, DESK = {"width": 390, "height": 844}, {"width": 1280, "height": 900}
CAT, ROCKET = (ROOT / "docs" / "photos" / name for name in ("chelsea.jpg", "rocket.jpg"))


@dataclass(frozen=True)
class Server:
    """A page that is up: its address, home folder, the folder it runs in, and what it has said."""

    address: str
    home: Path
    cwd: Path
    log: Path


@pytest.fixture(scope="module")
def models(tmp_path_factory) -> list[str]:
    if given := os.environ.get("SMILE_PAGE_MODEL"):
        return [given]
    folder = tmp_path_factory.mktemp("runs")
    return [str(make_run(folder / name, seed=seed)) for seed, name in enumerate(("one", "two"))]


@pytest.fixture(scope="module")
def server(models, tmp_path_factory) -> Iterator[Server]:
    """The page as a stranger starts it: an empty home, another folder, no terminal."""
    home, cwd = tmp_path_factory.mktemp("home"), tmp_path_factory.mktemp("elsewhere")
    log = tmp_path_factory.mktemp("log") / "page.log"
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    (cwd / "runs").mkdir()
    named = []
    for model in models:
        if os.path.isdir(model):
            place = Path("runs", Path(model).name)
            (cwd / place).symlink_to(os.path.abspath(model))
            model = str(place)
        named += ["--model", model]
    command = [sys.executable, "-m", "streamlit", "run", str(ROOT / "app.py")]
    environment = {k: v for k, v in os.environ.items() if not k.startswith("STREAMLIT_")}
    with log.open("wb") as said:
        page = subprocess.Popen(
            [*command, f"--server.port={port}", "--server.headless=true", "--", *named],
            cwd=cwd,
            env=environment | {"HOME": str(home)},
            stdin=subprocess.DEVNULL,
            stdout=said,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    try:
        wait_until_up(page, port, log)
        yield Server(f"http://localhost:{port}", home, cwd, log)
    finally:
        page.terminate()
        page.wait(WAIT)


def wait_until_up(page: subprocess.Popen, port: int, log: Path) -> None:
    until = time.monotonic() + WAIT
    while time.monotonic() < until:
        assert page.poll() is None, log.read_text()
        with contextlib.suppress(OSError):
            urllib.request.urlopen(f"http://localhost:{port}/_stcore/health", timeout=1)
            return
        time.sleep(0.05)
    raise AssertionError(log.read_text())


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    program = next(filter(None, map(shutil.which, BROWSERS)), None)
    assert program, f"none of {', '.join(BROWSERS)} is installed"
    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=program, args=FLAGS)
        yield chromium
        chromium.close()


class Visit:
    """A visitor's browser: a page, and what went wrong on it."""

    def __init__(self, browser: Browser, server: Server, *, size=DESK, dark=False) -> None:
        scheme = "dark" if dark else "light"
        self.context: BrowserContext = browser.new_context(viewport=size, color_scheme=scheme)
        self.page: Page = self.context.new_page()
        self.page.set_default_timeout(1000 * WAIT)
        self.strangers: list[str] = []  # addresses asked for that are not this machine's
        self.page.on("request", self._note)
        self.page.goto(server.address)

    def _note(self, request) -> None:
        if not re.match(r"(https?|ws)://localhost[:/]|data:|blob:", request.url):
            self.strangers.append(request.url)

    def bring(self, *files: Path | dict) -> None:
        """Gives files to the page, as drag and drop does."""
        self.page.locator("input[type=file]").first.set_input_files(list(files))

    def captions(self, count: int) -> list[str]:
        """The captions on the page, once there are so many and none is to come."""
        found = self.page.locator("[class*=st-key-caption-] [data-testid=stText]")
        expect(found).to_have_count(count)
        expect(self.page.get_by_text("In the queue")).to_have_count(0)
        expect(found).to_have_count(count)  # the page was drawn anew
        return found.all_inner_texts()

    def button(self, name: str | re.Pattern) -> Locator:
        return self.page.get_by_role("button", name=name)

    def tab(self, name: str) -> None:
        """Opens a tab by the keyboard."""
        self.page.get_by_role("tab", name=name).focus()
        self.page.keyboard.press("Enter")

    def unnamed(self) -> list[str]:
        """The pictures, buttons and fields that a screen reader has no name for."""
        return self.page.evaluate(
            """() => [...document.querySelectorAll('.stMain :is(img, button, input, textarea)')]
            .filter(e => e.checkVisibility() && e.type != 'file')
            .filter(e => !(e.alt || e.ariaLabel || e.innerText || e.title || e.labels?.length
                || e.getAttribute('aria-labelledby')))
            .map(e => e.outerHTML.slice(0, 200))"""
        )

    def shot(self, name: str, *, height: int = 0) -> None:
        """Leaves a picture of the page if SMILE_PAGE_SHOTS names a folder."""
        folder = os.environ.get("SMILE_PAGE_SHOTS")
        if folder:
            size = self.page.viewport_size
            if height:
                self.page.set_viewport_size({"width": size["width"], "height": height})
            self.page.wait_for_timeout(700)  # until what fades in is there
            self.page.screenshot(path=Path(folder) / f"{name}.png")
            self.page.set_viewport_size(size)


@pytest.fixture
def visit(browser, server):
    """Opens visits, and in the end sees that each asked nobody but this machine for anything."""
    visits: list[Visit] = []

    def begin(**how) -> Visit:
        visits.append(Visit(browser, server, **how))
        return visits[-1]

    yield begin
    for one in visits:
        one.context.close()
        assert one.strangers == []


def test_the_first_visitor_sees_the_page_soon_and_dark_if_he_likes(visit):
    start = time.monotonic()
    first = visit(dark=True)
    first.page.get_by_role("heading", name="Captions for your pictures").wait_for()
    painted = time.monotonic() - start
    first.button("Scene 3").wait_for()
    print(f"first paint after {painted:.1f} s, all after {time.monotonic() - start:.1f} s")
    background = first.page.locator(".stApp").evaluate("e => getComputedStyle(e).backgroundColor")
    assert max(map(int, re.findall(r"\d+", background)[:3])) < 60
    first.shot("dark")


def test_nothing_is_asked_and_nothing_told(server):
    said = server.log.read_text()
    assert "mail" not in said and "usage statistics" not in said
    assert "Network URL" not in said and "localhost" in said
    port = int(server.address.rpartition(":")[2])
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.connect(("192.0.2.1", 9))  # sends nothing: only asks which address would be ours
        ours = probe.getsockname()[0]
    with pytest.raises(OSError), socket.create_connection((ours, port), timeout=1):
        pass


def test_from_a_picture_to_a_book(visit, tmp_path):
    desk = visit()
    desk.button("Scene 3").wait_for()
    desk.shot("begin")
    desk.bring(CAT)
    [cat] = desk.captions(1)
    desk.bring(ROCKET)
    cat, rocket = desk.captions(2)
    assert cat.split() and rocket.split()
    assert desk.unnamed() == []
    desk.shot("describe", height=1100)

    desk.tab("Look")
    words = desk.page.get_by_role("radiogroup").get_by_role("radio")
    expect(words.nth(2)).to_be_visible()
    shown = desk.page.locator("[data-testid=stImage] img").first
    before = shown.get_attribute("src")
    start = time.monotonic()
    words.nth(2).click()
    expect(shown).not_to_have_attribute("src", before)
    clicked = time.monotonic() - start
    print(f"a click on a word took {clicked:.2f} s")
    assert desk.unnamed() == []
    desk.shot("look")

    desk.tab("Describe")
    desk.button("Add all to the book").click()
    expect(desk.page.get_by_text("The book has 2 pictures.")).to_be_visible()
    desk.tab("Book")
    desk.page.get_by_label("Title").fill("A summer")
    edited = desk.page.get_by_label("Caption of picture 2")
    edited.fill("Our **rocket**, at <i>night</i>")
    edited.blur()
    desk.button("Picture 1 down").click()
    captions = desk.page.get_by_role("textbox", name="Caption of picture")
    expect(captions.nth(0)).to_have_value("Our **rocket**, at <i>night</i>")
    expect(captions.nth(1)).to_have_value(cat)
    assert desk.unnamed() == []
    desk.shot("book", height=1300)

    desk.button("Make the PDF").click()
    with desk.page.expect_download() as download:
        desk.button("Download book.pdf").click()
    download.value.save_as(tmp_path / "book.pdf")
    book = PdfReader(tmp_path / "book.pdf")
    pages = [" ".join(page.extract_text().split()) for page in book.pages]
    assert len(pages) == 3
    assert "A summer" in pages[0]
    assert "Our **rocket**, at <i>night</i>" in pages[1]
    assert cat in pages[2]
    desk.button("Make the zip").click()
    with desk.page.expect_download() as download:
        desk.button("Download book.zip").click()
    download.value.save_as(tmp_path / "book.zip")
    names = zipfile.ZipFile(tmp_path / "book.zip").namelist()
    assert {"rocket.jpg", "rocket.txt", "chelsea.jpg", "captions.jsonl"} <= set(names)
    desk.tab("Describe")
    assert desk.captions(2) == [cat, rocket]


@pytest.mark.skipif("SMILE_PAGE_PICTURE" not in os.environ, reason="no picture is asked for")
def test_the_readme_s_picture(visit):
    desk = visit(size=DESK | {"height": 1140})
    _, *scenes = drawn_examples(3)  # chosen: runs/shapes calls the first one's triangle a star
    desk.bring(*(upload(scene.name, scene.data) for scene in scenes))
    desk.captions(2)
    desk.page.mouse.move(0, 0)
    desk.page.wait_for_timeout(1000)  # until what fades in is there
    desk.page.screenshot(path=os.environ["SMILE_PAGE_PICTURE"])


def test_two_visitors_at_once_get_their_own(visit):
    first, second = visit(), visit()
    first.button("Scene 3").wait_for()
    first.bring(*(upload(f"first-{n}.png", noise(n)) for n in range(6)))
    second.bring(upload("second.png", noise(9)))
    [theirs] = second.captions(1)
    assert theirs.split()
    mine = first.captions(6)
    assert len(mine) == 6
    expect(first.page.get_by_text("second.png")).to_have_count(0)
    expect(second.page.get_by_text("first-0.png")).to_have_count(0)
    first.bring(upload("second.png", noise(9)))
    assert first.captions(7)[-1] == theirs


def upload(name: str, data: bytes) -> dict:
    return {"name": name, "mimeType": "image/png", "buffer": data}


def noise(seed: int) -> bytes:
    buffer = io.BytesIO()
    Image.frombytes("RGB", (32, 32), random.Random(seed).randbytes(32 * 32 * 3)).save(buffer, "PNG")
    return buffer.getvalue()


def test_nasty_files_are_named_and_the_page_lives_on(visit):
    desk = visit()
    marked = "<b>x</b> **y** :tada: [l](http:a) $z$ `c`.png"
    nasty = {
        "cut.jpg": photo(400, 400, "JPEG")[:500],
        "huge.png": huge_png(20_000, 10_000),
        "text.jpg": b"Dear diary",
        "empty.png": b"",
        marked: b"<script>document.title = 'mine'</script>",
        "moving.gif": photo(form="GIF", save_all=True, append_images=[Image.new("RGB", (12, 8))]),
    }
    desk.bring(*(upload(name, data) for name, data in nasty.items()))
    desk.captions(1)
    warnings = desk.page.locator("[data-testid=stAlert] p").inner_text().splitlines()
    assert len(warnings) == 5
    for expected in ("cut.jpg: cannot", "too many pixels", "not an image file", "file is empty"):
        assert any(expected in text for text in warnings), expected
    assert any(marked in text for text in warnings)
    assert desk.page.locator("[data-testid=stAlert] :is(b, strong, em, a, img)").count() == 0
    assert desk.page.locator("[data-testid=stAlert] code").all_inner_texts() == [":tada:"]
    expect(desk.page.get_by_text("an animation: only its first picture counts")).to_be_visible()
    desk.shot("nasty", height=1300)

    desk.bring(*(upload(f"{n}.png", noise(n)) for n in range(50)))
    expect(desk.page.get_by_text("11 files left out")).to_be_visible()
    desk.captions(40)


def test_on_a_phone_nothing_is_wider_than_the_page(visit):
    phone = visit(size=PHONE)
    phone.context.grant_permissions(["camera"])
    phone.button(re.compile("^Cat$")).wait_for()
    phone.shot("phone-begin")
    phone.button(re.compile("^Cat$")).focus()
    phone.page.keyboard.press("Enter")
    phone.captions(1)
    for tab in ("Describe", "Look", "Book"):
        phone.tab(tab)
        phone.page.wait_for_timeout(500)
        width = phone.page.evaluate("document.scrollingElement.scrollWidth")
        assert width <= PHONE["width"], tab
        phone.shot(f"phone-{tab.lower()}", height=1400)
    phone.tab("Describe")
    phone.page.get_by_text("Use the camera").click()
    phone.page.wait_for_function("document.querySelector('video')?.readyState === 4")
    phone.button("Take Photo").click()
    phone.captions(2)


def test_nothing_is_left_behind(server):
    """Runs last: what the visits above wrote."""
    assert list(server.home.rglob("*")) == []
    assert [path for path in server.cwd.rglob("*") if not path.is_symlink()] == [
        server.cwd / "runs"
    ]
    assert "Traceback" not in server.log.read_text()
