"""How long a client waits for a server: for as long as this process runs.

A process that was stopped, or slept with its machine, finds every time-out of a socket over when it goes on, before a
server that slept beside it could say anything. So waits are counted in steps, and a step counts as one however long it
took.
"""

from __future__ import annotations

import io
import math
import socket
from http.client import HTTPConnection
from typing import cast

from towline.patience import LONGEST_STEP


def connect(connection: HTTPConnection, seconds: float) -> None:
    """Makes the connection, which then waits so long for each piece of an answer; raises OSError, as reading does: a
    TimeoutError where nothing came.
    """
    connection.connect()
    _notice_a_dead_machine(connection.sock)
    connection.sock = cast(socket.socket, _Patient(connection.sock, seconds))


def _notice_a_dead_machine(sock: socket.socket) -> None:
    """Has the system ask it now and then, so that one that is gone is an error within two minutes."""
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for name, value in (("TCP_KEEPIDLE", 30), ("TCP_KEEPINTVL", 15), ("TCP_KEEPCNT", 6)):
        if hasattr(socket, name):  # not every system has all of them
            sock.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)


class _Patient:
    """What `http.client` needs of a socket."""

    def __init__(self, sock: socket.socket, seconds: float) -> None:
        self._sock = sock
        self._steps = max(1, math.ceil(seconds / LONGEST_STEP))
        sock.settimeout(min(seconds, LONGEST_STEP))

    def makefile(self, _mode: str) -> io.BufferedReader:
        return io.BufferedReader(_Reader(self._sock, self._steps))

    def sendall(self, data: bytes) -> None:
        self._sock.sendall(data)

    def close(self) -> None:
        self._sock.close()


class _Reader(io.RawIOBase):
    def __init__(self, sock: socket.socket, steps: int) -> None:
        self._sock = sock
        self._steps = steps
        self._share = sock.makefile("rb", buffering=0)  # the socket stays open until this is closed as well

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
        for _ in range(self._steps):
            try:
                return self._sock.recv_into(buffer)
            except TimeoutError:
                continue
        raise TimeoutError("nothing came")

    def close(self) -> None:
        self._share.close()
        super().close()
