"""A connection for one request and its answer: bytes in the order in which they come, waited for no longer than is
allowed.
"""

from __future__ import annotations

import contextlib
import os
import socket
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from http.client import HTTPException
from typing import Any, Self, TypeVar

from towline.patience import Patience

TICK = 0.5
"""Seconds that one wait takes at most: a longer silence is told in between."""

MAX_NOISE = 64 << 10
"""Bytes of heads, chunk lengths and trailers that are read in a row without a byte of a body among them."""

_STEP = 96 << 10
"""Bytes that are taken at once where it is not known whether they are of a body: a small blob with its head."""

_TLS_STEP = 256 << 10
_TLS_SECONDS = 0.02
"""Records are read on, up to so many bytes or seconds: more would keep what has come from being used."""

NOTHING: AbstractContextManager[None] = contextlib.nullcontext()
"""To do while a connection is waited for."""

T = TypeVar("T")


class Garbled(HTTPException):
    """What came is not HTTP, or more of it than any server has reason to send."""


SLOWEST = 1024.0
"""Bytes a second: what comes slower than that is a drip, and no answer."""


LONGEST_THOUGHT = 3600.0
"""Seconds to an answer for a pull that waits for as long as it takes: what hangs for longer is asked anew."""


class Allowance:
    """How long the answer to one question is waited for, in seconds; what comes meanwhile does not renew it by itself.

    A wait counts as one tick at most: if it took longer, this process was stopped, and that is nobody's fault.
    """

    __slots__ = ("left",)

    def __init__(self, seconds: float) -> None:
        self.left = seconds

    @classmethod
    def by(cls, patience: Patience) -> Self:
        """For one request of a pull: all its patience, or `LONGEST_THOUGHT` where that is endless."""
        return cls(max(patience.seconds, LONGEST_THOUGHT) if patience.endless else patience.seconds)

    def spend(self, seconds: float) -> None:
        """One wait took so long."""
        self.left -= min(seconds, TICK)

    def earn(self, count: int) -> None:
        """Bytes that are wanted came: the wait goes on as long as they come at `SLOWEST`."""
        self.left += count / SLOWEST

    def check(self) -> None:
        """Raises TimeoutError where nothing is left."""
        if self.left <= 0:
            raise TimeoutError("no answer in time")


class Wire:
    """The connection `sock`, plain or TLS, for one request and its answer. Waits no longer than `allowance`, which may
    be renewed or replaced, and for one tick at once; `aside` is entered meanwhile.
    """

    def __init__(
        self, sock: socket.socket, allowance: Allowance, aside: AbstractContextManager[None] = NOTHING
    ) -> None:
        self.allowance = allowance
        self.heard = 0.0
        """When bytes came last, of `time.monotonic`."""
        self._aside = aside
        self._socket = sock
        self._tls: Any = getattr(sock, "_sslobj", None)
        self._held = bytearray()
        self._searched = 0
        self._noise = 0
        self._tick = TICK
        if sock.gettimeout() != TICK:
            sock.settimeout(TICK)

    def send(self, request: bytes) -> None:
        """Sends a request. Raises OSError."""
        if self._tls is None:  # there is room for it nearly always: so it is not asked first, as `sendall` does
            with contextlib.suppress(BlockingIOError):
                request = request[os.write(self._socket.fileno(), request) :]
        if request:
            self._socket.sendall(request)

    @property
    def idle(self) -> bool:
        """Whether nothing has come that nobody has taken."""
        return not self._held

    @property
    def mute(self) -> bool:
        """Whether nothing has come of the answer, not even of its head."""
        return not self._held and not self._noise

    def line(self) -> bytes | None:
        """The next line, without its end; None where it did not come within a tick: ask again.

        Raises Garbled, OSError: TimeoutError where the allowance is spent, ConnectionError where the connection ended.
        """
        held = self._held
        while (end := held.find(b"\n", self._searched)) < 0:
            self._searched = len(held)
            self._check_noise(len(held))
            came = self._waited(self._more)
            if came is None:
                return None
            if not came:
                raise ConnectionResetError("the connection ended within the answer's head")
            held += came
        self._check_noise(end + 1)
        line = bytes(held[:end])
        self._take(end + 1)
        self._noise += end + 1
        return line.removesuffix(b"\r")

    def lines(self) -> list[bytes] | None:
        """All lines up to an empty one, where they are here, and end as they should; None where they are to be read
        one by one. Raises as `line`.
        """
        held = self._held
        if not held:
            came = self._waited(self._more)
            if came:
                held += came
            elif came is not None:
                raise ConnectionResetError("the connection ended before the answer's head")
        end = held.find(b"\r\n\r\n")
        if end < 0:
            return None
        head = bytes(held[:end])
        lines = head.split(b"\r\n")
        if head.count(b"\n") >= len(lines):
            return None
        self._check_noise(end + 4)
        self._take(end + 4)
        self._noise += end + 4
        return lines

    def readinto(self, buffer: memoryview) -> int | None:
        """Fills the start of `buffer`; 0 at the connection's end, None where nothing came within a tick.

        What it gives are bytes of a body: noise may follow them anew. Raises OSError.
        """
        count: int | None
        if self._held:
            count = min(len(buffer), len(self._held))
            buffer[:count] = self._held[:count]
            self._take(count)
        else:
            count = self._waited(lambda: self._receive(buffer))
        if count:
            self._noise = 0
        return count

    def _take(self, count: int) -> None:
        del self._held[:count]
        self._searched = 0

    def _check_noise(self, more: int) -> None:
        if self._noise + more > MAX_NOISE:
            raise Garbled("the answer's head does not end")

    def _waited(self, receive: Callable[[], T]) -> T | None:
        allowance = self.allowance
        allowance.check()
        if (tick := min(allowance.left, TICK)) != self._tick:
            self._tick = tick
            self._socket.settimeout(tick)
        since = time.monotonic()
        try:
            with self._aside:
                came = receive()
                self.heard = time.monotonic()  # before `aside` is left, which may take long
                return came
        except TimeoutError:
            return None
        finally:
            allowance.spend(time.monotonic() - since)

    def _more(self) -> bytes:
        # Past the TLS socket's own `recv`, which takes a connection that broke for one that ended.
        came: bytes = self._tls.read(_STEP) if self._tls is not None else self._socket.recv(_STEP)
        return came

    def _receive(self, buffer: memoryview) -> int:
        if self._tls is not None:
            return _read_records(self._tls, buffer[:_TLS_STEP])
        return self._socket.recv_into(buffer)


def _read_records(tls: Any, buffer: memoryview) -> int:
    """Fills the buffer from a TLS connection, record by record; begins no further one after `_TLS_SECONDS`.

    A record holds 16 KiB. Going through the socket's own layers for each costs as much as deciphering it.
    """
    count: int = tls.read(len(buffer), buffer)
    until = time.monotonic() + _TLS_SECONDS
    with contextlib.suppress(OSError):  # it will be there the next time: what came before it counts
        while 0 < count < len(buffer) and time.monotonic() < until:
            more: int = tls.read(len(buffer) - count, buffer[count:])
            if not more:
                break
            count += more
    return count
