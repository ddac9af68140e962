"""The sending side of one answer: the place where faults happen to bytes."""

from __future__ import annotations

import select
import socket
import struct
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field

from tests.support.exchanges import Exchange

BEFORE = -1
"""Where something happens before the head of the answer goes out."""

_STEP = 1 << 20
_TICK = 0.02


class Ended(Exception):
    """The connection is over, by a fault, by the client or because the server stops."""


class Wire:
    """One connection while one answer is sent over it."""

    def __init__(
        self,
        connection: socket.socket,
        exchange: Exchange,
        *,
        stopping: threading.Event,
        progress: Callable[[], None],
    ) -> None:
        self.rate: float | None = None
        """Bytes a second from now on."""
        self._socket = connection
        self._exchange = exchange
        self._stopping = stopping
        self._progress = progress
        self._poll = select.poll()
        self._poll.register(connection, select.POLLRDHUP)

    def send(self, data: bytes | memoryview) -> None:
        """Sends all of it, which is no part of a blob."""
        try:
            self._socket.sendall(data)
        except OSError:
            raise Ended from None

    def send_body(self, data: memoryview) -> None:
        """Sends all of it at the rate that is set, and counts it."""
        while data:
            step = data[: _STEP if self.rate is None else max(1, min(_STEP, int(self.rate * _TICK)))]
            if self.rate is not None:
                self.pause(len(step) / self.rate)
            data = data[self._send(step) :]

    def _send(self, step: memoryview) -> int:
        # Counted before it goes, and corrected after: who has read the last byte finds it in the log.
        self._exchange.sent += len(step)
        sent = 0
        try:
            sent = self._socket.send(step)
        except OSError:
            raise Ended from None
        finally:
            self._exchange.sent -= len(step) - sent
            self._progress()
        return sent

    def pause(self, seconds: float) -> None:
        """Lets time pass. Raises Ended when the client or the server goes meanwhile."""
        end = time.monotonic() + seconds
        while (left := end - time.monotonic()) > 0:
            if self._stopping.wait(min(left, _TICK)) or self._client_is_gone():
                raise Ended

    def wait(self, gate: threading.Event) -> None:
        """Waits until the gate opens. Raises Ended when the client or the server goes before."""
        while not gate.wait(_TICK):
            if self._stopping.is_set() or self._client_is_gone():
                raise Ended

    def close(self) -> None:
        """Ends the connection as a server does that thinks it has sent everything. Raises Ended, always."""
        raise Ended

    def reset(self) -> None:
        """Has the connection end in a reset (RST) instead of an orderly close. Raises Ended, always."""
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        raise Ended

    def _client_is_gone(self) -> bool:
        return bool(self._poll.poll(0))


@dataclass
class Answer:
    """What will be sent. It starts as a perfect server's; faults change it."""

    status: int
    body: memoryview
    headers: dict[str, str] = field(default_factory=dict)
    offset: int = 0
    """Where in `whole` the body starts."""
    whole: memoryview = field(default_factory=lambda: memoryview(b""))
    """All bytes of the blob that the body is a part of."""
    chunked: bool = False
    keep_alive: bool = True
    turns: list[tuple[int, Callable[[Wire], None]]] = field(default_factory=list)
    """What happens when so many bytes of the body, or `BEFORE`, are out; nothing where the body is shorter."""

    @classmethod
    def of(cls, status: int, body: bytes, content_type: str = "application/json") -> Answer:
        """A short answer that is no blob."""
        return cls(status, memoryview(body), {"Content-Type": content_type, "Content-Length": str(len(body))})

    def put(self, body: bytes) -> None:
        """Another body, with the length that fits it; other headers stay."""
        self.body = memoryview(body)
        self.headers["Content-Length"] = str(len(body))

    def deliver(self, wire: Wire, reason: str, *, bodiless: bool) -> None:
        """Sends it. Raises Ended where the connection cannot be used again."""
        size = 0 if bodiless else len(self.body)
        turns = sorted((turn for turn in self.turns if turn[0] <= size), key=lambda turn: turn[0])
        for _, turn in [turn for turn in turns if turn[0] == BEFORE]:
            turn(wire)
        wire.send(self._head(reason))
        done = 0
        for offset, turn in turns:
            if offset != BEFORE:
                self._send(wire, done, offset)
                done = offset
                turn(wire)
        self._send(wire, done, size)
        if self.chunked and not bodiless:
            wire.send(b"0\r\n\r\n")
        if not self.keep_alive:
            wire.close()

    def _head(self, reason: str) -> bytes:
        headers = dict(self.headers)
        if self.chunked:
            headers.pop("Content-Length", None)
            headers["Transfer-Encoding"] = "chunked"
        if not self.keep_alive:
            headers["Connection"] = "close"
        lines = [f"HTTP/1.1 {self.status} {reason}", *(f"{name}: {value}" for name, value in headers.items())]
        return "\r\n".join([*lines, "", ""]).encode("latin-1")

    def _send(self, wire: Wire, start: int, stop: int) -> None:
        if self.chunked and start < stop:
            wire.send(f"{stop - start:x}\r\n".encode())
            wire.send_body(self.body[start:stop])
            wire.send(b"\r\n")
        else:
            wire.send_body(self.body[start:stop])
