"""A link of a known shape: a TCP relay with rates and a round trip, whose connections can be slowed, stalled and cut.

with Relay(registry.port, rate=50e6, delay=0.05) as relay:
    … relay.host …                       # instead of registry.host
    relay.slow_one(10e3, after=1 << 20)  # the first connection that has carried 1 MiB crawls from there on
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct
import threading
import time
from collections.abc import Awaitable, Callable
from typing import Self

_CHUNK = 256 << 10
_SLICE = 0.005
"""Seconds of a rate that go as one piece: small enough to be smooth, large enough to be cheap."""
_BURST = 0.02
"""Seconds of a rate that may be made up for, so that a late wake-up costs nothing in the long run."""
_SOCKET_BUFFER = 512 << 10
"""What the kernel may hold on each side, so that a sender notices the rate soon."""
_WINDOW = 32 << 20
"""Bytes of one connection that may be on their way where there is a delay."""


class Link:
    """One connection through the relay."""

    def __init__(self, client: socket.socket, rate: float | None) -> None:
        self.carried = 0
        """Bytes that went to the client."""
        self.paced = 0
        """Bytes that were let go; they are on their way."""
        self.rate = rate
        """Bytes a second to the client, from the next piece on; None is without bound."""
        self.sockets = [client]
        self.reset = False
        """Whether it ends in a reset."""
        self.task: asyncio.Task[None] | None = None
        self.pace = _Pace()

    def cut(self) -> None:
        """Ends it on both sides."""
        for each in self.sockets:
            if self.reset:
                with contextlib.suppress(OSError):
                    each.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            each.close()


class _Pace:
    """When the next piece may go."""

    def __init__(self) -> None:
        self._next = 0.0

    def reserve(self, size: int, rate: float | None) -> float:
        """The time at which a piece of this size has gone; time that was left unused is lost, but for a burst."""
        now = time.monotonic()
        if rate is not None:
            self._next = max(self._next, now - _BURST) + size / rate
        return max(now, self._next) if rate is not None else now


class Relay:
    """A relay to a port of 127.0.0.1. Rates shape what goes to the client. Methods may be called from any thread."""

    def __init__(
        self,
        port: int,
        *,
        rate: float | None = None,
        connection_rate: float | None = None,
        delay: float = 0.0,
    ) -> None:
        """`rate` is in bytes a second for all connections together, `connection_rate` for each; `delay` is the round
        trip in seconds, half of it in each direction, and one more for a connection to be made.
        """
        self.rate = rate
        self.connection_rate = connection_rate
        self.delay = delay
        self.links: list[Link] = []
        """Every connection there was, oldest first."""
        self._target = port
        self._pace = _Pace()
        self._slow: list[tuple[int, float]] = []
        self._flowing = asyncio.Event()
        self._flowing.set()
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=256)
        self._listener.setblocking(False)
        self.port: int = self._listener.getsockname()[1]
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._run, name=f"relay-{self.port}")
        self._thread.start()

    @property
    def host(self) -> str:
        """`127.0.0.1:<port>`."""
        return f"127.0.0.1:{self.port}"

    @property
    def carried(self) -> int:
        """Bytes that went to clients."""
        return sum(link.carried for link in self.links)

    def slow_one(self, rate: float, *, after: int = 0) -> None:
        """The next connection that has carried `after` bytes goes on at `rate`, and keeps it."""
        self._call(lambda: self._slow.append((after, rate)))

    def stall_all(self) -> None:
        """Nothing goes any further, in no direction, until `resume_all`; connections stay."""
        self._call(self._flowing.clear)

    def resume_all(self) -> None:
        """What was stalled goes on."""
        self._call(self._flowing.set)

    def reset_all(self) -> None:
        """Every connection ends in a reset; new ones are taken."""
        self._call(lambda: self._cut_all(reset=True))

    def close(self) -> None:
        """Ends every connection and the relay."""
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _call(self, action: Callable[[], object]) -> None:
        """Runs it on the relay's thread, and waits until it has."""

        async def act() -> None:
            action()

        asyncio.run_coroutine_threadsafe(act(), self._loop).result(10)

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)
        accepting = self._loop.create_task(self._accept())
        self._loop.run_forever()
        accepting.cancel()
        tasks = [accepting, *self._cut_all(reset=False)]
        self._loop.run_until_complete(asyncio.gather(*tasks, return_exceptions=True))
        self._listener.close()
        self._loop.close()

    def _cut_all(self, *, reset: bool) -> list[asyncio.Task[None]]:
        tasks = [link.task for link in self.links if link.task and not link.task.done()]
        for link in self.links:
            if link.task and not link.task.done():
                link.reset = reset
                link.task.cancel()
        return tasks

    async def _accept(self) -> None:
        while True:
            client, _ = await self._loop.sock_accept(self._listener)
            client.setblocking(False)
            link = Link(client, self.connection_rate)
            self.links.append(link)
            link.task = self._loop.create_task(self._carry(link))

    async def _carry(self, link: Link) -> None:
        """One connection from its beginning to its end."""
        try:
            server = socket.socket()
            link.sockets.append(server)
            server.setblocking(False)
            for each in link.sockets:
                each.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            server.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _SOCKET_BUFFER)
            link.sockets[0].setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _SOCKET_BUFFER)
            await asyncio.sleep(self.delay)
            await self._loop.sock_connect(server, ("127.0.0.1", self._target))
            async with asyncio.TaskGroup() as group:
                group.create_task(self._direction(link.sockets[0], server, self._no_pace, link))
                group.create_task(self._direction(server, link.sockets[0], self._down_pace, link))
        except* OSError:
            link.reset = True
        finally:
            link.cut()

    async def _direction(
        self,
        source: socket.socket,
        sink: socket.socket,
        pace: Callable[[Link, int], Awaitable[None]],
        link: Link,
    ) -> None:
        """Bytes of one direction, each of them half a round trip after it was paced."""
        line = _DelayLine(_WINDOW if self.delay else _SOCKET_BUFFER)
        async with asyncio.TaskGroup() as group:
            group.create_task(self._deliver(line, sink, link))
            while data := await self._loop.sock_recv(source, self._piece(link)):
                await pace(link, len(data))
                await line.put(data, time.monotonic() + self.delay / 2)
            await line.put(b"", time.monotonic() + self.delay / 2)

    async def _deliver(self, line: _DelayLine, sink: socket.socket, link: Link) -> None:
        while data := await line.get():
            await self._flowing.wait()
            if sink is link.sockets[0]:
                link.carried += len(data)
            await self._loop.sock_sendall(sink, data)
        with contextlib.suppress(OSError):
            sink.shutdown(socket.SHUT_WR)

    async def _no_pace(self, link: Link, size: int) -> None:
        return

    async def _down_pace(self, link: Link, size: int) -> None:
        due = max(self._pace.reserve(size, self.rate), link.pace.reserve(size, link.rate))
        link.paced += size
        self._slow_down(link)
        if (left := due - time.monotonic()) > 0:
            await asyncio.sleep(left)

    def _piece(self, link: Link) -> int:
        rates = [rate for rate in (self.rate, link.rate) if rate is not None]
        ahead = [after - link.paced for after, _ in self._slow if after > link.paced]
        return min(max(1024, min([_CHUNK, *(int(rate * _SLICE) for rate in rates)])), *ahead, _CHUNK)

    def _slow_down(self, link: Link) -> None:
        for wish in self._slow:
            after, rate = wish
            if link.paced >= after and link.rate == self.connection_rate:
                link.rate = rate
                self._slow.remove(wish)
                return


class _DelayLine:
    """Pieces with the times at which they come out; it holds `window` bytes, one piece at least."""

    def __init__(self, window: int) -> None:
        self._window = window
        self._queue: asyncio.Queue[tuple[float, bytes]] = asyncio.Queue()
        self._held = 0
        self._taken = asyncio.Event()

    async def put(self, data: bytes, due: float) -> None:
        while self._held and self._held + len(data) > self._window:
            self._taken.clear()
            await self._taken.wait()
        self._held += len(data)
        self._queue.put_nowait((due, data))

    async def get(self) -> bytes:
        due, data = await self._queue.get()
        if (left := due - time.monotonic()) > 0:
            await asyncio.sleep(left)
        self._held -= len(data)
        self._taken.set()
        return data
