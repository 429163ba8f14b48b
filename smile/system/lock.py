"""One process at a time: a file that says "a process is at work here".

lock = ProcessLock(folder / ".lock")
if not lock.acquire():
    raise UserError("another process is at work there")
...
lock.release()
"""

import contextlib
import errno
import os
import threading
import time
from pathlib import Path
from typing import Protocol

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]  # no type says "a module, if it is there"

POLL = 0.1  # seconds between two tries of `wait`
_held: set[tuple[int, str]] = set()  # (process, path); a forked process holds none of them
_guard = threading.Lock()  # of `_held`


class ProcessLock:
    """A lock that its process holds until it releases it or ends, killed or not.

    Where there is `fcntl`, it is POSIX's lock and not `flock`'s: processes that read images inherit
    the latter, and would hold it for seconds after their parent was killed. POSIX's belongs to the
    process, so `_held` keeps apart those that want it within one. Elsewhere `filelock` knows what
    the system has.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)
        self._key: tuple[int, str] | None = None
        self._lock: _SystemLock = _PosixLock(self.path) if fcntl else _OtherLock(self.path)

    @property
    def held(self) -> bool:
        return self._key is not None

    def acquire(self) -> bool:
        """Takes the lock; False if another process has it.

        Raises:
            OSError: the file cannot be made, or its disk has no locks.
        """
        key = (os.getpid(), os.path.realpath(self.path))
        with _guard:
            if key in _held or not self._lock.acquire():
                return False
            _held.add(key)
            self._key = key
            return True

    def wait(self) -> None:
        """Returns once we have the lock. Raises OSError like `acquire`."""
        while not self.acquire():
            time.sleep(POLL)

    def release(self) -> None:
        """Removes the file and frees the lock, if we have it."""
        with _guard:
            if self._key is not None:
                self._lock.release()
                _held.discard(self._key)
                self._key = None


class _SystemLock(Protocol):
    def acquire(self) -> bool: ...

    def release(self) -> None: ...


class _PosixLock:
    def __init__(self, path: Path) -> None:
        self.path = path
        self.file = -1

    def acquire(self) -> bool:
        file = os.open(self.path, os.O_RDWR | os.O_CREAT, 0o666)
        try:
            fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            free = os.fstat(file).st_nlink > 0  # else its last owner has just removed it
        except OSError as error:
            free = False
            if error.errno not in (errno.EACCES, errno.EAGAIN):  # these two: another has it
                raise
        finally:
            if not free:
                os.close(file)
        self.file = file
        return free

    def release(self) -> None:
        with contextlib.suppress(OSError):
            self.path.unlink()
        os.close(self.file)


class _OtherLock:
    def __init__(self, path: Path) -> None:
        from filelock import FileLock  # 0.1 s to import

        self.lock = FileLock(path)

    def acquire(self) -> bool:
        from filelock import Timeout

        try:
            self.lock.acquire(timeout=0)
        except Timeout:
            return False
        return True

    def release(self) -> None:
        self.lock.release()
