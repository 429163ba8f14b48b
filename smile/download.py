"""Files fetched once: from the Hugging Face hub, or from a plain address.

Both ways keep what they fetched in a cache, go on where a broken download stopped, and say what,
how large and where to before the first byte. A file that is already there costs no request, so
everything works offline from then on.
"""

import contextlib
import hashlib
import http.client
import os
import shutil
import socket
import ssl
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote, urlsplit

from tqdm import tqdm

from smile.errors import UserError

CHUNK = 1 << 20
TRIES = 5  # connections made for one file before giving up
TIMEOUT = 30  # seconds without a byte
# No use in trying again: no such host, nothing listens there, or it is not who it says it is.
UNREACHABLE = (socket.gaierror, ConnectionRefusedError, ssl.SSLCertVerificationError)


def fetch(
    url: str,
    *,
    sha256: str | None = None,
    size: int | None = None,
    folder: str | Path | None = None,
) -> Path:
    """Downloads `url`, unless it is there already, and returns where it is.

    The place is `folder`, or else the cache: `$SMILE_CACHE` or `~/.cache/smile`, and below it the
    parts of the address. A file put there by hand is used too; its size is compared with `size`.

    Args:
        sha256: checksum in hexadecimal that the downloaded file must have.
        size: its size in bytes.

    Raises:
        UserError: if it cannot be downloaded, or is not what it should be.
    """
    target = _place(url, folder)
    if not target.exists():
        if _offline():
            raise UserError(
                f"{url} is needed, but downloads are off ({_offline()}): {_advice(target)}"
            )
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
            with _only_process(target):
                if not target.exists():  # another process may have finished it meanwhile
                    _download(url, target, sha256=sha256, size=size)
        except OSError as error:  # connections' errors are dealt with below: this is the disk
            reason = error.strerror or error
            raise UserError(
                f"{target} cannot be written, {reason}: make room there, or choose another folder "
                "with the environment variable SMILE_CACHE"
            ) from error
    found = target.stat().st_size
    if size is not None and found != size:
        raise UserError(
            f"{target} is {found} bytes, expected {size}: delete it to download it again"
        )
    return target


def hub_file(
    repo_id: str, filename: str, *, repo_type: str = "model", revision: str | None = None
) -> Path:
    """A file of a Hugging Face hub repository, in the hub's own cache.

    What is in the cache is used without asking whether the hub has a newer version. HF_ENDPOINT,
    HF_HOME, HF_HUB_OFFLINE and log-ins work as everywhere.

    Args:
        repo_type: "model", "space" or "dataset".
        revision: branch, tag or commit; None is the main branch.

    Raises:
        UserError: if it is neither in the cache nor can be downloaded.
    """
    import huggingface_hub as hub  # here, because most commands need no hub: it takes 0.3 s
    from huggingface_hub import constants, errors

    where = {"repo_id": repo_id, "filename": filename, "repo_type": repo_type, "revision": revision}
    try:
        cached = hub.try_to_load_from_cache(**where)
        if isinstance(cached, str):
            return Path(cached)
        url = hub.hf_hub_url(**where)
        if "SMILE_OFFLINE" in _offline():
            raise errors.OfflineModeIsEnabled("SMILE_OFFLINE is set")
        size = hub.get_hf_file_metadata(url).size
        _announce(url, size, Path(constants.HF_HUB_CACHE))
        return Path(hub.hf_hub_download(**where))
    except Exception as error:  # its connection library, and so its errors, vary by version
        raise UserError(_hub_problem(error, where)) from error


# --- the hub's errors in one line ------------------------------------------------------------


def _hub_problem(error: Exception, where: dict) -> str:
    """What went wrong with a file of the hub, and what to do."""
    from huggingface_hub import constants, errors, hf_hub_url

    repo, name, kind = where["repo_id"], where["filename"], where["repo_type"]
    if isinstance(error, errors.HFValidationError):
        return f"{repo!r} is no repository of the Hugging Face hub: expected OWNER/NAME"
    url = hf_hub_url(**where)
    page = url.partition("/resolve/")[0]
    match error:
        case errors.GatedRepoError():
            return f"{page} is gated: accept its conditions there, then run `hf auth login`"
        case errors.RepositoryNotFoundError():
            return (
                f"{page} does not exist or is private: check the name, "
                "or run `hf auth login` if it is yours"
            )
        case errors.RevisionNotFoundError():
            return f"{page} has no revision {where['revision']!r}: see {page}/tree/main"
        case errors.RemoteEntryNotFoundError():
            return f"{page} has no file {name!r}: see {page}/tree/{where['revision'] or 'main'}"
    option = "" if kind == "model" else f" --repo-type {kind}"
    if where["revision"]:
        option += f" --revision {where['revision']}"
    folder = f"{kind}s--{repo.replace('/', '--')}"
    if isinstance(error, errors.OfflineModeIsEnabled):
        reason = f"is needed, but downloads are off ({_offline() or 'HF_HUB_OFFLINE is set'})"
    else:
        reason = f"cannot be downloaded, {_one_line(error)}"
    return (
        f"{url} {reason}: run `hf download {repo} {name}{option}` where there is a connection and "
        f"copy its cache folder {folder} into {constants.HF_HUB_CACHE}, "
        "or download the address and give the file's path instead"
    )


def _one_line(error: BaseException) -> str:
    """The innermost reason, which is what the person at the screen can act on."""
    while isinstance(error, urllib.error.URLError) and isinstance(error.reason, BaseException):
        error = error.reason
    return " ".join(str(error).split()) or type(error).__name__


# --- places and messages -----------------------------------------------------------------------


def _place(url: str, folder: str | Path | None) -> Path:
    """Where the file of an address is kept; two addresses never share a place in the cache."""
    parts = urlsplit(url)
    names = [quote(name, safe=" +,=@%") for name in parts.path.split("/") if name]
    if parts.scheme not in ("http", "https") or not names or {".", ".."} & set(names):
        raise UserError(f"{url!r} is no address of a file: expected https://HOST/.../FILE")
    if parts.query:
        names[-1] += quote(f"?{parts.query}", safe="")
    if folder is not None:
        return Path(folder).expanduser() / names[-1]
    cache = os.environ.get("SMILE_CACHE") or "~/.cache/smile"
    return Path(cache).expanduser().joinpath(quote(parts.netloc, safe=""), *names)


def _offline() -> str:
    """The environment variable that forbids downloads, as words, or nothing."""
    for name in ("SMILE_OFFLINE", "HF_HUB_OFFLINE"):
        if os.environ.get(name, "").upper() in ("1", "ON", "YES", "TRUE"):
            return f"{name} is set"
    return ""


def _advice(target: Path) -> str:
    return f"download the address elsewhere and put it at {target}, or give a file's path instead"


def _announce(url: str, size: int | None, place: Path) -> None:
    amount = "unknown size" if size is None else f"{size / 1e6:,.1f} MB"
    print(f"downloading {url} ({amount}) to {place}", file=sys.stderr)


@contextlib.contextmanager
def _only_process(target: Path) -> Iterator[None]:
    """Waits until no other process downloads the same file."""
    from filelock import FileLock, Timeout  # 0.1 s to import, which a first caption need not wait

    lock = FileLock(target.with_name(f".{target.name}.lock"))
    try:
        lock.acquire(timeout=0)
    except Timeout:
        print(f"waiting for another process to download {target}", file=sys.stderr)
        lock.acquire()
    try:
        yield
    finally:
        lock.release()


# --- one download --------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Part:
    """An unfinished download: the bytes so far, and which version of the file they are of."""

    target: Path

    @property
    def path(self) -> Path:
        return self.target.with_name(f"{self.target.name}.part")

    @property
    def _note(self) -> Path:
        return self.path.with_name(f"{self.path.name}.version")

    @property
    def version(self) -> str:
        """The server's mark of the version begun, "" where there is none to go on with."""
        return self._note.read_text("utf-8") if self._note.exists() and self.path.exists() else ""

    @property
    def size(self) -> int:
        return self.path.stat().st_size if self.version else 0

    def begin(self, version: str) -> None:
        """Throws away what there is."""
        self.path.write_bytes(b"")
        self._note.write_text(version, encoding="utf-8")

    def finish(self) -> None:
        """Gives the file its final name, once all of it is on the disk."""
        with self.path.open("rb") as file:
            os.fsync(file.fileno())
        self.path.replace(self.target)
        self._note.unlink(missing_ok=True)

    def discard(self) -> None:
        self.path.unlink(missing_ok=True)
        self._note.unlink(missing_ok=True)


class _Broken(Exception):
    """The connection failed in a way that may pass."""


def _download(url: str, target: Path, *, sha256: str | None, size: int | None) -> None:
    part = _Part(target)
    said = False
    for attempt in range(TRIES):
        time.sleep(max(0, attempt - 1))  # the first retry comes at once, then ever more slowly
        try:
            with _open(url, part) as response:
                total = _begin(url, part, response, size)
                if not said:
                    _announce(url, total, target)
                    said = True
                _receive(url, part, response, total)
            break
        except _Broken as error:
            reason = error
    else:
        kept = f"; the {part.size / 1e6:,.1f} MB so far are kept for the next try" * bool(part.size)
        raise UserError(
            f"{url} cannot be downloaded, {reason}{kept}: try again, or {_advice(target)}"
        )
    _check(url, part, sha256)
    part.finish()


def _open(url: str, part: _Part) -> http.client.HTTPResponse:
    """Asks for the file, or the rest of it if it is still the version that was begun."""
    headers = {"User-Agent": "smile-captioning", "Accept-Encoding": "identity"}
    if part.size:
        headers |= {"Range": f"bytes={part.size}-", "If-Range": part.version}
    try:
        return urllib.request.urlopen(urllib.request.Request(url, headers=headers), timeout=TIMEOUT)
    except urllib.error.HTTPError as error:
        error.close()
        if error.code == 416:  # nothing lies beyond what we have, so that is not this file's start
            part.discard()
            raise _Broken("the server has less than was downloaded before") from error
        if error.code in (408, 429) or error.code >= 500:
            raise _Broken(f"the server answers {error.code} {error.reason}") from error
        raise UserError(
            f"{url} cannot be downloaded, the server answers {error.code} {error.reason}: "
            "check the address; if the file has moved, give a local file's path instead"
        ) from error
    except (OSError, http.client.HTTPException) as error:
        if isinstance(getattr(error, "reason", None), UNREACHABLE):
            raise UserError(
                f"{url} cannot be reached, {_one_line(error)}: check the connection, "
                f"or {_advice(part.target)}"
            ) from error
        raise _Broken(_one_line(error)) from error


def _begin(url: str, part: _Part, response, size: int | None) -> int | None:
    """Makes `part` what the response continues; returns the whole file's size, None if unknown."""
    if response.headers.get_content_type() == "text/html":
        raise UserError(
            f"{url} is a web page, not a file: open it in a browser, "
            "then give the downloaded file's path instead"
        )
    version = _version(response)
    length = response.headers.get("Content-Length")
    total = int(length) if length is not None and length.isdecimal() else None
    if response.status == 206:
        span, _, whole = response.headers.get("Content-Range", "").partition("/")
        if not span.startswith(f"bytes {part.size}-") or version not in ("", part.version):
            part.discard()
            raise _Broken("the server sent another part than asked for")
        total = int(whole) if whole.isdecimal() else None
    else:
        part.begin(version)
    if size is not None and total not in (None, size):
        part.discard()
        raise UserError(
            f"{url} is {total} bytes, expected {size}: the file there has changed; "
            "give a local file's path instead"
        )
    total = total if size is None else size
    free = shutil.disk_usage(part.path.parent).free
    if total is not None and total - part.path.stat().st_size > free:
        raise OSError(None, f"{total / 1e6:,.0f} MB do not fit in {free / 1e6:,.0f} MB free")
    return total


def _version(response) -> str:
    """What tells one version of the file from another, exactly enough to join parts of it."""
    tag = response.headers.get("ETag", "")
    # A weak tag names files that only mean the same.
    return tag if tag.startswith('"') else response.headers.get("Last-Modified", "")


def _receive(url: str, part: _Part, response, total: int | None) -> None:
    """Appends the response's bytes to `part`."""
    done = part.path.stat().st_size
    bar = tqdm(
        total=total, initial=done, unit="B", unit_scale=True, desc=Path(url).name, disable=None
    )
    with bar, part.path.open("ab") as file:
        while True:
            try:
                chunk = response.read(CHUNK)
            except (OSError, http.client.HTTPException) as error:
                raise _Broken(_one_line(error)) from error
            if not chunk:
                break
            file.write(chunk)
            done += len(chunk)
            bar.update(len(chunk))
    if total is not None and done < total:
        raise _Broken(f"the connection ended after {done} of {total} bytes")
    if total is not None and done > total:
        part.discard()
        raise _Broken(f"the server sent {done} bytes, expected {total}")


def _check(url: str, part: _Part, sha256: str | None) -> None:
    if sha256 is None:
        return
    with part.path.open("rb") as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()
    if found != sha256.lower():
        part.discard()
        raise UserError(
            f"{url} has the sha256 {found}, expected {sha256}: the download was damaged or the "
            "file there has changed; try again, or give a local file's path instead"
        )
