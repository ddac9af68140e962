"""The threads that hash: at most as many as are to share the processor with those that receive."""

from __future__ import annotations

import logging
import threading
import time
from collections import deque

from towline.transfer.journal import BLOCK_BYTES
from towline.transfer.work import Work
from towline.transfer.worker import Worker

LAST_WORD = 0.1
"""Seconds that each gets at the end, whatever came before took: one block at most."""

_log = logging.getLogger("towline")


class Hashing:
    """At most `most` threads, which start as they are needed and live until `close`. Safe from threads. One that cannot
    be started is done without, and tried for at each `nudge`.
    """

    def __init__(self, most: int) -> None:
        self._most = most
        self._wake = threading.Condition()
        self._tasks: deque[Work] = deque()
        self._idle = 0
        self._workers: set[Worker] = set()
        self._closed = False

    def soon(self, work: Work) -> None:
        """Has the work done, in the order in which it came, with a buffer of the thread's own."""
        with self._wake:
            self._tasks.append(work)
            self._call()

    def nudge(self) -> None:
        """Looks whether something waits for a thread that could not be had before. To be called now and then."""
        with self._wake:
            if self._tasks:
                self._call()

    def close(self, timeout: float) -> None:
        """Waits until nothing is left to do, some `timeout` seconds at most. Nothing may come any more."""
        with self._wake:
            self._closed = True
            self._wake.notify_all()
        deadline = time.monotonic() + timeout
        for worker in list(self._workers):
            worker.join(max(LAST_WORD, deadline - time.monotonic()))

    def _call(self) -> None:
        """There is something to do. Under lock."""
        if self._idle:
            self._wake.notify()
        elif len(self._workers) < self._most and not self._closed:
            Worker.begin(self._work, "towline-hash", self._workers)

    def _work(self, _: Worker) -> None:
        buffer = memoryview(bytearray(BLOCK_BYTES))
        while (task := self._next()) is not None:
            try:
                task(buffer)
            except Exception:  # noqa: BLE001 - it is a fault of one blob, and the thread has others to serve
                _log.exception("a download failed by a fault in towline")

    def _next(self) -> Work | None:
        with self._wake:
            while not self._tasks:
                if self._closed:
                    return None
                self._idle += 1
                try:
                    self._wake.wait()
                finally:
                    self._idle -= 1
            return self._tasks.popleft()
