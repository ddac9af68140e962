"""What a process takes of the machine, from /proc."""

from __future__ import annotations

import os
import threading
import time
from pathlib import Path
from types import TracebackType
from typing import Self

_TICK = 1 / os.sysconf("SC_CLK_TCK")
_ESTABLISHED = "01"


def cpu_seconds(pid: int) -> float:
    """Of all its threads since it began, user and system together; the clock ticks in 10 ms."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) * _TICK


def connections_to(port: int) -> int:
    """Established IPv4 connections of this machine to a port of its own, seen from the side that connected."""
    rows = (line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:])
    return sum(row[2].endswith(f":{port:04X}") and row[3] == _ESTABLISHED for row in rows)


class ConnectionWatch:
    """Looks now and then how many connections to a port are open, and keeps the most it saw."""

    def __init__(self, port: int) -> None:
        self.most = 0
        self._port = port
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._look, name="connection-watch")

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._over.set()
        self._thread.join()

    def _look(self) -> None:
        while not self._over.wait(0.05):
            self.most = max(self.most, connections_to(self._port))


class Stopwatch:
    """Wall time of its `with`, and with a process that process's CPU time in it."""

    def __init__(self, pid: int | None = None) -> None:
        self.wall = self.cpu = 0.0
        self.ended_at = 0.0
        """Of `time.time`."""
        self._pid = pid

    def __enter__(self) -> Self:
        self._cpu = cpu_seconds(self._pid) if self._pid else 0.0
        self._start = time.perf_counter()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.wall = time.perf_counter() - self._start
        self.ended_at = time.time()
        if self._pid and kind is None:
            self.cpu = cpu_seconds(self._pid) - self._cpu
