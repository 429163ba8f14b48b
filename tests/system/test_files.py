"""Files written whole, and strangers' files read to a value or to one line."""

import json
import os
import stat
import tracemalloc
from pathlib import Path

import pytest

from smile.errors import UserError
from smile.system import files
from smile.system.files import (
    UNFINISHED,
    check_writable,
    expect,
    json_line,
    lone_surrogate,
    parse_json,
    read_json,
    read_text,
    remove_unfinished,
    write_atomically,
    write_text,
    writing,
)


@pytest.fixture
def umask_077():
    before = os.umask(0o077)
    yield
    os.umask(before)


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_a_new_file_heeds_the_umask(tmp_path, umask_077):
    write_text(tmp_path / "a", "secret")
    assert mode(tmp_path / "a") == 0o600


def test_a_new_file_heeds_the_umask_though_its_writer_replaces_it(tmp_path):
    """As safetensors does, by a file that only its owner can read."""

    def write(path: Path) -> None:
        path.unlink()
        os.close(os.open(path, os.O_CREAT, 0o600))

    before = os.umask(0o022)
    try:
        write_atomically(tmp_path / "a", write)
    finally:
        os.umask(before)
    assert mode(tmp_path / "a") == 0o644


def test_a_replaced_file_keeps_its_permissions(tmp_path):
    path = tmp_path / "a"
    path.write_text("old")
    path.chmod(0o640)
    write_text(path, "new")
    assert (path.read_text(), mode(path)) == ("new", 0o640)


def test_a_link_is_followed_and_stays(tmp_path):
    target, link = tmp_path / "target", tmp_path / "link"
    target.write_text("old")
    link.symlink_to(target)
    write_text(link, "new")
    assert link.is_symlink() and target.read_text() == "new"


def test_whether_a_file_can_be_written_is_known_without_writing_it(tmp_path):
    path = tmp_path / "new" / "a"
    check_writable(path)
    assert list(tmp_path.iterdir()) == []
    path.parent.mkdir()
    path.write_text("old")
    (tmp_path / "link").symlink_to(path)
    check_writable(tmp_path / "link")
    assert path.read_text() == "old"
    os.mkfifo(tmp_path / "pipe")
    for name, reason in (
        ("pipe", "not a regular file"),
        ("new", "it is a folder"),
        ("new/a/b", "new/a/b: cannot write: not a directory"),
        ("x" * 300, "file name too long"),
        (f"missing/{'x' * 300}/a", "file name too long"),
    ):
        with pytest.raises(UserError, match=reason):
            check_writable(tmp_path / name)


def test_an_error_names_the_file_and_not_its_temporary_one(tmp_path):
    with (
        pytest.raises(UserError, match=r"/a: cannot write: no space left"),
        writing(tmp_path / "a"),
    ):
        raise OSError(28, "No space left on device", str(tmp_path / f"{UNFINISHED}12"))


@pytest.mark.parametrize(
    "value", ["ü", "\x1b[31m", "\x9b", "a\nb", os.fsdecode(b"\xff.jpg"), "\ud83d", {"a": [1, None]}]
)
def test_a_line_of_json_is_one_line_that_no_terminal_obeys(value):
    line = json_line(value)
    assert json.loads(line) == value
    assert line.count(b"\n") == 1 and b"\x1b" not in line and "\x9b".encode() not in line


def test_the_longest_name_a_disk_takes_can_be_written(tmp_path):
    path = tmp_path / ("x" * 251 + ".txt")
    write_text(path, "text")
    assert path.read_text() == "text"


def test_a_planted_temporary_name_is_not_followed(tmp_path, monkeypatch):
    monkeypatch.setattr("secrets.token_hex", lambda n: "00")
    victim = tmp_path / "victim"
    victim.write_text("precious")
    (tmp_path / f"{UNFINISHED}00.txt").symlink_to(victim)
    with pytest.raises(FileExistsError):
        write_text(tmp_path / "a.txt", "new")
    assert victim.read_text() == "precious"


def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path):
    path = tmp_path / "a"
    path.write_text("old")

    def fail(temporary: Path) -> None:
        temporary.write_text("half")
        raise OSError(28, "No space left on device")

    with pytest.raises(OSError, match="No space"):
        write_atomically(path, fail)
    assert path.read_text() == "old" and os.listdir(tmp_path) == ["a"]


def test_remove_unfinished_takes_what_a_killed_writer_left(tmp_path):
    (tmp_path / "below").mkdir()
    left = tmp_path / "below" / f"{UNFINISHED}0123.txt"
    left.touch()
    remove_unfinished(tmp_path)
    assert not left.exists()


DEEP = 100_000
WRONG = {
    b"": "not JSON",
    b"{": "not JSON",
    b"\xff\xfe{\x00": "not UTF-8 text (byte 0 is 0xff): save it as UTF-8",
    b"[1]": "found [1], expected an object",
    b"NaN": "NaN is no number",
    b'{"a": -Infinity}': "-Infinity is no number",
    b'{"a": ' + b"9" * 5000 + b"}": "too many digits",
    b"[" * DEEP: "nested too deep",
    b'{"a":' * DEEP: "nested too deep",
    b'{"a": 1, "a": 2}': '"a" is named twice',
}


@pytest.mark.parametrize("content", WRONG, ids=lambda content: content[:12].decode("latin-1"))
def test_what_is_no_json_object_is_said_in_one_line(tmp_path, content):
    path = tmp_path / "a.json"
    path.write_bytes(content)
    with pytest.raises(UserError) as error:
        read_json(path, unique=True)
    message = str(error.value)
    assert message.startswith(f"{path}: ") and WRONG[content] in message
    assert "\n" not in message and len(message) < 300


def test_reading_refuses_what_is_no_file_at_once(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    for name, reason in (("pipe", "regular"), (".", "folder"), ("none", "no such file")):
        with pytest.raises(UserError, match=reason):
            read_text(tmp_path / name)


def test_a_text_larger_than_expected_is_not_read(tmp_path):
    (tmp_path / "a").write_bytes(b"x" * 11)
    with pytest.raises(UserError, match="more than 10 bytes"):
        read_text(tmp_path / "a", largest=10)


def test_a_small_text_takes_little_memory(tmp_path):
    (tmp_path / "a").write_text("small")
    tracemalloc.start()
    try:
        assert read_text(tmp_path / "a") == "small"
        assert tracemalloc.get_traced_memory()[1] < 10 * 2**20
    finally:
        tracemalloc.stop()


def test_a_byte_order_mark_is_no_text(tmp_path):
    (tmp_path / "a").write_bytes(b'\xef\xbb\xbf{"b": 1}')
    assert read_json(tmp_path / "a") == {"b": 1}


@pytest.mark.parametrize(
    ("value", "kind", "fits"),
    [
        (1, int, True),
        (True, int, False),
        (1, float, True),
        (1.5, float, True),
        (1.5, int, False),
        (True, bool, True),
        (0, bool, False),
        (None, str, False),
        ([], dict, False),
    ],
)
def test_expect(value, kind, fits):
    if fits:
        assert expect(value, kind, where="here") is value
    else:
        with pytest.raises(UserError, match=r"here: found .*, expected "):
            expect(value, kind, where="here")


def test_half_a_surrogate_pair_is_found():
    assert lone_surrogate(parse_json('"a \\ud83d b"', "here")) == "\\ud83d"
    assert lone_surrogate(parse_json('"a \\ud83d\\ude00 b"', "here")) == ""
    assert json.loads('"\\ud83d\\ude00"') == "\N{GRINNING FACE}"


def test_an_error_cannot_command_the_terminal():
    assert str(UserError("\x1b[31mred\x07\nnext")) == "\\x1b[31mred\\x07\nnext"


@pytest.mark.parametrize("platform", ["linux", "darwin"])
def test_all_of_a_folder_is_flushed(platform, tmp_path, monkeypatch):
    """Linux waits for everything at once, others for each file and the folder."""
    flushed = []
    for name in ("a", "b"):
        (tmp_path / name).touch()
    monkeypatch.setattr(files.sys, "platform", platform)
    monkeypatch.setattr(files, "flush", flushed.append)
    monkeypatch.setattr(files.os, "sync", lambda: flushed.append("all"))
    files.flush_all(tmp_path)
    each = [tmp_path, tmp_path / "a", tmp_path / "b"]
    assert sorted(flushed) == (["all"] if platform == "linux" else each)
