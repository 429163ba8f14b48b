"""Where shards lie and tables go: a disk, or a store that fsspec knows (s3://, hf://, https://).

Reading: a thread reads ahead, and a broken connection is resumed. Writing: a file is finished on
the local disk and then renamed or, on a store, where a rename is a copy, put as one object. fsspec
commits a file that is being written when it is closed, even after an exception, so nothing is ever
written to a store bit by bit.
"""

import contextlib
import glob
import os
import queue
import re
import secrets
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any, BinaryIO, Protocol, TypeVar

from smile.errors import UserError, reason_of
from smile.system.connection import shown
from smile.system.files import (
    UNFINISHED,
    check_regular,
    flush,
    reading,
    writing,
)
from smile.system.lock import ProcessLock

# The package that fsspec needs for a kind of address, where it is not called like it.
PACKAGES = {"http": "aiohttp", "https": "aiohttp", "s3": "s3fs", "s3a": "s3fs"}
PACKAGES |= {"gs": "gcsfs", "gcs": "gcsfs", "az": "adlfs", "abfs": "adlfs"}

CHUNK = 2**20  # bytes read at a time
AHEAD = 64  # chunks read ahead
TRIES = 5  # of a request
WAIT = 0.5  # seconds before the second try, twice as many before the third, and so on
FINAL = (
    FileNotFoundError,
    FileExistsError,
    PermissionError,
    IsADirectoryError,
    NotImplementedError,
)

T = TypeVar("T")


def require(package: str, what: str, requirements: str = "requirements-scale.txt") -> None:
    """Raises UserError unless a package is installed, which a file of requirements names."""
    if find_spec(package) is None:
        raise UserError(f"{what} need {package}: pip install -r {requirements}")


def is_address(text: str) -> bool:
    """Whether this is an address ("s3://…") and not a path."""
    return bool(re.match(r"[A-Za-z][A-Za-z0-9+.-]+(://|::)", text))


def open_store(address: str) -> tuple[Any, str]:
    """The file system of fsspec that `address` names, and the path in it.

    Raises:
        UserError: there is no such kind of store, or its package is missing.
    """
    require("fsspec", "shards and tables")
    import fsspec

    kind = re.split("://|::", address)[0].lower() if is_address(address) else "file"
    try:
        system, path = fsspec.core.url_to_fs(address)
    except ImportError as error:
        package = PACKAGES.get(kind)
        remedy = f"needs {package}: pip install {package}" if package else plain(error)
        raise UserError(f"{shown(address)}: {kind}:// {remedy}") from error
    except Exception as error:  # each store raises what it likes
        raise UserError(
            f"{shown(address)}: cannot be opened: {plain(error)}; expected a path, or an address "
            "such as s3://, gs://, hf:// or https://"
        ) from error
    return system, path


def local_path(address: str) -> Path | None:
    """The path of what lies on this machine's disks, None for what lies on a store."""
    if not is_address(address):
        return Path(address)
    return Path(open_store(address)[1]) if address.lower().startswith("file://") else None


def plain(error: BaseException) -> str:
    """An error of a store in one line, without the keys that addresses in it may hold."""
    if isinstance(error, FileNotFoundError):
        return "no such file"
    text = reason_of(error) if isinstance(error, OSError) else str(error)
    text = " ".join(text.split()) or type(error).__name__
    return re.sub(r"\b[A-Za-z][A-Za-z0-9+.-]+://[^\s'\"]+", lambda match: shown(match[0]), text)


def patiently(action: Callable[[], T], what: str) -> T:
    """The result of `action`, tried again where a connection failed.

    Raises:
        UserError: it failed `TRIES` times, or in a way that no other try mends.
    """
    for number in range(TRIES):
        try:
            return action()
        except FINAL as error:
            raise UserError(f"{what}: {plain(error)}") from error
        except Exception as error:  # each store raises what it likes
            if number == TRIES - 1:
                raise UserError(f"{what}: {plain(error)} ({TRIES} tries)") from error
        time.sleep(WAIT * 2**number)
    raise AssertionError


# Reading ------------------------------------------------------------------------------------------


class ReadAhead:
    """The bytes of a file on a disk or a store, once, from its beginning to its end.

    A thread holds at most `AHEAD` chunks. Call `close`, or the thread stays.

    Raises:
        UserError: (from `read` too) the file cannot be read.
    """

    def __init__(self, address: str) -> None:
        self._what = shown(address)
        self._system, self._path = open_store(address)
        path = local_path(address)
        if path is not None:
            check_regular(path)
        self._tries = patiently if path is None else _once
        self._chunks: queue.Queue[bytes | BaseException] = queue.Queue(AHEAD)
        self._closed = threading.Event()
        self._rest = b""
        self._ended = False
        threading.Thread(target=self._fill, daemon=True).start()

    def read(self, size: int = -1) -> bytes:
        """Up to `size` further bytes; b"" at the end."""
        if not self._rest and not self._ended:
            chunk = self._chunks.get()
            if isinstance(chunk, BaseException):
                self._chunks.put(chunk)
                raise chunk
            self._rest, self._ended = chunk, not chunk
        size = len(self._rest) if size < 0 else size
        data, self._rest = self._rest[:size], self._rest[size:]
        return data

    def close(self) -> None:
        self._closed.set()
        with contextlib.suppress(queue.Empty):
            while True:
                self._chunks.get_nowait()

    def _fill(self) -> None:
        """Reads everything, in the thread."""
        file: Any = None
        position = 0

        def next_chunk() -> bytes:
            nonlocal file
            try:
                if file is None:
                    file = self._system.open(self._path, "rb")
                    if position:
                        file.seek(position)
                data: bytes = file.read(CHUNK)
                return data
            except BaseException:
                _close(file)
                file = None
                raise

        try:
            while not self._closed.is_set():
                chunk = self._tries(next_chunk, self._what)
                position += len(chunk)
                self._put(chunk)
                if not chunk:
                    break
        except BaseException as error:
            self._put(error)
        finally:
            _close(file)

    def _put(self, chunk: bytes | BaseException) -> None:
        while not self._closed.is_set():
            with contextlib.suppress(queue.Full):
                self._chunks.put(chunk, timeout=0.1)
                return


def _once(action: Callable[[], T], what: str) -> T:
    """As `patiently`, but for a disk: what fails there once fails again."""
    try:
        return action()
    except OSError as error:
        raise UserError(f"{what}: cannot be read: {plain(error)}") from error


def _close(file: Any) -> None:
    with contextlib.suppress(Exception):
        if file is not None:
            file.close()


# Writing ------------------------------------------------------------------------------------------


class Folder(Protocol):
    """A folder of finished files.

    address: as it was given, for messages, without the keys that it may hold.
    is_remote: whether a failure to write may pass by itself.
    """

    address: str
    is_remote: bool

    def sizes(self) -> dict[str, int]:
        """The names of the files and their sizes in bytes; none if there is no such folder."""

    def size(self, name: str) -> int:
        """The size of one file in bytes, 0 if it is not there."""

    def read(self, name: str, action: Callable[[BinaryIO], T]) -> T:
        """The result of `action` on a file, opened."""

    def temporary(self, name: str) -> contextlib.AbstractContextManager[Path]:
        """A new path on the disk for what is to become `name`; removed at the end."""

    def publish(self, temporary: Path, name: str) -> None:
        """Makes a finished `temporary` appear as `name`, whole, in the place of an older one."""

    def publish_new(self, temporary: Path, name: str) -> None:
        """As `publish`, but if there is a file of that name, it stays."""

    def claim(self, *names: str) -> "Claim":
        """The right to write some files, called after the first; see `Claim`."""


class Claim:
    """The right to write files, which on a disk one process has until it releases it or ends.

    free: whether we have it. Stores, and disks without locks, have no such thing: there it is true.

    Args:
        clean: removes what was begun of the files, where nobody else can be writing them: when a
            claim begins, since processes are killed, and when it ends.
    """

    def __init__(
        self, lock: ProcessLock | None = None, clean: Callable[[], object] = lambda: None
    ) -> None:
        self.free, self._lock, self._clean = True, lock, clean
        if lock is not None:
            try:
                self.free = lock.acquire()
            except OSError:  # this disk has no locks
                self._lock = None
            else:
                self._clean_up()

    def release(self) -> None:
        if self._lock is not None:
            self._clean_up()
            self._lock.release()

    def _clean_up(self) -> None:
        if self._lock is not None and self._lock.held:
            self._clean()


def open_folder(address: str) -> Folder:
    """The folder for finished files at a path or an address."""
    path = local_path(address)
    return StoreFolder(address) if path is None else DiskFolder(path)


class DiskFolder:
    """A `Folder` on a disk; it is made when the first file comes."""

    is_remote = False

    def __init__(self, path: Path) -> None:
        self.path, self.address = path, str(path)

    def sizes(self) -> dict[str, int]:
        found: dict[str, int] = {}
        with reading(self.path):
            if self.path.exists():
                with os.scandir(self.path) as entries:
                    for entry in entries:
                        with contextlib.suppress(FileNotFoundError):  # just renamed
                            found[entry.name] = entry.stat().st_size
        return found

    def size(self, name: str) -> int:
        path = self.path / name
        with reading(path):
            return path.stat().st_size if path.exists() else 0

    def read(self, name: str, action: Callable[[BinaryIO], T]) -> T:
        with reading(self.path / name), open(self.path / name, "rb") as file:
            return action(file)

    @contextlib.contextmanager
    def temporary(self, name: str) -> Iterator[Path]:
        path = self.path / f"{UNFINISHED}{name}-{secrets.token_hex(4)}"
        with writing(self.path / name):
            self.path.mkdir(parents=True, exist_ok=True)
            os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666))
        try:
            yield path
        finally:
            path.unlink(missing_ok=True)

    def publish(self, temporary: Path, name: str) -> None:
        with writing(self.path / name):
            flush(temporary)
            temporary.replace(self.path / name)
            flush(self.path)

    def publish_new(self, temporary: Path, name: str) -> None:
        target = self.path / name
        with writing(target):
            flush(temporary)
            try:
                os.link(temporary, target)
            except OSError:  # it exists, or this disk has no links
                if not target.exists():
                    self.publish(temporary, name)
            flush(self.path)

    def claim(self, *names: str) -> Claim:
        def clean() -> None:
            for name in names:
                for path in self.path.glob(f"{UNFINISHED}{glob.escape(name)}-*"):
                    path.unlink(missing_ok=True)

        with writing(self.path):
            self.path.mkdir(parents=True, exist_ok=True)
            return Claim(ProcessLock(self.path / f".{names[0]}.lock"), clean)


class StoreFolder:
    """A `Folder` on a store of fsspec."""

    is_remote = True

    def __init__(self, address: str) -> None:
        self.address = shown(address).rstrip("/")
        self._system, path = open_store(address)
        self._path = path.rstrip("/")

    def sizes(self) -> dict[str, int]:
        def listed() -> list[dict[str, Any]]:
            self._system.invalidate_cache(self._path)
            with contextlib.suppress(FileNotFoundError):
                found: list[dict[str, Any]] = self._system.ls(self._path, detail=True)
                return found
            return []

        entries = patiently(listed, self.address)
        return {entry["name"].rpartition("/")[2]: entry.get("size") or 0 for entry in entries}

    def size(self, name: str) -> int:
        def asked() -> int:
            self._system.invalidate_cache(self._path)
            with contextlib.suppress(FileNotFoundError):
                return self._system.info(self._where(name)).get("size") or 0
            return 0

        return patiently(asked, self._shown(name))

    def read(self, name: str, action: Callable[[BinaryIO], T]) -> T:
        def opened() -> T:
            with self._system.open(self._where(name), "rb") as file:
                return action(file)

        return patiently(opened, self._shown(name))

    @contextlib.contextmanager
    def temporary(self, name: str) -> Iterator[Path]:
        with tempfile.TemporaryDirectory(prefix="smile-") as folder:
            yield Path(folder) / name

    def publish(self, temporary: Path, name: str) -> None:
        self._put(temporary, name)

    def publish_new(self, temporary: Path, name: str) -> None:
        try:
            self._put(temporary, name, mode="create")
        except UserError as error:
            if not isinstance(error.__cause__, FileExistsError):
                raise

    def claim(self, *names: str) -> Claim:
        return Claim()

    def _put(self, temporary: Path, name: str, **how: str) -> None:
        where = self._where(name)
        patiently(lambda: self._system.put_file(str(temporary), where, **how), self._shown(name))

    def _where(self, name: str) -> str:
        return f"{self._path}/{name}"

    def _shown(self, name: str) -> str:
        return f"{self.address}/{name}"
