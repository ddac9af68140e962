"""Waiting for disks, on threads of its own: a slow one holds up its own files, and no others' bytes and hashes."""

from __future__ import annotations

import contextlib
import logging
import threading
import time
from collections import deque
from collections.abc import Callable
from queue import SimpleQueue

from towline import threads
from towline.errors import Starved

Task = Callable[[], None]
"""What may wait for a disk. It tells of its errors by itself."""

MOST_THREADS = 8
"""As many tasks wait at once: disks write several files together in hardly more time than one."""

QUICK = 0.01
"""Seconds that a task takes at most where disks are quick."""

_log = logging.getLogger("towline")


class Syncing:
    """The threads: started as they are needed, at most `MOST_THREADS`, and joined by `close`. Safe from threads.

    A task runs once, whatever happens: on one of the threads, in the order in which they came; on the calling one where
    no thread can be started, or when this is closed already. What it raises is logged.

    `here` is how many tasks may run at once on threads that call `promptly`.
    """

    def __init__(self, here: int = 0) -> None:
        self._lock = threading.Lock()
        self._tasks: SimpleQueue[Task | None] = SimpleQueue()  # waits without memory of its own, unlike a condition
        self._threads: list[threading.Thread] = []
        self._unfinished = 0
        self._closed = False
        self._here = here
        self._slow = False

    def promptly(self, task: Task) -> None:
        """Has the task done where it costs least: here, as long as disks are quick, and few callers wait for one. So a
        disk that is slow at once holds up no more than those few.
        """
        with self._lock:
            here = self._here > 0 and not self._slow
            self._here -= here
        if not here:
            self.soon(task)
            return
        try:
            self._timed(task)
        finally:
            with self._lock:
                self._here += 1

    def soon(self, task: Task) -> None:
        """Has the task done. Does not wait for it, unless it has to be done here."""
        with self._lock:
            handed = not self._closed and self._manned()
            if handed:
                self._unfinished += 1
                self._tasks.put(task)
        if not handed:
            _do(task)

    def close(self, timeout: float) -> None:
        """Waits for what was given, at most `timeout` seconds, as some disks never answer. Any number of times."""
        with self._lock:
            started = [] if self._closed else self._threads
            self._closed = True
            for _ in started:
                self._tasks.put(None)
        deadline = time.monotonic() + timeout
        for thread in started:
            thread.join(max(0.0, deadline - time.monotonic()))

    def _timed(self, task: Task) -> None:
        since = time.monotonic()
        _do(task)
        self._slow = time.monotonic() - since > QUICK

    def _manned(self) -> bool:
        """Whether a thread will see to another task: one that has nothing to do, or a new one if that can be."""
        if self._unfinished >= len(self._threads) < MOST_THREADS:
            with contextlib.suppress(Starved):
                self._threads.append(threads.start(self._work, f"towline-sync-{len(self._threads)}"))
        return bool(self._threads)

    def _work(self) -> None:
        while (task := self._tasks.get()) is not None:
            self._timed(task)
            with self._lock:
                self._unfinished -= 1


class Lane:
    """Tasks of one file, done one after another in the order in which they came: it has at most one of the threads."""

    def __init__(self, syncing: Syncing) -> None:
        self._syncing = syncing
        self._lock = threading.Lock()
        self._tasks: deque[Task] = deque()
        self._running = False

    @property
    def idle(self) -> bool:
        """Whether all that was given is done."""
        return not self._running

    def soon(self, task: Task) -> None:
        """As `Syncing.soon`, after what was given before."""
        with self._lock:
            self._tasks.append(task)
            if self._running:
                return
            self._running = True
        self._syncing.soon(self._drain)

    def _drain(self) -> None:
        while True:
            with self._lock:
                if not self._tasks:
                    self._running = False
                    return
                task = self._tasks.popleft()
            _do(task)


def _do(task: Task) -> None:
    try:
        task()
    except Exception:  # noqa: BLE001 - it is a fault of one task, and the thread has others to do
        _log.exception("waiting for the disk failed by a fault in towline")
