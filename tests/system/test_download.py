"""Downloads against servers that this file starts on the loopback; no test leaves the machine."""

import base64
import contextlib
import errno
import hashlib
import threading
import time
from pathlib import Path

import pytest
from helpers import FileServer, Loopback

import smile.system.connection as connection
import smile.system.download as download
from smile.errors import UserError
from smile.system.download import fetch

CONTENT = bytes(range(256)) * 400  # 102 400 bytes
SHA256 = "sha256:" + hashlib.sha256(CONTENT).hexdigest()


class Server(FileServer):
    """Serves one file."""

    def __init__(self):
        super().__init__()
        self.url = f"{self.address}/models/model_base.pth"
        self.content = CONTENT

    @property
    def content(self) -> bytes:
        return self.files["/models/model_base.pth"]

    @content.setter
    def content(self, content: bytes) -> None:
        self.files["/models/model_base.pth"] = content


@pytest.fixture(autouse=True)
def clean_environment(tmp_path, monkeypatch):
    for name in ("SMILE_OFFLINE", "HF_HUB_OFFLINE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("no_proxy", "*")
    monkeypatch.setenv("SMILE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(download, "CHUNK", 10_000)
    monkeypatch.setattr(download, "wait", lambda seconds: None)


@pytest.fixture
def server():
    server = Server()
    yield server
    server.close()


def one_line(caught) -> str:
    message = str(caught.value)
    assert "\n" not in message
    return message


def files(folder: Path) -> set[str]:
    """Names of the files below a folder, locks left out."""
    return {path.name for path in folder.rglob("*") if path.is_file() and path.suffix != ".lock"}


def test_downloads_once_and_says_so_once(server, tmp_path, capfd):
    path = fetch(server.url, checksum=SHA256, size=len(CONTENT))
    assert path.read_bytes() == CONTENT
    assert path.is_relative_to(tmp_path / "cache")
    assert path.parts[-2:] == ("models", "model_base.pth")
    (line,) = [line for line in capfd.readouterr().err.splitlines() if "downloading" in line]
    assert line == f"downloading {server.url} (0.1 MB) to {path}"
    assert fetch(server.url, checksum=SHA256, size=len(CONTENT)) == path
    assert server.requests == [None]
    assert "downloading" not in capfd.readouterr().err
    assert files(tmp_path) == {"model_base.pth"}


def test_two_addresses_never_share_a_place(server, tmp_path):
    places = {
        download.place_of(url)
        for url in (
            "https://a/x/m.pth",
            "https://b/x/m.pth",
            "https://a/m.pth",
            "https://a/m.pth?v=1",
        )
    }
    assert len(places) == 4
    assert fetch(server.url, folder=tmp_path / "here") == tmp_path / "here" / "model_base.pth"


@pytest.mark.parametrize("url", ["file:///etc/hostname", "https://a", "https://a/../../b", "x"])
def test_only_addresses_of_files_are_taken(url):
    with pytest.raises(UserError, match="is not a file's URL"):
        fetch(url)


def test_goes_on_after_a_cut_connection(server, capfd):
    server.cuts = [30_000, 20_000]
    assert fetch(server.url, checksum=SHA256).read_bytes() == CONTENT
    assert server.requests == [None, "bytes=30000-", "bytes=50000-"]
    assert capfd.readouterr().err.count("downloading") == 1


def test_goes_on_where_an_earlier_run_stopped(server, tmp_path):
    server.cuts = [30_000] + [0] * (download.TRIES - 1)
    with pytest.raises(UserError, match="try again") as caught:
        fetch(server.url)
    assert "30000 of 102400 bytes" in one_line(caught)
    assert "model_base.pth" not in files(tmp_path)
    server.requests.clear()
    assert fetch(server.url).read_bytes() == CONTENT
    assert server.requests == ["bytes=30000-"]
    assert files(tmp_path) == {"model_base.pth"}


def test_ctrl_c_says_that_the_part_is_kept(server, capfd):
    server.holds = [60_000]  # then it sends nothing: how many come at once is up to the network

    def press_ctrl_c(name, done, total):
        if done >= 60_000:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt), download.watching(press_ctrl_c):
        fetch(server.url, checksum=SHA256)
    *_, line = capfd.readouterr().err.splitlines()
    assert line.endswith("model_base.pth: the 0.1 MB so far are kept for the next try")
    fetch(server.url, checksum=SHA256)
    assert server.requests == [None, "bytes=60000-"]


def test_starts_again_where_the_server_ignores_ranges(server):
    server.cuts, server.ranges = [30_000], False
    assert fetch(server.url).read_bytes() == CONTENT
    assert server.requests == [None, "bytes=30000-"]


@pytest.mark.parametrize("obeys", [True, False], ids=["obeys If-Range", "ignores If-Range"])
def test_never_joins_two_versions_of_a_file(server, obeys):
    server.cuts, server.obeys_if_range = [30_000] + [0] * (download.TRIES - 1), obeys
    with pytest.raises(UserError):
        fetch(server.url)
    server.content, server.etag = CONTENT[::-1], '"v2"'
    assert fetch(server.url).read_bytes() == CONTENT[::-1]


@pytest.mark.parametrize("etag", ["", 'W/"v1"'])
def test_does_not_go_on_without_a_mark_of_the_version(server, etag):
    server.cuts, server.etag = [30_000], etag
    assert fetch(server.url).read_bytes() == CONTENT
    assert server.requests == [None, None]


def test_starts_again_when_the_file_became_shorter(server):
    server.cuts = [30_000] + [0] * (download.TRIES - 1)
    with pytest.raises(UserError):
        fetch(server.url)
    server.content = CONTENT[:100]
    assert fetch(server.url).read_bytes() == CONTENT[:100]


@pytest.mark.parametrize(("checksum", "etag"), [(SHA256, ""), (None, '"v1"')])
def test_a_part_that_was_not_checked_yet_is_not_fetched_again(server, checksum, etag):
    """A process was killed after the last byte."""
    place = download.place_of(server.url)
    place.parent.mkdir(parents=True)
    place.with_name(f"{place.name}.part").write_bytes(CONTENT)
    place.with_name(f"{place.name}.part.version").write_text('"v1"')
    server.obeys_if_range, server.etag = False, etag
    assert fetch(server.url, checksum=checksum).read_bytes() == CONTENT
    assert server.requests == [f"bytes={len(CONTENT)}-"]
    assert files(place.parent) == {place.name}


@pytest.mark.parametrize("change", ["another version", "another size", "another file"])
def test_a_part_of_another_file_is_fetched_again(server, change):
    place = download.place_of(server.url)
    place.parent.mkdir(parents=True)
    place.with_name(f"{place.name}.part").write_bytes(b"old" + CONTENT[3:])
    place.with_name(f"{place.name}.part.version").write_text('"v0"')
    server.obeys_if_range = False
    if change == "another size":
        server.content = CONTENT[:-1]
    if change == "another file":  # the server still calls it by the old version's name
        with pytest.raises(UserError, match="has the sha256"):
            fetch(server.url, checksum=SHA256)
    assert fetch(server.url).read_bytes() == server.content


def test_errors_name_the_place_that_the_caller_wants(server, tmp_path):
    place = tmp_path / "archive.zip"
    server.status = 404
    with pytest.raises(UserError) as caught:
        fetch(server.url, folder=tmp_path / "work", by_hand=place)
    assert one_line(caught).endswith(f"download the address elsewhere and put it at {place}")


def test_a_wrong_checksum_leaves_nothing(server, tmp_path):
    with pytest.raises(UserError, match="expected " + "0" * 64) as caught:
        fetch(server.url, checksum="sha256:" + "0" * 64)
    assert SHA256.removeprefix("sha256:") in one_line(caught)
    assert files(tmp_path) == set()


def test_a_wrong_size_is_refused_before_the_download(server, tmp_path):
    with pytest.raises(UserError, match="102400 bytes, expected 5") as caught:
        fetch(server.url, size=5)
    assert one_line(caught)
    assert files(tmp_path) == set()


def test_a_file_put_there_by_hand_is_used_if_it_has_the_size(server):
    place = download.place_of(server.url)
    place.parent.mkdir(parents=True)
    place.write_bytes(b"mine")
    assert fetch(server.url, size=4).read_bytes() == b"mine"
    with pytest.raises(UserError, match="4 bytes, expected 5: delete it"):
        fetch(server.url, size=5)
    assert server.requests == []


def test_a_file_put_there_by_hand_must_have_the_checksum(server):
    place = download.place_of(server.url)
    place.parent.mkdir(parents=True)
    place.write_bytes(CONTENT)
    assert fetch(server.url, checksum=SHA256) == place
    place.write_bytes(CONTENT[:-1] + b"?")
    with pytest.raises(UserError, match=r"not the published file: expected sha256:.*; delete it"):
        fetch(server.url, checksum=SHA256)
    assert server.requests == []


def test_a_web_page_is_refused(server, tmp_path):
    server.kind = "text/html; charset=utf-8"
    with pytest.raises(UserError, match="is a web page") as caught:
        fetch(server.url)
    assert server.url in one_line(caught)
    assert files(tmp_path) == set()


def test_a_missing_file_is_not_tried_again(server):
    server.status = 404
    with pytest.raises(UserError, match="404 Not Found: check the address") as caught:
        fetch(server.url)
    assert server.url in one_line(caught)
    assert len(server.requests) == 1


def test_a_busy_server_is_tried_again(server):
    server.status = 503
    with pytest.raises(UserError, match="503") as caught:
        fetch(server.url)
    assert str(download.place_of(server.url)) in one_line(caught)
    assert len(server.requests) == download.TRIES


@pytest.mark.parametrize("name", ["HF_HUB_OFFLINE", "SMILE_OFFLINE"])
def test_offline_names_address_and_place(server, monkeypatch, name):
    monkeypatch.setenv(name, "1")
    with pytest.raises(UserError, match=f"downloads are off \\({name} is set\\)") as caught:
        fetch(server.url)
    message = one_line(caught)
    assert server.url in message
    assert f"put it at {download.place_of(server.url)}" in message
    assert server.requests == []


def test_an_unreachable_server_names_address_and_place(server):
    server.close()
    with pytest.raises(UserError, match="cannot be reached") as caught:
        fetch(server.url)
    assert f"put it at {download.place_of(server.url)}" in one_line(caught)


def test_a_full_disk_leaves_no_file_under_the_final_name(server, tmp_path, monkeypatch):
    usage = download.shutil.disk_usage(tmp_path)
    monkeypatch.setattr(download.shutil, "disk_usage", lambda _: usage._replace(free=1_000))
    with pytest.raises(UserError, match="do not fit") as caught:
        fetch(server.url)
    assert one_line(caught)

    def fill(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(download.shutil, "disk_usage", lambda _: usage)
    with monkeypatch.context() as patch:
        patch.setattr(download.os, "fsync", fill)
        with pytest.raises(UserError, match="no space left on device: make room"):
            fetch(server.url)
    assert "model_base.pth" not in files(tmp_path)
    assert fetch(server.url).read_bytes() == CONTENT


def test_two_at_once_download_once(server, capfd):
    started = threading.Barrier(2)
    paths = []

    def work():
        started.wait()
        paths.append(fetch(server.url, checksum=SHA256))

    threads = [threading.Thread(target=work) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=20)
    assert [path.read_bytes() for path in paths] == [CONTENT, CONTENT]
    assert server.requests == [None]


# --- servers that mean no good -----------------------------------------------------------------


class Raw(Loopback):
    """Sends these bytes, whatever is asked for, and notes the headers that came."""

    def __init__(self, *parts: bytes, pause: float = 0):
        super().__init__()
        self.url = f"{self.address}/a/file.bin"
        self.parts, self.pause = parts, pause

    def answer(self, handler) -> None:
        self.requests.append(handler.headers)
        handler.close_connection = True
        with contextlib.suppress(OSError):
            for part in self.parts:
                handler.wfile.write(part)
                time.sleep(self.pause)


def http(*headers: str, status: str = "200 OK", body: bytes = b"x" * 1000) -> bytes:
    lines = [f"HTTP/1.1 {status}", *headers, "", ""]
    return "\r\n".join(lines).encode("latin-1") + body


@contextlib.contextmanager
def serving(*parts: bytes, pause: float = 0):
    server = Raw(*parts, pause=pause)
    yield server
    server.close()


ETAG = 'ETag: "a"'
HOSTILE = {
    "length of 5000 digits": (http("Content-Length: " + "9" * 5000), "gives '999"),
    "negative length": (http("Content-Length: -5"), "gives '-5' as the size"),
    "length that is no number": (http("Content-Length: ²"), "gives '²' as the size"),
    "negative chunk": (
        http("Transfer-Encoding: chunked", ETAG, body=b"-5\r\nabc"),
        "chunk of a negative size",
    ),
    "huge chunk": (http("Transfer-Encoding: chunked", body=b"f" * 500 + b"\r\nabc"), "."),
    "first answer 206": (
        http("Content-Range: bytes 0-999/1000", status="206 Partial Content"),
        "another part than asked for",
    ),
    "206 of unknown size": (
        http("Content-Range: bytes 0-9/*", status="206 Partial Content"),
        "another part than asked for",
    ),
    "no answer": (b"", "."),
    "no HTTP": (b"\x00\xff\x16 not http\r\n\r\n", "."),
    "compressed": (http("Content-Encoding: gzip"), r"compresses it \(gzip\)"),
    "204": (http(status="204 No Content", body=b""), "answers 204 No Content"),
    "nothing in it": (http("Content-Length: 0", body=b""), "is empty"),
    "page": (
        http("Content-Type: application/octet-stream", body=b"\n<!DOCTYPE html>"),
        "a web page",
    ),
    "XML error": (http(body=b"<?xml version='1.0'?><Error/>"), "is a web page"),
    **{
        f"redirect to {place}": (
            http(f"Location: {place}", status="302 Found"),
            "it redirects to .*expected an address of http or https",
        )
        for place in ("ftp://127.0.0.1/x", "file:///etc/passwd", "data:,a", "http://[::1")
    },
    "redirect nowhere": (http(status="302 Found"), "it redirects to 'nowhere'"),
    "redirect in a circle": (http("Location: /a/file.bin", status="302 Found"), "without end"),
}


@pytest.mark.parametrize("kind", HOSTILE)
def test_a_hostile_answer_gets_one_line_and_leaves_no_file(kind, tmp_path):
    answer, message = HOSTILE[kind]
    with serving(answer) as server, pytest.raises(UserError, match=message) as caught:
        fetch(server.url)
    assert server.url in one_line(caught)
    assert not [name for name in files(tmp_path) if not name.endswith((".part", ".version"))]


def test_https_never_leads_to_http():
    address = "https://127.0.0.1/a"
    with pytest.raises(UserError, match=r"redirects to 'http://127.*an address of https"):
        connection._redirected(address, address, "http://127.0.0.1/b")
    assert connection._redirected(address, address, "/b") == "https://127.0.0.1/b"


@pytest.mark.parametrize("note", [b"\xff\xfe", b"a\r\nX: y", b"", b"a" * 5000, b"\xc3\xa9"])
def test_a_damaged_note_of_the_version_begins_anew(server, note):
    place = download.place_of(server.url)
    place.parent.mkdir(parents=True)
    place.with_name(f"{place.name}.part").write_bytes(b"old" * 100)
    place.with_name(f"{place.name}.part.version").write_bytes(note)
    assert fetch(server.url).read_bytes() == CONTENT
    assert server.requests == [None]


def test_a_rest_without_its_version_is_not_joined(server):
    """A 206 that does not say which version it is of could be of another file."""
    server.cuts = [30_000]
    server.says_version_of_parts = False
    assert fetch(server.url).read_bytes() == CONTENT
    assert server.requests[1:] == ["bytes=30000-", None]


@pytest.mark.slow
@pytest.mark.parametrize("where", ["body", "headers", "chunk"])
def test_a_drip_is_not_waited_for_without_end(where, monkeypatch, tmp_path):
    monkeypatch.setattr(connection, "PATIENCE", 0.3)
    head = http("Content-Length: 1000", ETAG, body=b"")
    start = {"body": head, "headers": b"HTTP/1.1 200 OK\r\n"}.get(
        where, http("Transfer-Encoding: chunked", body=b"")
    )
    began = time.monotonic()
    with (
        serving(start, *[b"1"] * 1000, pause=0.02) as server,
        pytest.raises(UserError, match="sends less than"),
    ):
        fetch(server.url)
    assert time.monotonic() - began < 10  # of 20 seconds
    assert len(server.requests) == 1
    if where == "body":  # what came is kept as it came
        [part] = (tmp_path / "cache").rglob("*.part")
        assert 3 <= part.stat().st_size <= 30


def test_names_and_keys_in_an_address_stay_secret(server, tmp_path, capfd):
    _, _, rest = server.url.partition("//")
    url = f"http://me:pa%40ss@{rest}?token=hidden"
    path = fetch(url)
    assert server.logins == ["Basic " + base64.b64encode(b"me:pa@ss").decode()]
    server.status = 404
    with pytest.raises(UserError) as caught:
        fetch(url.replace("model_base", "other"))
    server.close()
    with pytest.raises(UserError) as unreachable:
        fetch(url.replace("model_base", "other"))
    with pytest.raises(UserError) as wrong:
        fetch("ftp://me:pa%40ss@host/x?token=hidden")
    said = f"{path}{capfd.readouterr().err}{caught.value}{unreachable.value}{wrong.value}"
    for secret in ("pa%40ss", "pa@ss", "hidden", "me:"):
        assert secret not in said


def test_a_redirect_takes_no_password_elsewhere(server):
    with serving(http(f"Location: {server.url}", status="302 Found")) as first:
        fetch(first.url.replace("//", "//me:secret@"))
    assert first.requests[0]["Authorization"]
    assert server.logins == [None]
