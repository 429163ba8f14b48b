"""Standard output that is full, closed, or of an odd encoding, and how commands end."""

import errno
import io
import os
import sys

import pytest

from smile.errors import UserError
from smile.system.output import ReaderLeft, ending, prepare_output, say

HAPPENED = {
    UserError("photo.jpg: no such file"): (2, "smile.data: photo.jpg: no such file\n"),
    KeyboardInterrupt(): (130, "smile.data: stopped; run it again\n"),
    ReaderLeft(): (141, ""),
}


@pytest.mark.parametrize("happened", HAPPENED, ids=lambda error: type(error).__name__)
def test_a_command_ends_with_a_status_and_at_most_one_line(happened, capsys):
    with (
        pytest.raises(SystemExit) as ended,
        ending("smile.data", stopped="stopped; run it again"),
    ):
        raise happened
    assert (ended.value.code, capsys.readouterr().err) == HAPPENED[happened]


def test_a_pipe_of_our_own_that_breaks_is_no_reader_who_left():
    """A process that died, or a server that hung up, must not end a command without a word."""
    with pytest.raises(BrokenPipeError), ending("smile.data"):
        raise BrokenPipeError(errno.EPIPE, "Broken pipe")


def test_nobody_reads(monkeypatch):
    read, write = os.pipe()
    os.close(read)
    with os.fdopen(write, "w") as out:
        monkeypatch.setattr(sys, "stdout", out)
        with pytest.raises(ReaderLeft):
            say("a caption")


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs Linux's /dev/full")
def test_the_status_is_right_if_nobody_can_read_why(monkeypatch):
    with open("/dev/full", "w") as full:
        monkeypatch.setattr(sys, "stderr", full)
        with pytest.raises(SystemExit) as ended, ending("smile.data"):
            raise UserError("photo.jpg: no such file")
        full.flush()  # as Python does at its end: an error would change the status
    assert ended.value.code == 2


def test_a_full_disk_is_named(monkeypatch):
    class Full(io.StringIO):
        def write(self, text):
            raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(sys, "stdout", Full())
    with pytest.raises(
        UserError, match=r"^standard output: cannot write: no space left on device$"
    ):
        say("a caption")


def test_a_closed_stream_is_opened_again(monkeypatch):
    monkeypatch.setattr(sys, "stdout", None)
    monkeypatch.setattr(sys, "stderr", None)
    assert not prepare_output()
    say("nobody sees it")
    print("nor \udcff", file=sys.stderr)
    sys.stdout.close()
    sys.stderr.close()


@pytest.mark.parametrize(
    ("is_terminal", "shown"), [(True, "\\x1b[31m.png\n"), (False, "\x1b[31m.png\n")]
)
def test_a_terminal_obeys_no_name(is_terminal, shown, monkeypatch):
    out = io.StringIO()
    monkeypatch.setattr(sys, "stdout", out)
    monkeypatch.setattr(out, "isatty", lambda: is_terminal, raising=False)
    say("\x1b[31m.png")
    assert out.getvalue() == shown


@pytest.mark.parametrize("encoding", ["ascii", "cp1252", "utf-8"])
def test_standard_output_takes_any_name_in_any_encoding(encoding, monkeypatch):
    data = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(data, encoding=encoding))
    prepare_output()
    print("日本 \udcff", flush=True)
    known = encoding == "utf-8"
    assert data.getvalue() == (
        "日本".encode() + b" \xff\n" if known else b"\\u65e5\\u672c \\udcff\n"
    )
