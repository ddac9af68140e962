"""The HTTP side of the fault registry: connections, requests read and parsed, answers delivered."""

from __future__ import annotations

import contextlib
import http.server
import re
import socket
import socketserver
import ssl
import sys
import threading
import urllib.parse
from typing import Any, Protocol

from tests.support.exchanges import Exchange
from tests.support.wire import Answer, Ended, Wire
from towline.model.digest import Digest


class Application(Protocol):
    """What answers."""

    def begin(self, exchange: Exchange) -> Answer:
        """The answer to a request."""

    def notify(self) -> None:
        """An exchange has changed: bytes went out, or it is done."""


class Listener:
    """A port of an address that can be served, left and served again; the number stays reserved in between.

    While nothing is served, connections are refused: the port is bound but does not listen.
    """

    def __init__(self, application: Application, address: str, port: int) -> None:
        self.errors: list[Exception] = []
        """What was raised in handlers, other than connections that end."""
        self._application = application
        self._address = address
        self._socket = _bound(address, port)
        self.port: int = self._socket.getsockname()[1]
        self._server: _Server | None = None
        self._thread: threading.Thread | None = None

    def start(self, tls: ssl.SSLContext | None) -> None:
        """Serves."""
        self._server = _Server(self._socket, self._application, tls, self.errors)
        serve = self._server.serve_forever
        self._thread = threading.Thread(target=serve, args=(0.02,), name=f"registry-{self.port}")
        self._thread.start()

    def stop(self) -> None:
        """Ends every connection, joins every thread."""
        if self._server and self._thread:
            self._server.shutdown()
            self._thread.join()
            self._server.hang_up()
            self._server.server_close()
            self._server = self._thread = None
            self._socket = _bound(self._address, self.port)

    def close(self) -> None:
        """Stops and gives the port back."""
        self.stop()
        self._socket.close()


def _bound(address: str, port: int) -> socket.socket:
    bound = socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET)
    bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    bound.bind((address, port))
    return bound


def unused_port() -> int:
    """A port of 127.0.0.1 that nothing listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class _Server(socketserver.ThreadingMixIn, socketserver.TCPServer):
    request_queue_size = 256
    daemon_threads = False

    def __init__(
        self,
        bound: socket.socket,
        application: Application,
        tls: ssl.SSLContext | None,
        errors: list[Exception],
    ) -> None:
        super().__init__(bound.getsockname()[:2], _Handler, bind_and_activate=False)
        self.socket.close()
        self.socket = bound
        self.application = application
        self.tls = tls
        self.stopping = threading.Event()
        self._errors = errors
        self._connections: set[socket.socket] = set()
        self._lock = threading.Lock()
        self.server_activate()

    def hang_up(self) -> None:
        """Ends every connection, whatever it is doing."""
        self.stopping.set()
        with self._lock:
            for connection in self._connections:
                with contextlib.suppress(OSError):
                    connection.shutdown(socket.SHUT_RDWR)

    def keep(self, connection: socket.socket) -> None:
        """A connection that `hang_up` ends until `shutdown_request` has closed it."""
        with self._lock:
            self._connections.add(connection)

    def shutdown_request(self, request: Any) -> None:
        # Without the orderly shutdown of the base class: it would send FIN where a fault wants RST.
        with self._lock:
            self._connections.discard(request)
        request.close()

    def handle_error(self, request: Any, client_address: Any) -> None:
        error = sys.exception()
        if isinstance(error, Exception) and not isinstance(error, OSError | Ended):
            self._errors.append(error)


class _Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    server: _Server

    def setup(self) -> None:
        self.server.keep(self.request)
        if self.server.tls:
            self.request = self.server.tls.wrap_socket(self.request, server_side=True)
            self.server.keep(self.request)
        super().setup()

    def finish(self) -> None:
        super().finish()
        if self.server.tls:
            self.server.shutdown_request(self.request)

    def do_GET(self) -> None:
        exchange = _parse(self.command, self.path, self.headers.items(), self.client_address)
        application = self.server.application
        try:
            answer = application.begin(exchange)
            wire = Wire(self.connection, exchange, stopping=self.server.stopping, progress=application.notify)
            reason = self.responses[answer.status][0] if answer.status in self.responses else "Whatever"
            answer.deliver(wire, reason, bodiless=self.command == "HEAD")
        except Ended:
            self.close_connection = True
        finally:
            exchange.done = True
            application.notify()

    do_HEAD = do_GET

    def log_message(self, *_: object) -> None:
        pass


_MANIFEST = re.compile(r"/v2/(.+)/manifests/([^/]+)")
_BLOB = re.compile(r"/v2/(.+)/blobs/([^/]+)|/data/([^/]+)")
_RANGE = re.compile(r"bytes=(\d+)-(\d*)")


def _parse(method: str, target: str, headers: Any, client: tuple[str, int]) -> Exchange:
    path, _, query = target.partition("?")
    exchange = Exchange(
        method=method,
        path=path,
        query=dict(urllib.parse.parse_qsl(query)),
        headers={name.lower(): value for name, value in headers},
        client=client,
        kind="other",
    )
    if path in ("/v2", "/v2/"):
        exchange.kind = "ping"
    elif path == "/token":
        exchange.kind = "token"
    elif match := _MANIFEST.fullmatch(path):
        exchange.kind = "manifest"
        exchange.repository, exchange.reference = match.groups()
    elif match := _BLOB.fullmatch(path):
        exchange.kind = "blob"
        exchange.repository = match[1] or ""
        exchange.digest = _digest(urllib.parse.unquote(match[2] or f"sha256:{match[3]}"))
    if match := _RANGE.fullmatch(exchange.headers.get("range", "")):
        exchange.range = (int(match[1]), int(match[2]) if match[2] else None)
    return exchange


def _digest(text: str) -> Digest | None:
    try:
        return Digest.parse(text)
    except ValueError:
        return None
