"""Taking connections in: how many, from whom, and what happens when there is no place for one more."""

from __future__ import annotations

import asyncio
import resource
import socket
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Iterable, Sequence
from contextlib import suppress
from typing import cast

import structlog
from aiohttp import web

from towline.server import shortage
from towline.server.connection import CROWDED, LINGER, Awaited, Connection, connection_of, last_word
from towline.server.errors import Handler, answered

MAX_CONNECTIONS = 2048
"""Open at once, where the limit of files allows: one that waits takes some 30 KB of memory."""

FILES_FOR_CONNECTIONS = 0.5
"""The part of the limit of open files that connections may take; the rest is for downloads and the store."""

PART_OF_ONE_ADDRESS = 0.75
"""Of all connections, what one address may have. Much, as all clients behind a proxy share one; not all, so that those
at other addresses find a place whatever one of them does."""

PATIENCE_WITH_READERS = 10.0
"""Seconds after which a client that does not read may lose its place to another one."""

REFUSED_AT_ONCE = 32
"""Clients without a place that are told so; more than these are hung up on without a word."""

RETRY = 0.25
"""Seconds until the next try to accept, where the machine had nothing to accept with."""

GRACE = 0.6
"""Seconds that open answers get at the end, twice (aiohttp waits, cancels, waits again): 2 s is the whole budget."""


log = structlog.get_logger("towline.server")


class Connections:
    """Those that are open, at most `limit`."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._limit_of_one = max(1, int(limit * PART_OF_ONE_ADDRESS))
        self._open: set[Connection] = set()
        self._from: Counter[str] = Counter()

    def add(self, connection: Connection) -> None:
        """It is open."""
        self._open.add(connection)
        self._from[connection.address] += 1

    def discard(self, connection: Connection) -> None:
        """It is gone. May be told twice."""
        if connection not in self._open:
            return
        self._open.remove(connection)
        self._from[connection.address] -= 1
        if not self._from[connection.address]:
            del self._from[connection.address]

    def make_room(self, address: str) -> bool:
        """Whether one more has a place, if need be that of another one: of the client's own where it is its address
        that has too many.
        """
        if self._from[address] >= self._limit_of_one:
            return self.drop_one(each for each in self._open if each.address == address)
        if len(self._open) >= self._limit:
            return self.drop_one()
        return True

    def drop_one(self, among: Iterable[Connection] | None = None) -> bool:
        """Drops one that keeps the server waiting, if any does: by the order of `Awaited`, and of several the one that
        was waited for longest.
        """
        now = asyncio.get_running_loop().time()
        waiting = [
            (awaited, connection)
            for connection in (self._open if among is None else among)
            if (awaited := connection.awaited) is not None
            and (awaited[0] is not Awaited.READER or now - awaited[1] >= PATIENCE_WITH_READERS)
        ]
        if not waiting:
            return False
        min(waiting, key=lambda each: each[0])[1].drop()
        return True


class HttpServer:
    """An application, served on sockets that listen, which stay the caller's."""

    def __init__(self, app: web.Application) -> None:
        # A handler is cancelled when its client leaves: that is how a pull learns that nobody watches it any more.
        self._runner = web.AppRunner(app, handler_cancellation=True, access_log=None, shutdown_timeout=GRACE)
        self._connections = Connections(min(MAX_CONNECTIONS, int(_files() * FILES_FOR_CONNECTIONS)))
        self._accepting: list[asyncio.Task[None]] = []
        self._refusing: set[asyncio.Task[None]] = set()

    async def start(self, sockets: Sequence[socket.socket]) -> None:
        """From here on requests are answered."""
        await self._runner.setup()
        server = self._runner.server
        if server is None:
            raise RuntimeError("a runner that is set up has its server")
        server.request_handler = _told(answered(cast(Handler, server.request_handler)))  # type: ignore[assignment]

        async def admit(sock: socket.socket, address: str) -> None:
            if self._connections.make_room(address):
                loop = asyncio.get_running_loop()
                await loop.connect_accepted_socket(lambda: Connection(server, self._connections, address), sock)
            elif len(self._refusing) < REFUSED_AT_ONCE:
                refusing = asyncio.create_task(_refuse(sock))
                self._refusing.add(refusing)
                refusing.add_done_callback(self._refusing.discard)
            else:
                sock.close()

        for sock in sockets:
            self._accepting.append(asyncio.create_task(self._accept(sock, admit)))

    async def close(self) -> None:
        """No more requests; those that run get `GRACE`."""
        tasks = [*self._accepting, *self._refusing]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await self._runner.cleanup()

    async def _accept(self, listening: socket.socket, admit: Callable[[socket.socket, str], Awaitable[None]]) -> None:
        """For ever, whatever fails. Not asyncio's own loop: out of files that logs a hundred tracebacks a second."""
        while True:
            try:
                await self._accept_one(listening, admit)
            except Exception as error:  # noqa: BLE001 - whatever it was, the next one knocks
                with suppress(Exception):  # as there may be no memory to tell it
                    _tell(error)
                with suppress(Exception):
                    await asyncio.sleep(RETRY)

    async def _accept_one(
        self, listening: socket.socket, admit: Callable[[socket.socket, str], Awaitable[None]]
    ) -> None:
        await _readable(listening)
        try:
            sock, peer = listening.accept()
        except (BlockingIOError, ConnectionError):
            return  # it left before it was taken
        except (OSError, MemoryError) as error:
            shortage.tell(shortage.what_is_short(error) or "files")
            await asyncio.sleep(0 if self._connections.drop_one() else RETRY)
            return
        try:
            sock.setblocking(False)
            await admit(sock, peer[0])
        except Exception as error:  # noqa: BLE001 - it is one connection's
            sock.close()
            _tell(error)


def _tell(error: Exception) -> None:
    if what := shortage.what_is_short(error):
        shortage.tell(what)
    else:
        log.error("a connection could not be taken", exc_info=error)


async def _readable(sock: socket.socket) -> None:
    """Until somebody knocks. Asked before each `accept`: out of files that fails though nobody is there."""
    loop = asyncio.get_running_loop()
    ready = asyncio.Event()
    loop.add_reader(sock, ready.set)
    try:
        await ready.wait()
    finally:
        loop.remove_reader(sock)


def _told(handle: Handler) -> Handler:
    """The application, whose connections know when it is its turn."""

    async def answer(request: web.Request) -> web.StreamResponse:
        began = time.monotonic()
        connection = connection_of(request)
        with connection.answering():
            response = await handle(request)
            log.debug(
                "request",
                method=request.method,
                path=request.path[:200],
                status=response.status,
                seconds=round(time.monotonic() - began, 3),
            )
            if "Upgrade" in request.headers or not request.content.is_eof():
                response.force_close()  # what follows is not surely the next request's head
                connection.answer_no_more()
            return response

    return answer


def raise_file_limit() -> None:
    """Lets this process have as many files open as the system allows it; 1,024 is what most begin with."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with suppress(ValueError, OSError):  # where the system names a limit that it does not grant
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def _files() -> int:
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return 1 << 30 if soft == resource.RLIM_INFINITY else soft


async def _refuse(sock: socket.socket) -> None:
    """Says that there is no place, and hangs up: when the request is there, as one that is left unread would reset the
    connection, and the answer with it.
    """
    loop = asyncio.get_running_loop()
    with sock, suppress(OSError, TimeoutError):
        async with asyncio.timeout(LINGER):
            await loop.sock_sendall(sock, last_word(CROWDED, await loop.sock_recv(sock, 4096)))
            sock.shutdown(socket.SHUT_WR)
            while await loop.sock_recv(sock, 65536):
                pass
