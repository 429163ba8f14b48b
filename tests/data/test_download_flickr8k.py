"""Flickr8k is fetched from a server on the loopback, whatever goes wrong on the way."""

import os
import signal
import socket
import threading
import time
from dataclasses import replace
from pathlib import Path

import pytest
from flickr8k_server import (
    NOT_THERE,
    PHOTOS,
    TEXT,
    Flickr8kServer,
    archives,
    names,
    photo_entries,
    text_entries,
    zipped,
)
from PIL import Image
from zygote import zygote

import smile.data.download as downloading
import smile.data.flickr8k_archives as published
import smile.data.flickr8k_install as install
import smile.data.unzip as unzip
import smile.system.download as system_download
from smile.config import Config, DataConfig
from smile.data import __main__ as command
from smile.data.download import download, missing, provide
from smile.data.flickr8k_archives import Place
from smile.data.load import load_examples
from smile.data.splits import SPLITS
from smile.errors import UserError
from smile.training.checkpointing.resume import check_same, identity

PHOTO_NAMES = {name.rpartition("/")[2] for name in photo_entries() if "/1" in name}
LISTS = {f"Flickr_8k.{split}Images.txt" for split in ("train", "dev", "test")}
TEXTS = {"Flickr8k.token.txt", "ExpertAnnotations.txt", *LISTS}
WHOLE = TEXTS | {f"Flicker8k_Dataset/{name}" for name in PHOTO_NAMES}


@pytest.fixture(autouse=True)
def surroundings(tmp_path, empty_caches, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(system_download, "wait", lambda seconds: None)
    monkeypatch.setattr(unzip, "flush_all", lambda folder: None)


@pytest.fixture
def server(monkeypatch):
    server = Flickr8kServer()
    monkeypatch.setenv("SMILE_FLICKR8K_MIRROR", server.address)
    yield server
    server.close()


def data(root="data", **settings) -> DataConfig:
    return DataConfig(format="flickr8k", root=str(root), **{"download": True, **settings})


def files(root="data") -> set[str]:
    """The paths of all files in a folder, hidden ones too."""
    return {path.relative_to(root).as_posix() for path in Path(root).rglob("*") if path.is_file()}


def asked(server) -> list[str]:
    """The archives that were asked for."""
    return [path.removeprefix("/") for path in server.paths if path != "/MD5SUMS"]


def write(*entries: str, root="data", folder="") -> None:
    """Writes files of the archives of texts and photos into a folder."""
    known = text_entries() | {n.rpartition("/")[2]: c for n, c in photo_entries().items()}
    for name in entries:
        path = Path(root, folder, name)
        path.parent.mkdir(parents=True, exist_ok=True)
        content = known[name]
        path.write_bytes(content if isinstance(content, bytes) else content.encode())


def write_kaggle(*, photos="Images", leave_out=0) -> None:
    """Kaggle's layout: the photos, and captions.txt in place of the lists and the token file."""
    rows = [
        f'{name},"{caption}"\n'
        for key, tab, caption in (
            line.partition("\t") for line in text_entries()["Flickr8k.token.txt"].splitlines()
        )
        if (name := key.partition("#")[0]) in sorted(PHOTO_NAMES)[leave_out:]
    ]
    write(*PHOTO_NAMES, folder=photos)
    Path("data/captions.txt").write_text("image,caption\n" + "".join(rows))


def one_line(caught) -> str:
    assert "\n" not in str(caught.value)
    return str(caught.value)


# From nothing, and from a part --------------------------------------------------------------------


def test_an_empty_disk_becomes_a_data_set(server, capfd):
    wanted = data("new/data")
    assert [piece.place for piece in missing(wanted)] == [f"new/data/{n}" for n in (TEXT, PHOTOS)]
    assert not Path("new").exists()
    provide(wanted)
    assert files("new/data") == WHOLE
    assert not [*Path().rglob("*.lock")] and not [*Path("new/data").glob(".*")]
    counts = [len(load_examples(wanted, split)) for split in SPLITS]
    assert counts == [8, 3, 3]
    said = capfd.readouterr().err.splitlines()
    assert said[0] == (
        "downloading the captions, split lists, human ratings of Flickr8k and the photos of "
        f"Flickr8k from {server.address} to new/data; the photos belong to their Flickr users and "
        "are for research and education only"
    )
    assert missing(wanted) == []
    server.paths.clear()
    provide(wanted)
    assert server.paths == [] and capfd.readouterr().err == ""


def test_sizes_and_addresses_are_the_published_ones():
    pieces = list(map(str, missing(data())))
    release = "https://github.com/jbrownlee/Datasets/releases/download/Flickr8k"
    assert pieces == [
        f"the captions, split lists, human ratings of Flickr8k (2.3 MB) from {release}/{TEXT} "
        f"to data/{TEXT}",
        f"the photos of Flickr8k (1.1 GB) from {release}/{PHOTOS} to data/{PHOTOS}",
    ]
    assert [piece.fetched for piece in missing(data(download=False))] == [False, False]
    assert published.TEXT.md5 == "bf6c1abcb8e4a833b7f922104de18627"
    assert published.PHOTOS.md5 == "f18a1e2920de5bd84dae7cf08ec78978"


def test_nothing_is_fetched_unasked(server):
    provide(data(download=False))
    provide(replace(data(), format="folder"))
    assert missing(replace(data(), format="folder")) == []
    assert server.paths == [] and not Path("data").exists()


@pytest.mark.parametrize("lists", [True, False])
def test_the_captions_of_no_image_are_left_out(server, lists, capfd):
    provide(data())
    assert NOT_THERE in Path("data/Flickr8k.token.txt").read_text()
    if not lists:
        for name in LISTS:
            Path("data", name).unlink()
    photos = [photo for split in SPLITS for photo in load_examples(data(), split)]
    assert len(photos) == (14 if lists else 15)
    assert all(photo.read().size == (48, 48) and len(photo.captions) == 5 for photo in photos)
    assert (NOT_THERE in capfd.readouterr().err) == (not lists)


@pytest.mark.parametrize("photos", ["images", "Images", "elsewhere"])
def test_kaggle_s_layout_gets_the_lists_alone(server, photos):
    """Its captions.txt stays the file of captions: no second one is put beside it."""
    if photos == "elsewhere":
        Path("data").mkdir()
        Path("elsewhere").mkdir()
        Path("data/images").symlink_to("../elsewhere")
    write_kaggle(photos="images" if photos == "elsewhere" else photos)
    before = {path: path.read_bytes() for path in Path().rglob("*") if path.is_file()}
    assert [piece.what for piece in missing(data())] == [
        "the split lists, human ratings of Flickr8k"
    ]
    provide(data())
    assert asked(server) == [TEXT]
    assert {path: path.read_bytes() for path in before} == before
    assert {path.name for path in Path("data").iterdir() if path.is_file()} == {
        *LISTS, "captions.txt", "ExpertAnnotations.txt",
    }  # fmt: skip
    assert len(load_examples(data(), "train")) == 8


PARTS = {
    "photos without texts": ([*PHOTO_NAMES], [TEXT]),
    "texts without photos": ([*TEXTS], [PHOTOS]),
    "one list": (["Flickr8k.token.txt", "Flickr_8k.devImages.txt", *PHOTO_NAMES], [TEXT]),
    "some photos": ([*TEXTS, *names(0, 5)], [PHOTOS]),
    "some of both": (["Flickr8k.token.txt", *names(0, 5)], [TEXT, PHOTOS]),
    "one text": (["Flickr_8k.devImages.txt"], [TEXT, PHOTOS]),
}


@pytest.mark.parametrize("folder", ["images", "Flicker8k_Dataset", ""])
@pytest.mark.parametrize("part", PARTS)
def test_only_what_is_lacking_is_fetched_and_nothing_replaced(part, folder, server):
    there, fetched = PARTS[part]
    write(*(name for name in there if name.endswith(".txt")))
    write(*(name for name in there if name.endswith(".jpg")), folder=folder)
    mine = {Path("data", name) for name in files()}
    for path in mine:
        os.utime(path, (1e9, 1e9))
    inode = {path: path.stat().st_ino for path in mine}
    provide(data())
    assert asked(server) == fetched
    assert {path: path.stat().st_ino for path in mine} == inode
    assert all(path.stat().st_mtime == 1e9 for path in mine)
    assert not [name for name in files() if name.startswith(".") or "/." in name]
    assert [len(load_examples(data(), split)) for split in SPLITS] == [8, 3, 3]


def test_ratings_are_fetched_by_the_command_alone(server):
    write(*TEXTS - {"ExpertAnnotations.txt"}, *PHOTO_NAMES)
    provide(data())
    assert server.paths == [] and missing(data()) == []
    download(Path("data"), ratings=True)
    assert asked(server) == [TEXT] and "ExpertAnnotations.txt" in files()


def test_a_few_photos_may_be_lacking(server):
    """A gigabyte is not fetched for them, perhaps left out on purpose; the layout names them."""
    listed, images = names(2, 500), Path("data/images")
    write(*TEXTS)
    write(*PHOTO_NAMES, folder="images")
    Path("data/Flickr_8k.testImages.txt").write_text("\n".join(listed))
    for name in listed[5:]:
        (images / name).touch()
    (images / listed[0]).unlink()
    provide(data())
    assert server.paths == []
    Path("data/.download").mkdir()  # by a process that was killed between two renames, perhaps
    provide(data())
    assert asked(server) == [PHOTOS] and (images / listed[0]).exists()


def test_captions_of_a_part_of_flickr8k_get_no_lists(server):
    write_kaggle(leave_out=2)
    before = files()
    with pytest.raises(UserError, match=r"2 of the 14 images .* set data\.download = false"):
        provide(data())
    assert files() == before


@pytest.mark.parametrize("captions", [True, False])
def test_somebody_s_own_data_are_left_alone(server, captions):
    Path("data/images").mkdir(parents=True)
    Image.new("RGB", (8, 8)).save("data/images/dog.jpg")
    if captions:
        Path("data/captions.txt").write_text("image,caption\ndog.jpg,a dog\n")
    assert missing(data()) == []
    before = files()
    if captions:
        provide(data())
    else:
        with pytest.raises(UserError, match="holds files, and nothing of Flickr8k"):
            provide(data())
    with pytest.raises(UserError, match="name a new folder"):
        download(Path("data"))
    assert files() == before and server.paths == []


def test_archives_put_there_by_hand_are_used_checked_and_kept(server):
    Path("data").mkdir()
    for name, content in archives().items():
        Path("data", name).write_bytes(content)
    assert missing(data()) == []
    provide(data())
    assert asked(server) == [] and files() == WHOLE | {TEXT, PHOTOS}

    Path("data", PHOTOS).write_bytes(b"damaged")
    for path in Path("data/Flicker8k_Dataset").iterdir():
        path.unlink()
    with pytest.raises(UserError, match=rf"data/{PHOTOS} has the md5 .*, expected .*: it is dam"):
        provide(data())
    assert Path("data", PHOTOS).read_bytes() == b"damaged"


# What goes wrong, and the next try ----------------------------------------------------------------


def altered(entries: dict, change: dict, *leave_out: str) -> bytes:
    return zipped({name: entries[name] for name in entries if name not in leave_out} | change)


BAD = {
    "leaves the folder": (PHOTOS, altered(photo_entries(), {"../evil.jpg": b"x"}), "leaves the f"),
    "cut short": (PHOTOS, archives()[PHOTOS][:-30], "not a whole zip archive"),
    "no photos": (PHOTOS, zipped({"readme.txt": "moved"}), r"no photo \(\.jpg\) is in it"),
    "a photo lacks": (
        PHOTOS,
        altered(photo_entries(), {}, f"Flicker8k_Dataset/{names(0, 1)[0]}"),
        "its split lists name photos that are not in",
    ),
    "a list lacks": (
        TEXT,
        altered(text_entries(), {}, "Flickr_8k.devImages.txt"),
        r"Flickr_8k\.devImages\.txt is not in it",
    ),
    "a web page": (TEXT, b"<!DOCTYPE html>", "is a web page"),
}


@pytest.mark.parametrize("kind", BAD)
def test_a_bad_archive_gets_one_line_and_the_next_try_a_good_one(kind, server):
    name, content, message = BAD[kind]
    server.put({name: content})
    with pytest.raises(UserError, match=message) as caught:
        provide(data())
    assert name in one_line(caught)
    assert not [path for path in Path().rglob("*evil*")]
    server.put(archives())
    provide(data())
    assert files() == WHOLE


def test_a_wrong_md5_gets_one_line_and_the_next_try_a_good_archive(server):
    server.files[f"/{PHOTOS}"] = archives()[PHOTOS][::-1]
    with pytest.raises(UserError, match=r"has the md5 .*, expected") as caught:
        provide(data())
    assert server.address in one_line(caught)
    assert not [name for name in files() if name.endswith((".zip", ".part"))]
    server.put(archives())
    provide(data())
    assert files() == WHOLE


def test_a_cut_connection_is_resumed_by_the_next_try(server):
    write(*TEXTS)
    server.cuts = [10**6, 3_000] + [0] * 4  # the first is for MD5SUMS
    with pytest.raises(
        UserError, match=r"the connection ended after 3000 of .* try again"
    ) as caught:
        provide(data())
    assert f"put it at data/{PHOTOS}" in one_line(caught)
    server.requests.clear()
    provide(data())
    assert files() == WHOLE
    assert server.requests == [None, "bytes=3000-"]


def test_no_connection_leaves_nothing(server):
    server.close()
    with pytest.raises(UserError, match=rf"{TEXT} cannot be reached, .*: check the conn") as caught:
        provide(data("new/data"))
    assert one_line(caught).endswith(f"put it at new/data/{TEXT}")
    assert not Path("new").exists()


def test_a_mirror_that_fails_is_named(server):
    server.status = 503
    with pytest.raises(
        UserError, match=r"MD5SUMS cannot be read, .* 503 .*: check SMILE_FLICKR8K_M"
    ):
        provide(data("new/data"))
    assert not Path("new").exists()


def test_offline_names_all_at_once(monkeypatch):
    monkeypatch.setenv("SMILE_OFFLINE", "1")
    with pytest.raises(UserError, match=r"downloads are off \(SMILE_OFFLINE is set\)") as caught:
        provide(data("new/data"))
    for name in (TEXT, PHOTOS):
        assert f"{published.RELEASE}/{name} to new/data/{name}" in one_line(caught)
    assert not Path("new").exists()


def test_a_small_disk_is_told_before_the_first_byte(server, monkeypatch, capfd):
    monkeypatch.delenv("SMILE_FLICKR8K_MIRROR")
    usage = downloading.shutil.disk_usage(".")
    with monkeypatch.context() as patch:
        patch.setattr(downloading.shutil, "disk_usage", lambda _: usage._replace(free=2.2e9))
        patch.setattr(system_download, "ask", lambda *_, **__: pytest.fail("asked"))
        with pytest.raises(UserError, match=r"^data: 2\.3 GB are needed, .* and 2\.2 GB are free"):
            provide(data())
        assert not Path("data").exists()
        part = Path(f"data/.download/{PHOTOS}.part")
        part.parent.mkdir(parents=True)
        with part.open("wb") as file:  # of which so much is there already
            file.truncate(10**9)
        assert capfd.readouterr().err == ""
        with pytest.raises(pytest.fail.Exception, match="asked"):
            provide(data())
        assert capfd.readouterr().err.startswith(
            "downloading the captions, split lists, human ratings of Flickr8k (2.3 MB) and the "
            f"photos of Flickr8k (1.1 GB) from {published.RELEASE} to data; the photos belong to"
        )


@pytest.mark.parametrize("when", ["unpacking", "flushing", "renaming"])
def test_a_full_disk_gets_one_line_and_the_next_try_fetches_nothing_again(
    when, server, monkeypatch
):
    write(*TEXTS)

    def fill(*_, **__):
        raise OSError(28, "No space left on device")

    real = Path.open

    def open_or_fill(path, mode="r", **more):
        return fill() if mode == "xb" else real(path, mode, **more)

    place, name = {
        "unpacking": (Path, "open"),
        "flushing": (unzip, "flush_all"),
        "renaming": (install, "flush"),
    }[when]
    with monkeypatch.context() as patch:
        patch.setattr(place, name, open_or_fill if place is Path else fill)
        with pytest.raises(UserError, match="cannot write: no space left on device") as caught:
            provide(data())
    assert one_line(caught)
    assert not [name for name in files() if "unpacked" in name]
    provide(data())
    assert files() == WHOLE and asked(server) == [PHOTOS]


def test_a_folder_that_cannot_be_made_is_named(server):
    Path("file").touch()
    with pytest.raises(UserError, match=r"^file/data: cannot write") as caught:
        provide(data("file/data"))
    assert one_line(caught)


@pytest.mark.parametrize("ask", [missing, provide])
def test_what_is_no_folder_is_named(server, ask):
    Path("data").mkdir()
    for make in (Path.touch, lambda root: root.symlink_to("nowhere")):
        make(root := Path("data/flickr8k"))
        with pytest.raises(UserError, match=r"^data/flickr8k is not a folder.*remove it") as caught:
            ask(data("data/flickr8k"))
        assert one_line(caught) and server.paths == []
        root.unlink()


def test_home_has_the_data_and_nothing_else(server, run_script, monkeypatch):
    monkeypatch.setenv("HOME", os.path.abspath("home"))
    status, printed, _ = run_script(command.main, "download", "flickr8k", "~/some")
    assert status == 0 and "data.root='~" not in printed
    assert os.listdir() == ["home"] and os.listdir("home") == ["some"]
    assert files("home/some") == WHOLE


class Release(Flickr8kServer):
    """Redirects each request to an address of its own, which holds for one request."""

    def __init__(self):
        self.valid = set()
        super().__init__()

    def answer(self, handler) -> None:
        path, _, key = handler.path.partition("?key=")
        if not key:
            self.valid.add(new := f"{path}?key={len(self.valid)}")
            handler.send_response(302)
            handler.send_header("Location", f"{self.address}{new}")
            handler.end_headers()
        elif handler.path in self.valid:
            self.valid.remove(handler.path)
            self.valid.add("used")
            super().answer(handler)
        else:
            handler.send_error(403)


def test_an_address_that_expires_is_asked_for_anew(monkeypatch):
    server = Release()
    monkeypatch.setenv("SMILE_FLICKR8K_MIRROR", server.address)
    write(*TEXTS)
    server.cuts = [10**6, 2_000, 1_000, 0, 0, 0]  # the first is for MD5SUMS
    with pytest.raises(UserError, match="the connection ended after 3000 of"):
        provide(data())
    provide(data())
    server.close()
    assert files() == WHOLE
    ranges = [r for r, path in zip(server.requests, server.paths, strict=True) if "zip" in path]
    assert ranges == [None, "bytes=2000-", *["bytes=3000-"] * 4]


# Killed, and two at once --------------------------------------------------------------------------

KILLED = {  # where → at which call of which function, and where photos are to go
    "at the checksum": ("smile.system.download.digest", 1, "new"),
    "before the archive has its name": ("smile.system.download.flush", 1, "new"),
    "in the unpacking": ("smile.data.unzip._copy", 9, "new"),
    "in the unpacking, into a folder": ("smile.data.unzip._copy", 9, "images"),
    "at the flush": ("smile.data.unzip.flush_all", 1, "new"),
    "between two renames": ("smile.data.flickr8k_install._put", 4, "images"),
    "after the renames": ("smile.data.flickr8k_install.flush", 1, "new"),
    "before the removing": ("shutil.rmtree", 3, "new"),
    "after the removing": ("shutil.rmtree", 4, "new"),
}
CODE = """
import os, sys
from pathlib import Path
from pkgutil import resolve_name
import smile.data.download
place, _, name = sys.argv[1].rpartition(".")
module, left = resolve_name(place), int(sys.argv[2])
real = getattr(module, name)
def dying(*args, **options):
    global left
    left -= 1
    if left == 0:
        os.kill(os.getpid(), 9)
    return real(*args, **options)
setattr(module, name, dying)
smile.data.download.download(Path("data"))
"""


def die_at(call: int, function: str) -> None:
    """Downloads to data/ in a process that `kill -9`s itself at such a call of a function."""
    run = zygote().run(["-c", CODE, function, call], cwd=Path.cwd())
    assert run.returncode == -signal.SIGKILL, run.stderr


@pytest.mark.slow
@pytest.mark.parametrize("where", KILLED)
def test_killed_at_any_moment_the_same_command_finishes(where, server):
    function, call, folder = KILLED[where]
    write(*TEXTS)
    if folder == "images":
        write(*names(1, 2), folder="images")
    die_at(call, function)
    assert any(name.startswith(".download") for name in files())
    provide(data())
    place = "Flicker8k_Dataset" if folder == "new" else folder
    assert files() == TEXTS | {f"{place}/{name}" for name in PHOTO_NAMES}
    assert not [*Path("data").rglob(".*")]
    ranges = [r for r, path in zip(server.requests, server.paths, strict=True) if "zip" in path]
    assert ranges[0] is None and None not in ranges[1:]


@pytest.mark.slow
def test_killed_among_the_texts_the_same_command_finishes(server):
    for call in (1, 3, 4):
        die_at(call, "smile.data.flickr8k_install._put")
    assert len(TEXTS & files()) == 4
    provide(data())
    assert files() == WHOLE


@pytest.mark.slow
def test_a_process_that_waits_goes_on_for_one_that_was_killed(server, tmp_path):
    """Two at once: the second fetches nothing, until the first is killed in its download."""
    write(*TEXTS)
    server.holds = [10**6, 2_000]  # the first is for MD5SUMS
    code = """
import os
from pathlib import Path
from smile.data.download import download
download(Path("data"))
os._exit(0)  # Python's own end takes seconds
"""
    errors = [tmp_path / "first", tmp_path / "second"]
    with errors[0].open("w") as one, errors[1].open("w") as two:
        first = zygote().start(["-c", code], cwd=tmp_path, stderr=one)
        until(lambda: Path(f"data/.download/{PHOTOS}.part").stat().st_size == 2_000)
        second = zygote().start(["-c", code], cwd=tmp_path, stderr=two)
        until(lambda: "waiting for another process to download data" in errors[1].read_text())
        assert asked(server) == [PHOTOS]
        first.kill()
        first.wait()
        assert second.wait(20) == 0, errors[1].read_text()
    for path in errors:
        path.unlink()
    assert server.requests[-1] == "bytes=2000-" and asked(server) == [PHOTOS] * 2
    assert files() == WHOLE


def until(true) -> None:
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline:
        try:
            if true():
                return
        except OSError:
            pass
        time.sleep(0.01)
    pytest.fail("waited in vain")


def test_two_at_once_fetch_once(server):
    threads = [threading.Thread(target=provide, args=(data(),)) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
    assert asked(server) == [TEXT, PHOTOS] and files() == WHOLE


# Mirrors ------------------------------------------------------------------------------------------

OTHERS = (
    "http://127.0.0.1.evil.com", "http://localhost.evil.com:80", "http://localhost@evil.com",
    "http://127.0.0.1@evil.com/a", "http://127.0.0.1:80@evil.com", "http://evil.com/127.0.0.1",
    "http://evil.com#localhost", "http://127.0.0.2", "http://0.0.0.0", "http://notlocalhost",
    "http://localhost\\@evil.com", "http://evil.com\\@localhost", "https://evil.com",
    "http://user@localhost", "https://127.0.0.1", "http://[::1]", "http://2130706433",
)  # fmt: skip


@pytest.mark.parametrize("mirror", OTHERS)
def test_no_other_host_s_md5sums_is_asked_for(mirror, monkeypatch):
    monkeypatch.setenv("SMILE_FLICKR8K_MIRROR", mirror)
    monkeypatch.setattr(published, "ask", lambda *_: pytest.fail("asked for MD5SUMS"))
    place = Place()
    assert [place.md5(archive) for archive in (published.TEXT, published.PHOTOS)] == [
        "bf6c1abcb8e4a833b7f922104de18627",
        "f18a1e2920de5bd84dae7cf08ec78978",
    ]


def test_another_host_s_archives_must_be_the_published_ones(server, monkeypatch):
    """A server that has MD5SUMS, under a name that is not this machine's."""
    real = socket.getaddrinfo
    monkeypatch.setattr(
        socket, "getaddrinfo", lambda host, *args, **more: real("127.0.0.1", *args, **more)
    )
    mirror = server.address.replace("127.0.0.1", "mirror.example")
    monkeypatch.setenv("SMILE_FLICKR8K_MIRROR", f"{mirror}/")
    with pytest.raises(UserError, match=f"{mirror}/{TEXT} has the md5 .*{published.TEXT.md5}"):
        provide(data())
    assert server.paths == [f"/{TEXT}"] and not Path("data").exists()


def test_this_machine_s_md5sums_are_taken(server, monkeypatch):
    mirror = server.address.replace("127.0.0.1", "localhost")
    monkeypatch.setenv("SMILE_FLICKR8K_MIRROR", f"{mirror}/")
    provide(data())
    assert files() == WHOLE


@pytest.mark.parametrize(
    ("text", "found"),
    [
        (b"A" * 32 + b" *Flickr8k_text.zip\r\n", "a" * 32),
        (b"# sums\n" + b"0" * 32 + b"  other.zip\n", published.TEXT.md5),
        (b"0" * 31 + b"  Flickr8k_text.zip\n", published.TEXT.md5),
        (b"\xff" * 100_000, published.TEXT.md5),
        (None, published.TEXT.md5),
    ],
)
def test_md5sums_may_be_anything_or_lack(text, found, server):
    server.files["/MD5SUMS"] = text
    assert Place().md5(published.TEXT) == found


@pytest.mark.parametrize("mirror", ["ftp://a/b", "a/b", "http://", "http://[::1", "http://a?b"])
def test_a_mirror_that_is_no_address_is_named(mirror, monkeypatch):
    monkeypatch.setenv("SMILE_FLICKR8K_MIRROR", mirror)
    with pytest.raises(UserError, match=r"FLICKR8K_MIRROR = .*: expected https://HOST/FOLDER"):
        missing(data())


# The command, and the setting ---------------------------------------------------------------------


def test_the_command_says_how_to_go_on(server, run_script, monkeypatch):
    status, printed, _ = run_script(command.main, "download", "flickr8k")
    train = "python train.py configs/flickr8k_scratch.toml"
    assert (status, printed) == (0, f"data/flickr8k holds Flickr8k; to train on it: {train}\n")
    assert files("data/flickr8k") == WHOLE
    status, printed, _ = run_script(command.main, "download", "flickr8k", "my data")
    assert printed.endswith(f"{train} --set data.root='my data'\n")

    def interrupt(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr(command, "download", interrupt)
    status, _, errors = run_script(command.main, "download", "flickr8k", "third")
    assert (status, errors) == (
        130, "smile.data: stopped; third may be incomplete; the same command resumes\n",
    )  # fmt: skip


def test_a_run_resumes_with_another_value():
    runs = [Config(data=data("photos", download=value)) for value in (True, False)]
    first, second = (identity(run, {}) for run in runs)
    check_same(first, second)
    del first["config"]["data"]["download"]  # as an older run has it
    check_same(first, second)
