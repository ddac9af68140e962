"""The HTTP client beneath, which nothing else knows but `failures`, by the names of its errors.

urllib3 makes the connections, and speaks TLS; where to connect is `addresses`, what comes back is read by `response`.
Requests have no bodies and few headers, so they are one write: by way of urllib3's own, they cost most of what a small
blob costs. A `Call` is one conversation that another thread can cancel at any moment but while a name is resolved.
Nothing here follows a redirect, retries, or knows what a registry is.
"""

from __future__ import annotations

import contextlib
import re
import select
import socket
import ssl
import threading
import time
from collections.abc import Mapping
from functools import partial
from types import TracebackType
from typing import Any, Self
from urllib.parse import urlsplit

import urllib3
from urllib3.connection import HTTPConnection, HTTPSConnection
from urllib3.connectionpool import HTTPConnectionPool, HTTPSConnectionPool
from urllib3.util.url import _encode_target

from towline import _version
from towline.errors import Cancelled, SourceGone
from towline.registry.addresses import Address, Addresses, NotPermittedError
from towline.registry.failures import FAILURES, host_of, translated
from towline.registry.guard import Guard
from towline.registry.response import Response
from towline.registry.wire import NOTHING, Allowance, Wire

USER_AGENT = f"towline/{_version.__version__}"

_MAX_SERVERS = 64
"""Servers whose connections are kept: mirrors and blob hosts are few."""

_USUAL = re.compile(r"(https?://[\w.:-]+)(/(?:[\w!$&'()*+,;=:@/?.~-]|%[0-9A-F]{2})*)\Z", re.ASCII)
"""An address of which each part can stand in a request as it is."""


class _Conversing:
    """What both kinds of connections do for the `call` that uses them."""

    sock: socket.socket | None
    call: Call
    address: Address
    _twin: socket.socket | None = None

    def _new_conn(self: Any) -> socket.socket:
        sock: socket.socket
        sock, self.address = self.call._connected(self._dns_host, self.port)
        # TLS takes the descriptor over: while it shakes hands, `cancel` reaches the connection by another one.
        self._twin = sock.dup()
        self.call._reach(self._twin)
        return sock

    def connect(self) -> None:
        since = time.monotonic()
        try:
            super().connect()  # type: ignore[misc]
        finally:
            if self._twin is not None:
                self._twin.close()
            self.call._connects(time.monotonic() - since)


class _PlainConnection(_Conversing, HTTPConnection):
    pass


class _TlsConnection(_Conversing, HTTPSConnection):
    pass


class _PlainPool(HTTPConnectionPool):
    ConnectionCls = _PlainConnection


class _TlsPool(HTTPSConnectionPool):
    ConnectionCls = _TlsConnection


class _Server:
    """The connections to one server: those that are idle, at most `most`, the last used first. Safe from threads."""

    def __init__(self, pool: Any, host: str, shown: str, most: int) -> None:
        self.host = host
        """For the header of this name."""
        self.shown = shown
        """For sentences."""
        self._pool = pool
        self._most = most
        self._idle: list[Any] = []
        self._closed = False

    def connection(self) -> Any:
        """One that is idle and that the server has not closed, or one that is yet to be connected."""
        with contextlib.suppress(IndexError):
            while connection := self._idle.pop():
                if connection.sock is not None and _is_quiet(connection.sock):
                    return connection
                connection.close()
        return self.fresh()

    def fresh(self) -> Any:
        """One that is yet to be connected."""
        return self._pool._new_conn()

    def take_back(self, connection: Any, *, reusable: bool) -> None:
        """Keeps a connection for another conversation, or closes it."""
        if not reusable or len(self._idle) >= self._most:
            connection.close()
            return
        self._idle.append(connection)
        if self._closed:  # before that, or since
            self.close()

    def close(self) -> None:
        """Closes what is idle, and what is given back from now on."""
        self._closed = True
        with contextlib.suppress(IndexError):
            while connection := self._idle.pop():
                connection.close()


class HttpClient:
    """Pooled connections, kept alive, certificates checked against the system's trust.

    Safe to use from many threads. `connections` idle connections a host are kept; more may be open at once.
    """

    def __init__(self, *, connections: int, connect_timeout: float) -> None:
        self.connect_timeout = connect_timeout
        self.addresses = Addresses()
        self._connections = connections
        self._manager = urllib3.PoolManager(num_pools=_MAX_SERVERS, ssl_context=ssl.create_default_context())
        self._manager.pool_classes_by_scheme = {"http": _PlainPool, "https": _TlsPool}
        self._servers: dict[str, _Server] = {}
        self._lock = threading.Lock()

    def call(self) -> Call:
        """A new conversation; close it."""
        return Call(self)

    def _server(self, url: str) -> tuple[_Server, str]:
        """The server of an address, and the target of a request for it."""
        usual = _USUAL.match(url)
        if usual is not None:  # to split each address by all rules costs as much as to send the request
            origin, target = usual.groups()
            return self._servers.get(origin) or self._met(origin), target
        parts = urlsplit(url)
        origin = f"{parts.scheme}://{parts.netloc}"
        # Put together by hand: `urlunsplit` takes a path that begins with two slashes for a host, and adds two more.
        target = f"{parts.path or '/'}?{parts.query}" if parts.query else parts.path or "/"
        return self._servers.get(origin) or self._met(origin), _encode_target(target)

    def _met(self, origin: str) -> _Server:
        with self._lock:
            if origin not in self._servers:
                if len(self._servers) >= _MAX_SERVERS:
                    self._forget()
                pool = self._manager.connection_from_url(origin)
                host = f"[{pool.host}]" if ":" in pool.host else pool.host
                if pool.port not in (None, {"http": 80, "https": 443}.get(pool.scheme or "")):
                    host = f"{host}:{pool.port}"
                self._servers[origin] = _Server(pool, host, host_of(origin), self._connections)
            return self._servers[origin]

    def close(self) -> None:
        """Closes the idle connections, and those that are in use when they are given back."""
        with self._lock:
            self._forget()
        self._manager.clear()

    def _forget(self) -> None:
        servers, self._servers = self._servers, {}
        for server in servers.values():
            server.close()


class Call:
    """One conversation: requests one after another, at most one response open at a time.

    Used by one thread; `cancel` may be called from any other, and makes whatever goes on here raise Cancelled.
    """

    def __init__(self, client: HttpClient) -> None:
        self.host = ""
        """Who is asked, for sentences."""
        self.allowance = Allowance(0.0)
        """What is left of it for the request under way."""
        self.address: Address | None = None
        """To which its connection is."""
        self.waited = 0.0
        """Seconds from its requests to the first bytes of their answers."""
        self.aside: contextlib.AbstractContextManager[None] = NOTHING
        """Entered while the conversation waits for the network."""
        self.secrets: set[str] = set()
        """What its requests carried, and nobody is to be told."""
        self._client = client
        self._guard: Guard | None = None
        self._lock = threading.Lock()
        self._socket: socket.socket | None = None
        self._response: Response | None = None
        self._cancelled = False
        self._interrupted: threading.Event | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def send(
        self, method: str, url: str, headers: Mapping[str, str], *, allowance: Allowance, guard: Guard | None = None
    ) -> Response:
        """Sends a request without a body and returns the response when its head is there, whatever its status.

        `allowance` bounds the whole, up to the end of the body, unless the response is told otherwise. Where a guard is
        given, only addresses that it permits are asked. A response that is still open is closed.

        Raises SourceBusy where trying again may help, SourceGone where it cannot (a certificate that is not to be
        trusted, an address that is not permitted), Cancelled.
        """
        self.close()
        self.check()
        self.host, self.allowance, self.address, self._guard = "", allowance, None, guard
        try:
            allowance.check()
            server, target = self._client._server(url)
            self.host = server.shown
            request = _request(method, target, server.host, headers)
            self._response = response = self._asked(server.connection(), server, request, method)
        except FAILURES as error:
            self.check()
            if self.address is not None:
                self._client.addresses.distrust(self.address)
            raise translated(error, self.host or host_of(url)) from None
        self.check()
        return response

    def _asked(self, connection: Any, server: _Server, request: bytes, method: str) -> Response:
        """The answer over this connection. One that was kept may close just as it is used again: if nothing has come,
        the request goes out once more, over a fresh one (RFC 9110, section 9.2.2: it changes nothing).
        """
        kept = connection.sock is not None
        wire: Wire | None = None
        try:
            connection.call = self
            if not kept:
                connection.timeout = self._client.connect_timeout
                with self.aside:
                    connection.connect()
            self._uses(connection.sock, connection.address)
            since = time.monotonic()
            wire = Wire(connection.sock, self.allowance, self.aside)
            # A server may answer before it has read all, and go: what it said counts.
            with contextlib.suppress(BrokenPipeError, ConnectionResetError):
                wire.send(request)
            response = Response(self, wire, method, host=self.host, release=partial(server.take_back, connection))
            self.waited += wire.heard - since
            return response
        except BaseException as error:
            self._let_go()
            connection.close()
            closed = isinstance(error, (ConnectionError, ssl.SSLError))
            if not (kept and closed and wire is not None and wire.mute) or self._cancelled:
                raise
        return self._asked(server.fresh(), server, request, method)

    def check(self) -> None:
        """Raises Cancelled after `cancel`."""
        if self._cancelled:
            raise Cancelled("the download was stopped")

    def wait(self, seconds: float, interrupted: threading.Event) -> None:
        """Waits for the event, at most so long; raises Cancelled at once when another thread cancels, which sets it."""
        with self._lock:
            self._interrupted = interrupted
        self.check()
        interrupted.wait(seconds)
        self.check()

    def cancel(self) -> None:
        """From any thread, any number of times: what blocks here raises Cancelled within milliseconds."""
        with self._lock:
            self._cancelled = True
            if self._interrupted is not None:
                self._interrupted.set()
            if self._socket is not None:
                # Not the TLS socket's own `shutdown`: that one would have the reader take ciphertext for data.
                with contextlib.suppress(OSError):  # it is closed already
                    socket.socket.shutdown(self._socket, socket.SHUT_RDWR)

    def close(self) -> None:
        """Closes the open response; its connection is kept only if the body was read to its end."""
        response, self._response = self._response, None
        if response is not None:
            response.close()  # which waits for bytes at times: until it is over, `cancel` has to reach the connection
        self._let_go()

    # For the connections, on the thread of the conversation

    def _connected(self, host: str, port: int) -> tuple[socket.socket, Address]:
        """A new connection. Raises what `Addresses.connect` does."""
        guard = self._guard
        since = time.monotonic()
        timeout = min(self._client.connect_timeout, self.allowance.left)
        interrupted, interrupt = socket.socketpair()
        with interrupted, interrupt:
            self._reach(interrupt)
            try:
                connection, self.address = self._client.addresses.connect(
                    host,
                    port,
                    timeout=timeout,
                    permitted=guard.permits if guard is not None else lambda _: True,
                    interrupt=interrupted,
                )
            except NotPermittedError:
                raise SourceGone((guard or Guard(internal=True)).refusal(self.host)) from None
            finally:
                self._let_go()
        connection.settimeout(max(timeout - (time.monotonic() - since), 0.001))
        return connection, self.address

    def _connects(self, seconds: float) -> None:
        """To connect took so long."""
        self.allowance.left -= min(seconds, self._client.connect_timeout)

    def _uses(self, connection: socket.socket, address: Address) -> None:
        """The request goes over this connection. Raises SourceGone where that must not be."""
        if self._guard is not None and not self._guard.permits(address.ip):
            raise SourceGone(self._guard.refusal(self.host))
        self.address = address
        self._reach(connection)

    def _reach(self, connection: socket.socket) -> None:
        """What `cancel` has to shut down from now on."""
        with self._lock:
            self._socket = connection
        if self._cancelled:
            self.cancel()

    def _let_go(self) -> None:
        """The connection goes back to the pool: a later `cancel` must not touch it."""
        with self._lock:
            self._socket = None


def _is_quiet(sock: socket.socket) -> bool:
    """Whether nothing has come over an idle connection: neither its end, nor bytes that belong to no answer."""
    look = select.poll()
    look.register(sock, select.POLLIN)
    return not look.poll(0)


def _request(method: str, target: str, host: str, headers: Mapping[str, str]) -> bytes:
    """Raises ValueError where a header would hold more than a header."""
    text = f"{method} {target} HTTP/1.1\r\nHost: {host}\r\nUser-Agent: {USER_AGENT}\r\nAccept-Encoding: identity\r\n"
    for name, value in headers.items():
        text += f"{name}: {value}\r\n"
    if text.count("\n") != 4 + len(headers) or text.count("\r") != 4 + len(headers):
        raise ValueError("a line break in a request")
    return f"{text}\r\n".encode("latin-1")
