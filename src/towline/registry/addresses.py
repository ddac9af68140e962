"""The addresses of a host, and a connection to the first of them that answers (RFC 8305)."""

from __future__ import annotations

import contextlib
import math
import select
import socket
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import chain, zip_longest
from typing import Any

from towline.errors import Cancelled

HEAD_START = 0.25
"""Seconds that one address has before the next one is tried beside it: RFC 8305, section 5."""

_REMEMBERED = 600.0
"""Seconds for which it counts how an address fared: RFC 8305, section 4, leaves it to the client; a network changes."""

_MAX_REMEMBERED = 1024

_KEEPALIVE = {"TCP_KEEPIDLE": 30, "TCP_KEEPINTVL": 10, "TCP_KEEPCNT": 3}
"""After a minute a connection without a peer breaks, also where an answer may be waited for without end."""

_GOOD, _UNKNOWN, _BAD = range(3)


class NotPermittedError(Exception):
    """A host has addresses, and none that may be connected to."""


@dataclass(frozen=True, slots=True)
class Address:
    """One address of a host, as `getaddrinfo` gives it."""

    family: int
    kind: int
    protocol: int
    place: tuple[Any, ...]

    @property
    def ip(self) -> str:
        """The address alone, without port and scope."""
        return str(self.place[0]).partition("%")[0]


class Addresses:
    """How to connect to hosts, and which of their addresses answered lately. Safe from threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._standing: dict[Address, tuple[int, float]] = {}

    def connect(
        self,
        host: str,
        port: int,
        *,
        timeout: float,
        permitted: Callable[[str], bool],
        interrupt: socket.socket,
    ) -> tuple[socket.socket, Address]:
        """A connection, and to where, within `timeout` seconds once the name is resolved.

        Only addresses that are `permitted` are tried. Raises NotPermittedError where there is no other;
        socket.gaierror and UnicodeError for the name; Cancelled when `interrupt` becomes readable; OSError.
        """
        found = resolved(host, port)
        allowed = [address for address in found if permitted(address.ip)]
        if not allowed:
            raise NotPermittedError
        connection, winner, failed = race(self._in_order(allowed), timeout, interrupt)
        self._note(failed, _BAD)
        self._note([winner], _GOOD)
        return connection, winner

    def distrust(self, address: Address) -> None:
        """A connection to it was made, and failed after that: others are tried first for a while."""
        self._note([address], _BAD)

    def _in_order(self, found: Sequence[Address]) -> list[Address]:
        now = time.monotonic()
        with self._lock:
            known = {address: self._standing.get(address, (_UNKNOWN, now)) for address in found}
        return sorted(found, key=lambda address: known[address][0] if now <= known[address][1] else _UNKNOWN)

    def _note(self, addresses: Iterable[Address], standing: int) -> None:
        until = time.monotonic() + _REMEMBERED
        with self._lock:
            for address in addresses:
                self._standing.pop(address, None)
                self._standing[address] = standing, until
            while len(self._standing) > _MAX_REMEMBERED:
                del self._standing[next(iter(self._standing))]


def resolved(host: str, port: int) -> list[Address]:
    """All addresses of a host, as the system prefers them, IPv6 and IPv4 in turn.

    Raises socket.gaierror, UnicodeError.
    """
    families: dict[int, list[Address]] = {}
    for family, kind, protocol, _, place in socket.getaddrinfo(host.strip("[]"), port, 0, socket.SOCK_STREAM):
        families.setdefault(family, []).append(Address(family, kind, protocol, place))
    turns = chain.from_iterable(zip_longest(*families.values()))
    return list(dict.fromkeys(address for address in turns if address is not None))


def race(
    addresses: Sequence[Address], timeout: float, interrupt: socket.socket
) -> tuple[socket.socket, Address, list[Address]]:
    """The first connection that is made, to where, and the addresses that failed or had not answered by then.

    Each address begins `HEAD_START` after the one before it, or at once where that failed. Raises what tells the most
    of their failures (OSError), TimeoutError, Cancelled when `interrupt` becomes readable.
    """
    with _Race(addresses, interrupt) as running:
        deadline = time.monotonic() + timeout
        while (now := time.monotonic()) < deadline:
            running.begin(now)
            if won := running.winner(deadline):
                return won
    raise TimeoutError("no address of the host answers in time")


class _Race:
    def __init__(self, addresses: Sequence[Address], interrupt: socket.socket) -> None:
        self._waiting = deque(addresses)
        self._running: dict[int, tuple[socket.socket, Address]] = {}
        self._failures: list[OSError] = []
        self._failed: list[Address] = []
        self._next = -math.inf
        self._interrupt = interrupt.fileno()
        self._poll = select.poll()
        self._poll.register(interrupt, select.POLLIN)

    def __enter__(self) -> _Race:
        return self

    def __exit__(self, *_: object) -> None:
        for connection, _address in self._running.values():
            connection.close()

    def begin(self, now: float) -> None:
        """Begins with the next address if it is its turn. Raises the failure that tells the most when all failed."""
        while self._waiting and (now >= self._next or not self._running):
            address = self._waiting.popleft()
            try:
                connection = _begun(address)
            except OSError as error:
                self._failed.append(address)
                self._failures.append(error)
                continue
            self._running[connection.fileno()] = connection, address
            self._poll.register(connection, select.POLLOUT)
            self._next = now + HEAD_START
        if not self._running:
            refusals = (error for error in self._failures if isinstance(error, ConnectionRefusedError))
            raise next(refusals, self._failures[0])

    def winner(self, deadline: float) -> tuple[socket.socket, Address, list[Address]] | None:
        """Waits for the first that is connected; None when it is time to begin with another."""
        until = min(deadline, self._next) if self._waiting else deadline
        for number, _ in self._poll.poll(max(0, math.ceil((until - time.monotonic()) * 1000))):
            if number == self._interrupt:
                raise Cancelled("the download was stopped")
            connection, address = self._running.pop(number)
            self._poll.unregister(number)
            if not (code := connection.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)):
                late = [other for _, other in self._running.values()]
                return connection, address, [*self._failed, *late]
            connection.close()
            self._failed.append(address)
            self._failures.append(OSError(code, "the connection failed"))
            self._next = -math.inf
        return None


def _begun(address: Address) -> socket.socket:
    connection = socket.socket(address.family, address.kind, address.protocol)
    try:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        for option, value in _KEEPALIVE.items():
            if number := getattr(socket, option, None):
                connection.setsockopt(socket.IPPROTO_TCP, number, value)
        connection.setblocking(False)
        with contextlib.suppress(BlockingIOError):
            connection.connect(address.place)
    except BaseException:
        connection.close()
        raise
    return connection
