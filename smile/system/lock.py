"""One run at a time: a file that says "somebody is at work here"."""

import contextlib
import os
from pathlib import Path

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None


class RunLock:
    """A file that says "somebody is at work here" for as long as its process lives.

    The lock is POSIX's, not `flock`'s: processes that read images inherit the latter, and would
    hold it for seconds after their parent was killed. Windows has neither, and goes unguarded.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.file: int | None = None

    def acquire(self) -> bool:
        """Whether nobody else has the lock, and so now we do."""
        if fcntl is None:
            return True
        file = os.open(self.path, os.O_RDWR | os.O_CREAT, 0o666)
        try:
            fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            mine = os.fstat(file).st_nlink > 0  # else its last owner has just removed it
        except OSError:
            mine = False
        if mine:
            self.file = file
        else:
            os.close(file)
        return mine

    def release(self) -> None:
        """Removes the file and lets go of it."""
        if self.file is not None:
            with contextlib.suppress(OSError):
                self.path.unlink()
            os.close(self.file)
            self.file = None
