"""One client's connection: what it keeps the server waiting for, and its end when that takes too long.

aiohttp reads the requests and writes the answers. What it leaves open is closed here: a head has ten seconds and a size
however it drips, what is not HTTP is answered in the API's own form, a client that never reads is left, and when places
run out it is known who keeps the server waiting (`Connections` asks). The states are told by the application: a
connection is awaited but for the time in which `answering` is open, and inside of that where `awaiting` says so.
"""

from __future__ import annotations

import asyncio
import enum
import re
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from email.utils import formatdate
from http import HTTPStatus
from typing import Protocol

from aiohttp import web
from aiohttp.http_exceptions import HttpProcessingError, LineTooLong

from towline._version import __version__
from towline.server.errors import JSON, Refused, error_body

HEAD_TIMEOUT = 10.0
"""Seconds for the whole head of a request, from its first byte, and for the first byte of a new connection."""

IDLE_TIMEOUT = 75.0
"""Seconds that a connection may idle between requests: longer than the 60 of proxies' own pools, so that they close."""

MAX_HEAD_BYTES = 32 << 10
"""Of a request line and all headers together, as nginx has it."""

STUCK_READER = 600.0
"""Seconds after which a client that reads nothing at all is taken for gone. Long, since a person may have suspended it;
not for ever, since it holds a connection, and a pull or a file behind it."""

LINGER = 1.0
"""Seconds for which what a client still sends is read and dropped after its last answer: closed at once, the kernel
would reset the connection, and the answer be lost on its way."""


class Awaited(enum.IntEnum):
    """What the server awaits from a client, in the order in which places are taken back when they run out."""

    END = 0
    """It has had its last answer."""
    HEAD = 1
    BODY = 2
    READER = 3


class Register(Protocol):
    """Who counts connections."""

    def add(self, connection: Connection) -> None:
        """It is open."""

    def discard(self, connection: Connection) -> None:
        """It is gone. May be told twice."""


class Connection(web.RequestHandler):
    """A connection from `address`; on the event loop only."""

    def __init__(self, server: web.Server, register: Register, address: str) -> None:
        # Unpacked by aiohttp, a body of a few MB would hold the event loop for seconds, also where nobody reads it.
        super().__init__(
            server,
            loop=asyncio.get_running_loop(),
            keepalive_timeout=IDLE_TIMEOUT,
            access_log=None,  # type: ignore[arg-type]
            auto_decompress=False,
        )
        self.address = address
        self._register = register
        self._awaited: tuple[Awaited, float] | None = None
        self._unread_since: float | None = None
        self._head = bytearray()
        self._patience: asyncio.Timeout | None = None
        self._clock: asyncio.TimerHandle | None = None
        self._half_closed = False
        self._answered_last = False

    @property
    def awaited(self) -> tuple[Awaited, float] | None:
        """What the server waits for, and since when by the loop's clock; None while it is the server's turn."""
        return self._awaited if self._unread_since is None else (Awaited.READER, self._unread_since)

    @contextmanager
    def answering(self) -> Iterator[None]:
        """A request has come whole, but for its body, and is being answered."""
        if not self._half_closed and self._unread_since is None:
            self._stop_clock()
        self._awaited = None
        self._head.clear()
        try:
            yield
        finally:
            self._await_head()

    @asynccontextmanager
    async def awaiting(self, what: Awaited, seconds: float) -> AsyncIterator[None]:
        """Within an answer, the server waits for its client. Raises TimeoutError after so many seconds, or as soon as
        the place is needed: what is cut off under asyncio's `sendfile` leaves that with the wrong file.
        """
        async with asyncio.timeout(seconds) as self._patience:
            self._awaited = (what, self._loop.time())
            try:
                yield
            finally:
                self._awaited = self._patience = None

    def answer_no_more(self) -> None:
        """The request that is being answered is the last: what comes after it is no head, but what is left of its body,
        which aiohttp reads and drops for a while.
        """
        self._answered_last = True

    def drop(self) -> None:
        """Ends it, as its place is needed and it keeps the server waiting."""
        if self.transport is None:
            return
        if self._patience is not None:
            self._awaited = None
            if not self._patience.expired():  # else it is over, and only its handler does not know it yet
                self._patience.reschedule(self._loop.time())
        elif self._awaits(Awaited.HEAD) and self._head and not self.transport.is_closing():
            self.transport.write(last_word(CROWDED, bytes(self._head)))
            self.transport.close()
        else:
            self.transport.abort()

    # What asyncio and aiohttp call.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        self._register.add(self)
        self._await_head()
        self._start_clock(HEAD_TIMEOUT, self._head_is_late)

    def connection_lost(self, exc: BaseException | None) -> None:
        self._stop_clock()
        self._register.discard(self)
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        if self._awaits(Awaited.END):
            return
        if data and self._awaits(Awaited.HEAD) and not self._answered_last:
            if self._clock is None:
                self._start_clock(HEAD_TIMEOUT, self._head_is_late)
            if not self._take_head(data):
                self._say_last(
                    Refused(431, f"the request's head is over {MAX_HEAD_BYTES >> 10} KiB; send fewer headers")
                )
                return
        super().data_received(data)

    def eof_received(self) -> bool | None:  # type: ignore[override]
        """A client that has left, or one that has said all it has to say and waits (`printf … | nc`): where nothing of
        its request was looked at yet, it gets a moment for an answer.
        """
        if not self._head or self._awaits(Awaited.END) or self.transport is None:
            return None
        self._half_closed = True
        self._start_clock(LINGER, self.transport.close)
        return True

    def pause_writing(self) -> None:
        super().pause_writing()
        self._unread_since = self._loop.time()
        if self.transport is not None and not self._awaits(Awaited.END):
            self._start_clock(STUCK_READER, self.transport.abort)

    def resume_writing(self) -> None:
        super().resume_writing()
        self._unread_since = None
        if not (self._awaits(Awaited.END) or self._half_closed):
            self._stop_clock()

    def handle_error(
        self,
        request: web.BaseRequest,  # noqa: ARG002  all are aiohttp's
        status: int = 500,  # noqa: ARG002
        exc: BaseException | None = None,
        message: str | None = None,  # noqa: ARG002
    ) -> web.StreamResponse:
        """Answers what is not HTTP. Whatever else comes here failed while it was sent: the connection goes."""
        if not isinstance(exc, HttpProcessingError):
            raise ConnectionResetError("the answer could not be sent") from exc
        self._say_last(Refused(400, _what_is_wrong(exc, bytes(self._head))))
        return _Said()

    def _await_head(self) -> None:
        self._awaited = (Awaited.HEAD, self._loop.time())
        self._head.clear()

    def _awaits(self, what: Awaited) -> bool:
        return self._awaited is not None and self._awaited[0] is what

    def _take_head(self, data: bytes) -> bool:
        """Notes what has come of a head, and when it is whole; False once it is longer than heads may be."""
        seen = max(0, len(self._head) - 3)
        data = data[: MAX_HEAD_BYTES + 4]  # a body that comes with it is not kept for as long as the request
        self._head += data if self._head else data.lstrip(b"\r\n")
        end = self._head.find(b"\r\n\r\n", seen)
        if end >= 0:
            self._awaited = None
            del self._head[end:]
        return len(self._head) <= MAX_HEAD_BYTES

    def _head_is_late(self) -> None:
        if self._head:
            self._say_last(
                Refused(408, f"the request's head did not come within {HEAD_TIMEOUT:.0f} s; send it at once")
            )
        elif self.transport is not None:
            self.transport.close()

    def _say_last(self, problem: Refused) -> None:
        """Writes an error, and closes once the client has had the time to read it."""
        transport = self.transport
        if transport is None or transport.is_closing() or self._awaits(Awaited.END):
            return
        self._awaited = (Awaited.END, self._loop.time())
        transport.write(last_word(problem, bytes(self._head)))
        with suppress(OSError):  # it is gone already
            transport.write_eof()
        self._start_clock(LINGER, transport.abort)

    def _start_clock(self, seconds: float, action: Callable[[], None]) -> None:
        self._stop_clock()
        self._clock = self._loop.call_later(seconds, action)

    def _stop_clock(self) -> None:
        if self._clock is not None:
            self._clock.cancel()
            self._clock = None


def connection_of(request: web.BaseRequest) -> Connection:
    """The connection that a request came on."""
    if not isinstance(request.protocol, Connection):
        raise TypeError("the application is served by an HttpServer")
    return request.protocol


class _Said(web.Response):
    """Stands for an answer that is out already; the end of the connection ends the wait for it."""

    async def prepare(self, request: web.BaseRequest) -> None:  # noqa: ARG002
        self.force_close()
        await asyncio.sleep(2 * LINGER)

    async def write_eof(self, data: bytes = b"") -> None:
        """There is nothing left to write."""


CROWDED = Refused(503, "too many connections are open; close some, or try again in a moment", code="TOOMANYREQUESTS")


def last_word(problem: Refused, head: bytes) -> bytes:
    """The answer to a request of which no more than the beginning is known, if that: a whole one, for a connection
    that closes. Under `/v2/` it has the OCI form, as far as the path is known.
    """
    registry = re.match(rb"\S+ (?:https?://[^/\s]*)?/v2(?:[/?\s]|$)", head, re.IGNORECASE) is not None
    body = error_body(problem, registry=registry)
    lines = [
        f"HTTP/1.1 {problem.status} {HTTPStatus(problem.status).phrase}",
        f"Content-Type: {JSON}",
        f"Content-Length: {len(body)}",
        f"Date: {formatdate(usegmt=True)}",
        f"Server: towline/{__version__}",
        *(["Docker-Distribution-Api-Version: registry/2.0"] if registry else []),
        "Connection: close",
    ]
    return "\r\n".join([*lines, "", ""]).encode() + (b"" if head.startswith(b"HEAD ") else body)


def _what_is_wrong(error: HttpProcessingError, head: bytes) -> str:
    """Never in the parser's own words: they hold what was sent, which may be a secret."""
    if head.startswith(b"\x16\x03"):
        return "this port speaks plain HTTP, and was sent TLS; write http:// in place of https://"
    if isinstance(error, LineTooLong):
        return "a line of the request's head is too long; send a shorter address and shorter headers"
    return "this is not a valid HTTP/1.1 request; check the program that sent it, or the proxy in between"
