"""The HTTP client beneath, which nothing else knows but `failures`, by the names of its errors.

urllib3 keeps the connections, speaks TLS and sends; connecting is `addresses`, what comes back is read by `response`.
A `Call` is one conversation that another thread can cancel at any moment but while a name is resolved. Nothing here
follows a redirect, retries, or knows what a registry is.
"""

from __future__ import annotations

import contextlib
import http.client
import socket
import ssl
import threading
import time
from collections.abc import Mapping
from types import TracebackType
from typing import Any, Self
from urllib.parse import urlsplit

import urllib3
from urllib3.connection import HTTPConnection, HTTPSConnection
from urllib3.connectionpool import HTTPConnectionPool, HTTPSConnectionPool

from towline import _version
from towline.errors import Cancelled, SourceGone
from towline.registry.addresses import Address, Addresses, NotPermittedError
from towline.registry.failures import FAILURES, host_of, translated
from towline.registry.guard import Guard
from towline.registry.response import Response
from towline.registry.wire import TICK, Allowance, Wire

USER_AGENT = f"towline/{_version.__version__}"

_MAX_POOLS = 64
"""Servers whose connections are kept: mirrors and blob hosts are few."""


class _Active(threading.local):
    call: Call


_active = _Active()
"""The conversation for which this thread is inside the client."""


class _Receiving:
    """Stands where http.client makes a response from the socket. To http.client it is one that is over at once: who
    has the connection when is `Response`'s affair.
    """

    will_close = False
    version_string = "HTTP/1.1"
    length_remaining = None

    def __init__(self, sock: socket.socket | None, *, method: str | None = None) -> None:
        self._sock = sock
        self._method = method or "GET"
        self._connection: Any = None
        self._pool: Any = None
        self.response: Response

    def begin(self) -> None:
        call = _active.call
        if self._sock is None:  # lost while the request was sent, which urllib3 passes over
            raise ConnectionResetError("the connection was lost")
        wire = Wire(self._sock, call.allowance)
        self.response = Response(call, wire, self._method, host=call.host, release=self._release_connection)
        self.status = self.response.status
        self.headers = self.response.headers

    def isclosed(self) -> bool:
        return True

    def close(self) -> None:
        pass

    def _release_connection(self, reusable: bool) -> None:
        if not reusable:
            self._connection.close()
        self._pool._put_conn(self._connection)


class _Conversing:
    """What both kinds of connections do for the conversation that uses them."""

    response_class: Any = _Receiving
    sock: socket.socket | None
    address: Address
    _twin: socket.socket | None = None

    def _new_conn(self: Any) -> socket.socket:
        sock: socket.socket
        sock, self.address = _active.call._connected(self._dns_host, self.port)
        # TLS takes the descriptor over: while it shakes hands, `cancel` reaches the connection by another one.
        self._twin = sock.dup()
        _active.call._reach(self._twin)
        return sock

    def connect(self) -> None:
        since = time.monotonic()
        try:
            super().connect()  # type: ignore[misc]
        finally:
            if self._twin is not None:
                self._twin.close()
            _active.call._connects(time.monotonic() - since)
        self._attach()

    def request(self, *args: Any, **kwargs: Any) -> None:
        if self.sock is not None:
            self._attach()
        super().request(*args, **kwargs)  # type: ignore[misc]

    def getresponse(self: Any) -> Any:
        # Past urllib3's own, which would read the head once more, and log what it does not like of it.
        return http.client.HTTPConnection.getresponse(self)

    def _attach(self) -> None:
        if self.sock is not None:
            _active.call._uses(self.sock, self.address)


class _PlainConnection(_Conversing, HTTPConnection):
    pass


class _TlsConnection(_Conversing, HTTPSConnection):
    pass


class _PlainPool(HTTPConnectionPool):
    ConnectionCls = _PlainConnection


class _TlsPool(HTTPSConnectionPool):
    ConnectionCls = _TlsConnection


class HttpClient:
    """Pooled connections, kept alive, certificates checked against the system's trust.

    Safe to use from many threads. `connections` idle connections a host are kept; more may be open at once.
    """

    def __init__(self, *, connections: int, connect_timeout: float) -> None:
        self.connect_timeout = connect_timeout
        self.addresses = Addresses()
        self._timeout = urllib3.Timeout(connect=connect_timeout, read=TICK)
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
        self.host = ""
        """Who is asked, for sentences."""
        self.allowance = Allowance(0.0)
        """What is left of it for the request under way."""
        self.address: Address | None = None
        """To which its connection is."""
        self._client = client
        self._guard: Guard | None = None
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
        self.host, self.allowance, self.address, self._guard = host_of(url), allowance, None, guard
        _active.call = self
        try:
            allowance.check()
            pool, target = self._client._pool(url)
            received: Any = pool.urlopen(
                method,
                target,
                headers={"User-Agent": USER_AGENT, "Accept-Encoding": "identity", **headers},
                preload_content=False,
                decode_content=False,
                redirect=False,
                assert_same_host=False,
                retries=False,
                timeout=self._client._timeout,
            )
        except FAILURES as error:
            self.check()
            if self.address is not None:
                self._client.addresses.distrust(self.address)
            raise translated(error, self.host) from None
        finally:
            del _active.call
        response: Response = received.response
        self._response = response
        self.check()
        return response

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
        if self._cancelled.is_set():
            self.cancel()

    def _let_go(self) -> None:
        """The connection goes back to the pool: a later `cancel` must not touch it."""
        with self._lock:
            self._socket = None
