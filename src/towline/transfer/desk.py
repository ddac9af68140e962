"""Where the threads that fetch small blobs take turns.

What such a blob costs is some twenty calls of the system, at each of which Python lets another thread run: dozens of
threads that do so at once spend much of it on changing turns. So one at a time does all that it has to, and leaves only
while it waits for the network.
"""

from __future__ import annotations

import threading
import time
from contextlib import AbstractContextManager
from types import TracebackType

LONGEST_TURN = 0.05
"""Seconds after which the others go on beside the one whose turn it is: a disk, or a share, may make that wait."""

MOST_BYTES = 128 << 10
"""A blob's size up to which turns are taken: what is larger is better hashed and written by several threads at once."""


class Desk:
    """Safe from threads; each has its turn from `take` to `leave`, and may be `away` within it. A context manager does
    both.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._holder = 0
        self._since = 0.0

    def take(self) -> None:
        """Waits for one's turn, or until whoever has it has had it for too long; who has it keeps it."""
        if self._holder == threading.get_ident():
            return
        while not self._lock.acquire(timeout=max(self._left, 0.0)):
            if self._left <= 0:
                return
        self._holder, self._since = threading.get_ident(), time.monotonic()

    @property
    def _left(self) -> float:
        """Seconds of the present turn."""
        return self._since + LONGEST_TURN - time.monotonic() if self._holder else LONGEST_TURN

    def leave(self) -> None:
        """Ends one's turn; who has none has nothing to end."""
        if self._holder == threading.get_ident():
            self._holder = 0
            self._lock.release()

    def __enter__(self) -> None:
        self.take()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.leave()

    @property
    def away(self) -> AbstractContextManager[None]:
        """Others have their turn meanwhile, and who had one has it again afterwards. For one thread."""
        return _Away(self)


class _Away:
    __slots__ = ("_desk", "_had_it")

    def __init__(self, desk: Desk) -> None:
        self._desk = desk
        self._had_it = False

    def __enter__(self) -> None:
        self._had_it = self._desk._holder == threading.get_ident()
        self._desk.leave()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._had_it:
            self._desk.take()
