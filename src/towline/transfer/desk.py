"""Where the threads that fetch small blobs take turns.

What such a blob costs is a few dozen calls of the system, at each of which Python lets another thread run: dozens of
threads that do so at once spend more time on changing turns than on blobs. So one at a time does all that it has to,
and leaves only while it waits for the network.
"""

from __future__ import annotations

import threading
from types import TracebackType

LONGEST_TURN = 0.05
"""Seconds after which the others go on beside the one whose turn it is: a disk, or a share, may make that wait."""


MOST_BYTES = 128 << 10
"""A blob's size up to which turns are taken: what is larger is better hashed and written by several threads at once."""


class Desk:
    """A context manager, for one turn. Safe from threads; `away` is for within a turn, and for those who take none."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._holder = 0
        self._overdue = False

    def __enter__(self) -> None:
        if self._lock.acquire(timeout=0 if self._overdue else LONGEST_TURN):
            self._holder = threading.get_ident()
        else:
            self._overdue = True

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._holder == threading.get_ident():
            self._holder = 0
            self._overdue = False
            self._lock.release()

    @property
    def away(self) -> _Away:
        """A context manager: others have their turn meanwhile."""
        return _Away(self)


class _Away:
    __slots__ = ("_desk", "_had_it")

    def __init__(self, desk: Desk) -> None:
        self._desk = desk
        self._had_it = False

    def __enter__(self) -> None:
        self._had_it = self._desk._holder == threading.get_ident()
        self._desk.__exit__(None, None, None)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._had_it:
            self._desk.__enter__()
