"""One HTTP request for a file, with safe redirects and time limits.

A server's answer is not to be trusted: redirects may leave HTTP or encryption, numbers may have
thousands of digits, and bytes may come one a second.
"""

import base64
import contextlib
import http.client
import re
import socket
import ssl
import string
import threading
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from typing import Any
from urllib.parse import quote, unquote, urljoin, urlsplit

from smile.errors import UserError

TIMEOUT = 20  # seconds without a byte
PATIENCE = 30  # seconds in which at least LEAST bytes must arrive
LEAST = 30_000
MOST_REDIRECTS = 10
REDIRECTS = (301, 302, 303, 307, 308)
# Retrying is useless: no such host, nothing listens there, or its certificate is wrong.
UNREACHABLE = (socket.gaierror, ConnectionRefusedError, ssl.SSLCertVerificationError)
# Whatever http.client raises for a malformed answer.
PROBLEMS = (OSError, http.client.HTTPException, ValueError, OverflowError)


class Broken(Exception):
    """The connection failed, but a retry may succeed."""


class Unreachable(Exception):
    """There is no such server."""


class Refused(Exception):
    """The server answers, but does not give the file. `absent`: because it has none."""

    def __init__(self, reason: str, *, absent: bool = False) -> None:
        super().__init__(reason)
        self.absent = absent


def shown(url: str) -> str:
    """A URL as messages show it: without user name, password and query."""
    bare = re.sub(r"(?<=//)[^/?#]*@", "", url)
    return re.sub(r"\?.*", "?…", bare, flags=re.DOTALL)


class Answer:
    """A server's answer to one request; the body is read as it arrives."""

    def __init__(self, response: http.client.HTTPResponse, watch: "_Watch"):
        self.status, self.headers = response.status, response.headers
        self._response, self._watch = response, watch

    def number(self, text: str | None) -> int | None:
        """The size in a header, None if it gives none. Raises Broken if it is not a number."""
        if text is None or text == "*":
            return None
        if not re.fullmatch(r"[0-9]{1,18}", text):
            raise Broken(f"the server gives {text[:30]!r} as the size")
        return int(text)

    def read(self, size: int) -> bytes:
        """Up to `size` further bytes, b"" at the end. Raises Broken or UserError."""
        with self._watch.naming_problems():
            data = self._response.read1(size)
            left = getattr(self._response, "chunk_left", None)
            if isinstance(left, int) and left < 0:
                raise ValueError("the server sent a chunk of a negative size")
        self._watch.num_bytes += len(data)
        return data


@contextlib.contextmanager
def ask(url: str, headers: dict[str, str], *, token: str | None = None) -> Iterator[Answer]:
    """Requests `url` (http or https), follows redirects and yields the answer.

    A user name and password in the URL, or a token, are sent to its host only.

    Raises:
        Broken: it failed, but a retry may succeed.
        Unreachable: there is no such server.
        Refused: the server does not give the file.
        UserError: the server redirects where it must not, or is too slow.
    """
    with _Watch(url) as watch:
        here = url
        for _ in range(MOST_REDIRECTS + 1):
            with watch.naming_problems():
                login = _login(url, token) if _same_host(here, url) else None
                response = _request(here, headers, watch, login=login)
            with response:
                if response.status not in REDIRECTS:
                    _check_status(response)
                    yield Answer(response, watch)
                    return
                here = _redirected(url, here, response.headers.get("Location", ""))
    raise UserError(f"{shown(url)} cannot be downloaded, it redirects without end")


def _request(
    url: str, headers: dict[str, str], watch: "_Watch", *, login: str | None
) -> http.client.HTTPResponse:
    parts = urlsplit(url)
    bare = parts._replace(netloc=parts.netloc.rpartition("@")[2]).geturl()
    request = urllib.request.Request(quote(bare, safe=string.punctuation), headers=headers)
    if login is not None:
        request.add_unredirected_header("Authorization", login)
    opener = urllib.request.build_opener(_AllAnswers, _Http(watch), _Https(watch))
    answer: http.client.HTTPResponse = opener.open(request, timeout=TIMEOUT)
    return answer


def _login(url: str, token: str | None) -> str | None:
    """The value of the Authorization header, None if there is nothing to log in with."""
    parts = urlsplit(url)
    if parts.username is None:
        return None if token is None else f"Bearer {token}"
    pair = f"{unquote(parts.username)}:{unquote(parts.password or '')}"
    return f"Basic {base64.b64encode(pair.encode()).decode()}"


def _same_host(url: str, other: str) -> bool:
    return urlsplit(url)[:2] == urlsplit(other)[:2]


def _redirected(url: str, here: str, location: str) -> str:
    """The target of a redirect: from https only to https, and never out of HTTP."""
    try:
        there = urljoin(here, quote(location, encoding="latin-1", safe=string.punctuation))
        scheme, host = urlsplit(there).scheme, urlsplit(there).hostname
    except ValueError:
        there, scheme, host = location, "", None
    there = there if location else "nowhere"
    allowed = ("https",) if urlsplit(here).scheme == "https" else ("http", "https")
    if scheme not in allowed or not host or there == "nowhere":
        raise UserError(
            f"{shown(url)} cannot be downloaded, it redirects to {shown(there)[:200]!r}, expected "
            f"an address of {' or '.join(allowed)}: download it in a browser if you trust that"
        )
    return there


def _check_status(response: http.client.HTTPResponse) -> None:
    status, answer = response.status, f"the server answers {response.status} {response.reason}"
    if status in (408, 429) or status >= 500:
        raise Broken(answer)
    if status not in (200, 206, 416):
        raise Refused(answer, absent=status in (404, 410))
    coding = response.headers.get("Content-Encoding", "identity").strip().lower()
    if coding not in ("", "identity"):
        raise Refused(f"the server compresses it ({coding}) although asked not to")


# Patience -----------------------------------------------------------------------------------------


class _Watch:
    """Hangs up on a server that sends less than LEAST bytes in PATIENCE seconds."""

    def __init__(self, url: str):
        self.url, self.num_bytes, self.gave_up = url, 0, False
        self.sockets: list[socket.socket] = []
        self._over = threading.Event()

    def __enter__(self) -> "_Watch":
        threading.Thread(target=self._look, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()

    def _look(self) -> None:
        seen = 0
        while not self._over.wait(PATIENCE):
            if self.num_bytes - seen < LEAST:
                self.gave_up = True
                for one in self.sockets:
                    with contextlib.suppress(OSError):
                        one.shutdown(socket.SHUT_RDWR)
                return
            seen = self.num_bytes

    @contextlib.contextmanager
    def naming_problems(self) -> Iterator[None]:
        """Turns what can go wrong with a connection into Broken, Unreachable or UserError."""
        problem: BaseException | None = None
        try:
            yield
        except PROBLEMS as error:
            problem = error
        if self.gave_up:
            raise UserError(
                f"{shown(self.url)} cannot be downloaded, the server sends less than "
                f"{LEAST / PATIENCE / 1000:.0f} kB a second: try again later; the part is kept"
            ) from problem
        if problem is not None:
            unreachable = isinstance(getattr(problem, "reason", None), UNREACHABLE)
            raise (Unreachable if unreachable else Broken)(one_line(problem)) from problem

    def connecting(
        self, kind: type[http.client.HTTPConnection]
    ) -> Callable[..., http.client.HTTPConnection]:
        """A subclass of `kind` that records its socket, so that `_look` can shut it down."""

        class Watched(kind):  # type: ignore[valid-type,misc]  # the class is an argument
            def connect(this) -> None:
                super().connect()
                self.sockets.append(this.sock)

        return Watched


class _Http(urllib.request.HTTPHandler):
    def __init__(self, watch: _Watch):
        super().__init__()
        self.watch = watch

    def http_open(self, request: urllib.request.Request) -> http.client.HTTPResponse:
        return self.do_open(self.watch.connecting(http.client.HTTPConnection), request)


class _Https(urllib.request.HTTPSHandler):
    def __init__(self, watch: _Watch):
        super().__init__()
        self.watch = watch

    def https_open(self, request: urllib.request.Request) -> http.client.HTTPResponse:
        return self.do_open(self.watch.connecting(http.client.HTTPSConnection), request)


class _AllAnswers(urllib.request.HTTPErrorProcessor):
    """Returns redirects and errors like any other answer, without following or raising them."""

    def http_response(self, request: urllib.request.Request, response: Any) -> Any:
        return response

    https_response = http_response


def one_line(error: BaseException) -> str:
    """The innermost reason of an error, which is what the user can act on."""
    while isinstance(error, urllib.error.URLError) and isinstance(error.reason, BaseException):
        error = error.reason
    return " ".join(str(error).split())[:300] or type(error).__name__
