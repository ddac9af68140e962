"""How long a client waits for a server: for as long as this process runs.

A process that was stopped, or slept with its machine, finds every time-out of a socket over when it goes on, before a
server that slept beside it could say anything. So waits are counted in steps, and a step counts as one however long it
took. What comes renews no patience by itself: an answer that drips, or whose head never ends, is none.
"""

from __future__ import annotations

import contextlib
import io
import socket
import time
from http.client import HTTPConnection
from typing import cast

from towline.patience import LONGEST_STEP, Patience


def connect(connection: HTTPConnection, patience: Patience) -> None:
    """Makes the connection, on which an answer may take this patience, unless the caller renews it for what came;
    raises OSError, as reading does: a TimeoutError where it is out.
    """
    connection.connect()
    _notice_a_dead_machine(connection.sock)
    connection.sock = cast(socket.socket, _Patient(connection.sock, patience))


def _notice_a_dead_machine(sock: socket.socket) -> None:
    """Has the system ask it now and then, so that one that is gone is an error within two minutes."""
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for name, value in (("TCP_KEEPIDLE", 30), ("TCP_KEEPINTVL", 15), ("TCP_KEEPCNT", 6)):
        if hasattr(socket, name):  # not every system has all of them
            sock.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)


class _Patient:
    """What `http.client` needs of a socket."""

    def __init__(self, sock: socket.socket, patience: Patience) -> None:
        self._sock = sock
        self._patience = patience
        sock.settimeout(min(patience.seconds, LONGEST_STEP))

    def makefile(self, _mode: str) -> io.BufferedReader:
        return io.BufferedReader(_Reader(self._sock, self._patience))

    def sendall(self, data: bytes) -> None:
        self._sock.sendall(data)

    def close(self) -> None:
        self._sock.close()


class _Reader(io.RawIOBase):
    def __init__(self, sock: socket.socket, patience: Patience) -> None:
        self._sock = sock
        self._patience = patience
        self._share = sock.makefile("rb", buffering=0)  # the socket stays open until this is closed as well

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
        while True:
            self._patience.look(time.monotonic(), 0, excused=False)
            if self._patience.out:
                raise TimeoutError("no answer came")
            with contextlib.suppress(TimeoutError):
                return self._sock.recv_into(buffer)

    def close(self) -> None:
        self._share.close()
        super().close()
