"""The HTTP client beneath, which nothing else knows but `failures`, by the names of its errors.

A `Call` is one conversation that another thread can cancel at any moment after its connection is made: while it
waits for the first header as well as in the middle of a body. Nothing here follows a redirect, retries, or knows what
a registry is.
"""

from __future__ import annotations

import contextlib
import socket
import ssl
import threading
from collections.abc import Mapping
from types import TracebackType
from typing import Any, Self
from urllib.parse import urlsplit

import urllib3
from urllib3.connection import HTTPConnection, HTTPSConnection
from urllib3.connectionpool import HTTPConnectionPool, HTTPSConnectionPool

from towline import _version
from towline.errors import Cancelled
from towline.registry.failures import FAILURES, host_of, translated
from towline.registry.response import Response

USER_AGENT = f"towline/{_version.__version__}"

_MAX_POOLS = 64
"""Servers whose connections are kept: mirrors and blob hosts are few."""


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
        except FAILURES as error:
            self.check()
            raise translated(error, host_of(url)) from None
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
