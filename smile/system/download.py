"""Files downloaded once from a URL.

They are kept in a cache; an interrupted download is resumed; the file, its size and its place are
announced before the first byte. A file that is already there needs no request, so everything works
offline from then on.
"""

import contextlib
import hashlib
import os
import re
import shutil
import sys
from collections.abc import Callable, Iterator
from contextvars import ContextVar
from dataclasses import dataclass
from pathlib import Path
from time import sleep as wait
from urllib.parse import quote, urlsplit

from tqdm import tqdm

from smile.errors import UserError, reason_of
from smile.system.connection import Answer, Broken, Refused, Unreachable, ask, shown
from smile.system.files import digest, flush, is_web_page, reading
from smile.system.lock import ProcessLock
from smile.system.missing import Unavailable, shown_size
from smile.system.verified import cache_folder, has_checksum, remember

CHUNK = 1 << 20
TRIES = 5  # connections made for one file before giving up
HEADERS = {"User-Agent": "smile-captioning", "Accept-Encoding": "identity"}
Watcher = Callable[[str, int, int | None], object]
_watcher: ContextVar[Watcher | None] = ContextVar("watcher", default=None)
VERSION = re.compile(r"[\x20-\x7e]{1,500}")  # an ETag or date that can be stored and sent back


@contextlib.contextmanager
def watching(watcher: Watcher) -> Iterator[None]:
    """Calls `watcher(name, bytes so far, bytes in all)` as this thread's downloads go on.

    For those who see no terminal with its bar.
    """
    token = _watcher.set(watcher)
    try:
        yield
    finally:
        _watcher.reset(token)


class NotReached(Unavailable):
    """There is no connection to a server, or there must be none; `reason` alone gives no advice."""

    def __init__(self, message: str, reason: str):
        super().__init__(message)
        self.reason = reason


def fetch(
    url: str,
    *,
    checksum: str | None = None,
    size: int | None = None,
    folder: str | Path | None = None,
    by_hand: str | Path | None = None,
    name: str | None = None,
    token: str | None = None,
) -> Path:
    """Downloads `url`, unless it is there already, and returns its path.

    The file goes to `folder` or else to the cache: `$SMILE_CACHE` or `~/.cache/smile`, and below it
    the parts of the URL. A file put there by hand is used too, if it has the size and checksum.

    Args:
        checksum: what the file must have, "sha256:HEX" or "md5:HEX"; None: the line before the
            download says "unverified".
        size: its size in bytes.
        by_hand: where errors tell the user to put the file; None: where the download goes, or
            anywhere, since its path can be given.
        name: the file's name in the folder, if not the URL's.
        token: the log-in that the URL's own host asks for.

    Raises:
        NotReached: if there is no connection to the server, or downloads are off.
        Unavailable: if it cannot be downloaded for another reason, or there is no room for it.
        UserError: if its size or checksum is wrong, or the URL is not a file's.
    """
    target = place_of(url, folder)
    target = target.with_name(name or target.name)
    wanted = _Wanted(url, target, checksum, size, by_hand, token)
    if not target.exists():
        if offline():
            reason = f"downloads are off ({offline()})"
            raise NotReached(f"{shown(url)} is needed, but {reason}: {wanted.advice}", reason)
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
            with only_process(target, target.with_name(f".{target.name}.lock")):
                if not target.exists():  # another process may have finished it meanwhile
                    _download(wanted)
        except OSError as error:  # from the disk: `_download` handles errors of the connection
            another = ", or choose another folder with the environment variable SMILE_CACHE"
            raise Unavailable(
                f"{target} cannot be written, {reason_of(error)}: make room there"
                + another * (folder is None)
            ) from error
    found = target.stat().st_size
    if size is not None and found != size:
        raise UserError(
            f"{target} is {found} bytes, expected {size}: delete it to download it again"
        )
    with reading(target):
        is_right = checksum is None or has_checksum(target, checksum)
    if not is_right:
        raise UserError(
            f"{target} is not the published file: expected {checksum}; delete it to download it "
            "again"
        )
    return target


@dataclass(frozen=True)
class _Wanted:
    """What is to be downloaded, where to, and what it must be; see `fetch`."""

    url: str
    target: Path
    checksum: str | None
    size: int | None
    by_hand: str | Path | None
    token: str | None = None

    @property
    def advice(self) -> str:
        """What the user can do without this download."""
        return f"download the address elsewhere and {self.put}"

    @property
    def put(self) -> str:
        if self.by_hand is not None:
            return f"put it at {self.by_hand}"
        return f"put it at {self.target}, or give a file's path instead"

    @property
    def page(self) -> str:
        """The error for a web page in the file's place."""
        return (
            f"{shown(self.url)} is a web page, not a file: open it in a browser, "
            f"download the file there and {self.put}"
        )


# --- places and messages -----------------------------------------------------------------------


def place_of(url: str, folder: str | Path | None = None) -> Path:
    """The path for the file of a URL; two URLs never share a path in the cache.

    The path holds neither user name nor password, and only a hash of the query, which may hold a
    secret key.
    """
    try:
        parts = urlsplit(url)
        host = f"{parts.hostname}:{parts.port}" if parts.port else parts.hostname or ""
    except ValueError:
        parts, host = urlsplit(""), ""
    names = [quote(name, safe=" +,=@%") for name in parts.path.split("/") if name]
    if parts.scheme not in ("http", "https") or not host or not names or {".", ".."} & set(names):
        raise UserError(f"{shown(url)!r} is not a file's URL: expected https://HOST/.../FILE")
    if parts.query:
        names[-1] += "%3F" + hashlib.sha256(parts.query.encode()).hexdigest()[:16]
    if folder is not None:
        return Path(folder) / names[-1]
    return cache_folder().joinpath(quote(host, safe=""), *names)


def offline() -> str:
    """Which environment variable forbids downloads, in words; "" if none does."""
    for name in ("SMILE_OFFLINE", "HF_HUB_OFFLINE"):
        if os.environ.get(name, "").upper() in ("1", "ON", "YES", "TRUE"):
            return f"{name} is set"
    return ""


def announce(url: str, size: int | None, place: Path, *, verified: bool) -> None:
    """Says what is downloaded, how large it is, where to, and whether a checksum is known."""
    amount = "unknown size" if size is None else shown_size(size)
    note = "" if verified else ", unverified: no checksum of it is known"
    print(f"downloading {shown(url)} ({amount}{note}) to {place}", file=sys.stderr)


@contextlib.contextmanager
def only_process(target: Path, lock_file: Path) -> Iterator[None]:
    """Waits until no other process downloads `target`, and says so."""
    lock = ProcessLock(lock_file)
    if not lock.acquire():
        print(f"waiting for another process to download {target}", file=sys.stderr)
        lock.wait()
    try:
        yield
    finally:
        lock.release()


# --- one download --------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Part:
    """An unfinished download: the bytes so far, and the version of the file they belong to."""

    target: Path

    @property
    def path(self) -> Path:
        return self.target.with_name(f"{self.target.name}.part")

    @property
    def _note(self) -> Path:
        return self.path.with_name(f"{self.path.name}.version")

    @property
    def version(self) -> str:
        """The server's ETag or date of the part, "" if there is no part to resume."""
        try:
            mark = self._note.read_text("ascii") if self.path.exists() else ""
        except (FileNotFoundError, UnicodeDecodeError):
            return ""
        return mark if VERSION.fullmatch(mark) else ""

    @property
    def size(self) -> int:
        return self.path.stat().st_size if self.version else 0

    @property
    def kept(self) -> str:
        return f"the {self.size / 1e6:,.1f} MB so far are kept for the next try"

    def begin(self, version: str) -> None:
        """Starts an empty part of `version`."""
        self.path.write_bytes(b"")
        self._note.write_text(version, encoding="utf-8")

    def finish(self) -> None:
        """Flushes the file to disk and gives it its final name."""
        flush(self.path)
        self.path.replace(self.target)
        self._note.unlink(missing_ok=True)

    def discard(self) -> None:
        self.path.unlink(missing_ok=True)
        self._note.unlink(missing_ok=True)


def _download(wanted: _Wanted) -> None:
    part = _Part(wanted.target)
    address = shown(wanted.url)
    announced = False
    for attempt in range(TRIES):
        wait(max(0, attempt - 1))  # the first retry is immediate, later ones wait longer and longer
        try:
            with ask(wanted.url, _headers(part), token=wanted.token) as answer:
                if _is_all_there(wanted, part, answer):
                    break
                total = _begin(wanted, part, answer)
                if not announced:
                    announce(wanted.url, total, wanted.target, verified=wanted.checksum is not None)
                    announced = True
                _receive(wanted.url, part, answer, total)
            break
        except Unreachable as error:
            reason = f"{address} cannot be reached, {error}"
            advice = f"check the connection, or {wanted.advice}"
            raise NotReached(f"{reason}: {advice}", reason) from error
        except Refused as error:
            raise Unavailable(
                f"{address} cannot be downloaded, {error}: check the address, or {wanted.advice}"
            ) from error
        except Broken as error:
            problem = error
        except KeyboardInterrupt:
            if part.size:  # who gives up a long download should know that little is lost
                print(f"{wanted.target}: {part.kept}", file=sys.stderr)
            raise
    else:
        kept = f"; {part.kept}" * bool(part.size)
        raise Unavailable(
            f"{address} cannot be downloaded, {problem}{kept}: try again, or {wanted.advice}"
        )
    _check(wanted, part)
    part.finish()
    if wanted.checksum is not None:
        remember(wanted.target, wanted.checksum)


def _headers(part: _Part) -> dict[str, str]:
    """Headers that ask for the file, or for its rest if the server still has the part's version."""
    rest = {"Range": f"bytes={part.size}-", "If-Range": part.version} if part.size else {}
    return HEADERS | rest


def _is_all_there(wanted: _Wanted, part: _Part, answer: Answer) -> bool:
    """Whether the server has nothing after the part: a process was killed before it was checked."""
    if answer.status != 416 or not part.size:
        return False
    same = wanted.checksum is not None or _version(answer) == part.version
    return same and answer.headers.get("Content-Range") == f"bytes */{part.size}"


def _begin(wanted: _Wanted, part: _Part, answer: Answer) -> int | None:
    """Prepares `part` to be appended to; returns the whole file's size, None if unknown."""
    if answer.status == 416:  # the file ends before our part does, so the part is of another file
        part.discard()
        raise Broken("the server has less than was downloaded before")
    if answer.headers.get_content_type() == "text/html":
        raise Unavailable(wanted.page)
    version = _version(answer)
    total = answer.number(answer.headers.get("Content-Length"))
    if answer.status == 206:
        span, _, whole = answer.headers.get("Content-Range", "").partition("/")
        if not part.size or not span.startswith(f"bytes {part.size}-") or version != part.version:
            part.discard()
            raise Broken("the server sent another part than asked for")
        total = answer.number(whole)
    else:
        part.begin(version)
    if wanted.size is not None and total not in (None, wanted.size):
        part.discard()
        raise UserError(
            f"{shown(wanted.url)} is {total} bytes, expected {wanted.size}: the file there has "
            f"changed; {wanted.advice}"
        )
    total = total if wanted.size is None else wanted.size
    free = shutil.disk_usage(part.path.parent).free
    if total is not None and total - part.path.stat().st_size > free:
        raise OSError(None, f"{total / 1e6:,.0f} MB do not fit in {free / 1e6:,.0f} MB free")
    return total


def _version(answer: Answer) -> str:
    """A mark of the file's version, exact enough to join parts of it: a strong ETag or a date."""
    tag = answer.headers.get("ETag", "")
    # A weak tag (W/"…") does not promise equal bytes.
    mark = tag if tag.startswith('"') else answer.headers.get("Last-Modified", "")
    return mark if VERSION.fullmatch(mark) else ""


def _receive(url: str, part: _Part, answer: Answer, total: int | None) -> None:
    """Appends the answer's bytes to `part`, as they come."""
    done = part.path.stat().st_size
    name = Path(urlsplit(url).path).name
    bar = tqdm(total=total, initial=done, unit="B", unit_scale=True, desc=name, disable=None)
    watcher = _watcher.get()
    with bar, part.path.open("ab", buffering=0) as file:
        while chunk := answer.read(CHUNK):
            file.write(chunk)
            done += len(chunk)
            bar.update(len(chunk))
            if watcher is not None:
                watcher(name, done, total)
            if total is not None and done > total:
                break
    if total is not None and done < total:
        raise Broken(f"the connection ended after {done} of {total} bytes")
    if total is not None and done > total:
        part.discard()
        raise Broken(f"the server sent more than the {total} bytes expected")


def _check(wanted: _Wanted, part: _Part) -> None:
    """Deletes and refuses a download that is not the expected file."""
    with part.path.open("rb") as file:
        head = file.read(1024)
    kind, _, expected = (wanted.checksum or "").lower().partition(":")
    found = digest(part.path, kind) if kind else ""
    if not head:
        problem = f"{shown(wanted.url)} is empty: check the address"
    elif is_web_page(head):
        problem = wanted.page
    elif found != expected:
        problem = (
            f"{shown(wanted.url)} has the {kind} {found}, expected {expected}: the download was "
            f"damaged or the file there has changed; try again, or {wanted.advice}"
        )
    else:
        return
    part.discard()
    raise UserError(problem)
