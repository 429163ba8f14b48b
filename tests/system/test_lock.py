"""One process at a time, by POSIX's locks and by those of `filelock`.

That a killed parent's lock is free although its children live is tested in
tests/captioning/test_caption_file.py.
"""

import errno
import threading

import pytest

from smile.system import lock
from smile.system.lock import ProcessLock


@pytest.fixture(params=["fcntl", "filelock"])
def path(request, tmp_path, monkeypatch):
    if request.param == "filelock":
        monkeypatch.setattr(lock, "fcntl", None)
    return tmp_path / ".lock"


def test_a_lock_is_held_once_until_it_is_released(path):
    first, second = ProcessLock(path), ProcessLock(path)
    assert first.acquire() and first.held
    assert not first.acquire() and not second.acquire() and not second.held
    second.release()  # which it does not have
    assert not second.acquire()
    first.release()
    assert second.acquire()
    second.release()


def test_waiting_ends_with_the_release(path):
    first, second = ProcessLock(path), ProcessLock(path)
    assert first.acquire()
    other = threading.Thread(target=lambda: (second.wait(), second.release()))
    other.start()
    other.join(0.2)
    assert other.is_alive()
    first.release()
    other.join(10)
    assert not other.is_alive()


def test_a_disk_without_locks_is_no_other_process(tmp_path, monkeypatch):
    def refuse(*_: object) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(lock.fcntl, "lockf", refuse)
    with pytest.raises(OSError, match="No locks"):
        ProcessLock(tmp_path / ".lock").acquire()
