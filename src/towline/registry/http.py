"""The one module that knows the HTTP client beneath.

A `Call` is one conversation that another thread can cancel at any moment after its connection is made: while it
waits for the first header as well as in the middle of a body. Nothing here follows a redirect, retries, or knows what
a registry is.
"""

from __future__ import annotations

import contextlib
import io
import socket
import ssl
import threading
import time
from collections.abc import Mapping
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from http.client import HTTPException
from types import TracebackType
from typing import Any, Self
from urllib.parse import urlsplit

import urllib3
from urllib3.connection import HTTPConnection, HTTPSConnection
from urllib3.connectionpool import HTTPConnectionPool, HTTPSConnectionPool
from urllib3.exceptions import HTTPError, LocationValueError, NameResolutionError, NewConnectionError, SSLError
from urllib3.exceptions import TimeoutError as UrlTimeoutError

from towline import _version
from towline.errors import Cancelled, SourceBusy, SourceGone, SourceLied

USER_AGENT = f"towline/{_version.__version__}"

REDIRECTS = frozenset((301, 302, 303, 307, 308))
MAX_REDIRECTS = 5

_MAX_POOLS = 64
_COPY_STEP = 128 << 10
_TLS_STEP = 256 << 10
_TLS_SECONDS = 0.02
_DRAIN_BYTES = 16 << 10
_LULL = 0.5
_DAY = 86400.0


class _Active(threading.local):
    call: Call | None = None


_active = _Active()


class _PlainConnection(HTTPConnection):
    def getresponse(self) -> Any:
        _attach(self.sock)
        return super().getresponse()


class _TlsConnection(HTTPSConnection):
    def getresponse(self) -> Any:
        _attach(self.sock)
        return super().getresponse()


class _PlainPool(HTTPConnectionPool):
    ConnectionCls = _PlainConnection


class _TlsPool(HTTPSConnectionPool):
    ConnectionCls = _TlsConnection


def _attach(sock: socket.socket | None) -> None:
    if _active.call is not None and sock is not None:
        _active.call._use(sock)


class HttpClient:
    """Pooled connections, kept alive, certificates checked against the system's trust.

    Safe to use from many threads. `connections` idle connections a host are kept; more may be open at once.
    """

    def __init__(self, *, connections: int, connect_timeout: float) -> None:
        self.connect_timeout = connect_timeout
        self._manager = urllib3.PoolManager(
            num_pools=_MAX_POOLS,
            maxsize=connections,
            retries=False,
            ssl_context=ssl.create_default_context(),
        )
        self._pools: dict[str, urllib3.HTTPConnectionPool] = {}
        self._manager.pool_classes_by_scheme = {"http": _PlainPool, "https": _TlsPool}

    def call(self) -> Call:
        """A new conversation; close it."""
        return Call(self)

    def _pool(self, url: str) -> tuple[urllib3.HTTPConnectionPool, str]:
        """The connections to the server of an address, and the rest of the address. To ask urllib3's manager each time
        costs a third of a small request.
        """
        parts = urlsplit(url)
        origin = f"{parts.scheme}://{parts.netloc}"
        pool = self._pools.get(origin)
        if pool is None:
            if len(self._pools) >= _MAX_POOLS:
                self._pools.clear()
            pool = self._pools[origin] = self._manager.connection_from_url(origin)
        # Put together by hand: `urlunsplit` takes a path that begins with two slashes for a host, and adds two more.
        return pool, f"{parts.path or '/'}?{parts.query}" if parts.query else parts.path or "/"

    def close(self) -> None:
        """Closes the idle connections, and those that are in use when they are given back."""
        # Not `clear` alone: it leaves that to the collector, and whatever holds a response keeps its pool alive.
        for key in self._manager.pools.keys():  # noqa: SIM118 - it has no other iteration
            with contextlib.suppress(KeyError):
                self._manager.pools[key].close()
        self._manager.clear()


class Call:
    """One conversation: requests one after another, at most one response open at a time.

    Used by one thread; `cancel` may be called from any other, and makes whatever goes on here raise Cancelled.
    """

    def __init__(self, client: HttpClient) -> None:
        self._client = client
        self._lock = threading.Lock()
        self._socket: socket.socket | None = None
        self._response: Response | None = None
        self._cancelled = threading.Event()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def send(self, method: str, url: str, headers: Mapping[str, str], *, timeout: float) -> Response:
        """Sends a request without a body and returns the response when its headers are there, whatever its status.

        `timeout` bounds, in seconds, each wait for bytes, not the whole. A response that is still open is closed.

        Raises SourceBusy where trying again may help, SourceGone where it cannot (a certificate that is not to be
        trusted), Cancelled.
        """
        self.close()
        self.check()
        _active.call = self
        try:
            pool, target = self._client._pool(url)
            raw = pool.urlopen(
                method,
                target,
                headers={"User-Agent": USER_AGENT, "Accept-Encoding": "identity", **headers},
                preload_content=False,
                decode_content=False,
                redirect=False,
                assert_same_host=False,
                retries=False,
                timeout=urllib3.Timeout(connect=self._client.connect_timeout, read=timeout),
            )
        except (HTTPError, HTTPException, OSError, ValueError) as error:
            self.check()
            raise _translated(error, host_of(url)) from None
        finally:
            _active.call = None
        self._response = Response(self, raw, host_of(url))
        self.check()
        return self._response

    def check(self) -> None:
        """Raises Cancelled after `cancel`."""
        if self._cancelled.is_set():
            raise Cancelled("the download was stopped")

    def wait(self, seconds: float) -> None:
        """Sleeps; raises Cancelled at once when another thread cancels."""
        self._cancelled.wait(seconds)
        self.check()

    def cancel(self) -> None:
        """From any thread, any number of times: what blocks here raises Cancelled within milliseconds."""
        with self._lock:
            self._cancelled.set()
            if self._socket is not None:
                # Not the TLS socket's own `shutdown`: that one would have the reader take ciphertext for data.
                with contextlib.suppress(OSError):  # it is closed already
                    socket.socket.shutdown(self._socket, socket.SHUT_RDWR)

    def close(self) -> None:
        """Closes the open response; its connection is kept only if the body was read to its end."""
        response, self._response = self._response, None
        if response is not None:
            response._close()  # which waits for bytes at times: until it is over, `cancel` has to reach the connection
        self._let_go()

    def _let_go(self) -> None:
        """The connection goes back to the pool: a later `cancel` must not touch it."""
        with self._lock:
            self._socket = None

    def _use(self, sock: socket.socket) -> None:
        with self._lock:
            self._socket = sock
        if self._cancelled.is_set():
            self.cancel()


class Response:
    """The answer to one request of `host`. `headers` compares names without regard to case."""

    def __init__(self, call: Call, raw: Any, host: str) -> None:
        self.host = host
        self._call = call
        self._raw = raw
        self.status: int = raw.status
        self.headers: Mapping[str, str] = raw.headers
        original = raw._original_response
        # Set where the body's bytes can be taken straight from the connection: they are as many as announced.
        self._direct = (
            original if original is not None and not original.chunked and original.length is not None else None
        )
        if self._direct is None:
            raw._pool = None  # urllib3 would give the connection back by itself, while `cancel` still means this call
        self._socket: Any = call._socket
        self._tls = getattr(call._socket, "_sslobj", None)
        self._touched = False
        self._past_headers = False
        self._patience: float | None = None
        self._silence = 0.0

    @property
    def redirect(self) -> str | None:
        """Where it points, by its status and its `Location`; None where it is the answer itself."""
        return self.headers.get("Location") or None if self.status in REDIRECTS else None

    @property
    def busy(self) -> bool:
        """Whether its status is one that waiting may cure."""
        return self.status in (408, 429) or self.status >= 500

    @property
    def retry_after(self) -> float | None:
        """Seconds to wait by its `Retry-After`."""
        return retry_after(self.headers.get("Retry-After"))

    def be_patient(self, seconds: float) -> None:
        """Allows the body to be silent for so many seconds, where that is less than its request allowed, and has
        `readinto` tell of it in between.
        """
        if self._socket is None:
            return
        allowed = self._socket.gettimeout()
        patience = seconds if allowed is None else min(allowed, seconds)
        if self._direct is not None:
            self._patience = patience
        self._socket.settimeout(min(patience, _LULL) if self._direct is not None else patience)

    def readinto(self, buffer: memoryview) -> int | None:
        """Fills the start of `buffer` with what has arrived, waiting for at least one byte; 0 is the end of the body.
        After `be_patient` it is None where nothing came for a moment, and may be called again.

        Raises SourceBusy when the connection breaks or is silent for too long, Cancelled.
        """
        try:
            count = self._receive(buffer)
        except (HTTPError, HTTPException, OSError, ValueError) as error:
            self._call.check()
            raise _translated(error, self.host) from None
        self._call.check()
        return count

    def read(self, limit: int) -> bytes:
        """The whole body. Raises SourceLied if it is longer than `limit` bytes, else as `readinto` does."""
        buffer = bytearray(min(limit + 1, 64 << 10))
        body = bytearray()
        while count := self.readinto(memoryview(buffer)):
            body += buffer[:count]
            if len(body) > limit:
                raise SourceLied(f"{self.host} sends more than {limit} bytes")
        return bytes(body)

    def _receive(self, buffer: memoryview) -> int | None:
        if self._direct is None:
            data = self._raw.read1(min(len(buffer), _COPY_STEP))
            buffer[: len(data)] = data
            return len(data)
        left: int = self._direct.length
        if not left:
            return 0
        try:
            count = self._receive_some(self._direct, buffer[:left])
        except TimeoutError:
            self._silence += _LULL
            if self._patience is None or self._silence >= self._patience:
                raise
            self._past_headers = True  # http.client's buffer is empty, and of no use after a wait that was in vain
            return None
        self._touched = True
        self._silence = 0.0
        self._direct.length = left - count
        if count == 0:
            raise ConnectionResetError("the body ended early")
        if count == left:
            self._give_back(self._direct)
        return count

    def _receive_some(self, direct: Any, room: memoryview) -> int:
        # urllib3's own `readinto` allocates and copies, http.client's waits until the buffer is full.
        if not self._past_headers:
            # What came with the headers lies in http.client's buffer. A read as large as that leaves nothing in it, and
            # a larger one would wait for more, and lose it where nothing comes.
            self._past_headers = len(room) >= io.DEFAULT_BUFFER_SIZE
            count: int = direct.fp.readinto1(room[: io.DEFAULT_BUFFER_SIZE])
        elif self._tls is not None:
            count = _read_records(self._tls, room[:_TLS_STEP])
        else:
            count = self._socket.recv_into(room)
        return count

    def _close(self) -> None:
        """The connection is kept where little is left to read, as after a redirect: a new one costs more."""
        if self._direct is not None and not self._touched and (self._direct.length or 0) <= _DRAIN_BYTES:
            with contextlib.suppress(HTTPError, HTTPException, OSError, ValueError):
                self._drain(self._direct)
        self._raw.close()

    def _drain(self, direct: Any) -> None:
        if not direct.length:
            self._give_back(direct)
        rest = memoryview(bytearray(direct.length or 0))
        while direct.length:
            self._receive(rest)

    def _give_back(self, direct: Any) -> None:
        direct.read()
        self._call._let_go()
        self._raw.release_conn()


def _read_records(tls: Any, buffer: memoryview) -> int:
    """Fills the buffer from a TLS connection, record by record; begins no further one after `_TLS_SECONDS`.

    A record holds 16 KiB. Going through http.client and the socket's own layers for each costs as much as deciphering
    it.
    """
    count: int = tls.read(len(buffer), buffer)
    until = time.monotonic() + _TLS_SECONDS
    while 0 < count < len(buffer) and time.monotonic() < until:
        try:
            more: int = tls.read(len(buffer) - count, buffer[count:])
        except OSError:
            break  # it will be there the next time: what came before it counts
        if not more:
            break
        count += more
    return count


def _translated(error: Exception, host: str) -> SourceBusy | SourceGone:
    """What an error of the client beneath means, in words that name the host and nothing more of the address."""
    links = _links(error)
    untrusted = next((link for link in links if isinstance(link, ssl.SSLCertVerificationError)), None)
    if untrusted is not None:
        why = untrusted.verify_message or "verification failed"
        return SourceGone(f"the TLS certificate of {host} cannot be trusted ({why}); check the system's certificates")
    if any(isinstance(link, NameResolutionError) for link in links):
        unknown = any(isinstance(link, socket.gaierror) and link.errno == socket.EAI_NONAME for link in links)
        return SourceBusy(f"the name {host} cannot be resolved; check it and the network", refused=unknown)
    if any(isinstance(link, ConnectionRefusedError) for link in links):
        return SourceBusy(f"{host} refuses connections; check the address, and that it runs", refused=True)
    if any(isinstance(link, (TimeoutError, UrlTimeoutError)) for link in links):
        return SourceBusy(f"{host} does not answer in time; check the network")
    if any(isinstance(link, NewConnectionError) for link in links):
        return SourceBusy(f"{host} cannot be reached; check the network")
    if any(isinstance(link, (SSLError, ssl.SSLError)) for link in links):
        if any("WRONG_VERSION_NUMBER" in str(link) or "HTTP_REQUEST" in str(link) for link in links):
            return SourceGone(
                f"{host} does not speak TLS; name it in TOWLINE_PLAIN_HTTP if it is meant to be plain HTTP"
            )
        return SourceBusy(f"the TLS connection to {host} failed")
    if isinstance(error, (LocationValueError, UnicodeError)):
        return SourceGone(f"{host} is not a valid address")
    return SourceBusy(f"the connection to {host} was lost")


def _links(error: BaseException) -> list[BaseException]:
    """The error and what it wraps: the client keeps the cause in its arguments, its `reason` or its context."""
    found: list[BaseException] = []
    todo: list[object] = [error]
    while todo and len(found) < 16:
        link = todo.pop()
        if isinstance(link, BaseException) and link not in found:
            found.append(link)
            todo += [getattr(link, "reason", None), link.__cause__, link.__context__, *link.args]
    return found


def retry_after(text: str | None) -> float | None:
    """Seconds to wait by a `Retry-After` header, a number or a date (RFC 9110, section 10.2.3), a day at most."""
    text = (text or "").strip()
    if text.isascii() and text.isdigit():
        return min(float(text), _DAY)
    try:
        until = parsedate_to_datetime(text)
        return min(max((until - datetime.now(UTC)).total_seconds(), 0.0), _DAY)
    except (TypeError, ValueError, OverflowError):
        return None


def host_of(url: str) -> str:
    """The host of an address, with its port, safe to show: no user, no path, no query."""
    try:
        return ascii(urlsplit(url).netloc.rpartition("@")[2][:80])[1:-1]
    except ValueError:
        return "an invalid address"
