"""A thread of the pool: one of several of its kind, which can be done without."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable

from towline import threads
from towline.errors import Starved
from towline.transfer.blob import BlobTransfer

_log = logging.getLogger("towline")


class Worker:
    """A thread of the pool, in the set of its kind for as long as it runs. `transfer` is what it works on."""

    def __init__(self, work: Callable[[Worker], None], kind: set[Worker]) -> None:
        self.transfer: BlobTransfer | None = None
        self._work = work
        self._kind = kind
        self._thread: threading.Thread | None = None

    @classmethod
    def begin(cls, work: Callable[[Worker], None], name: str, kind: set[Worker]) -> None:
        """Starts one; where none is to be had, nothing happens."""
        worker = cls(work, kind)
        kind.add(worker)
        try:
            worker._thread = threads.start(worker._run, name)
        except Starved:
            kind.discard(worker)

    def _run(self) -> None:
        try:
            self._work(self)
        except MemoryError:
            pass  # the next nudge looks whether there is some again
        except Exception:  # noqa: BLE001 - whatever it was, another thread goes on
            _log.exception("a thread ended by a fault in towline")
        finally:
            self._kind.discard(self)

    def join(self, timeout: float) -> None:
        """Waits for its end, at most so many seconds."""
        if self._thread is not None:
            self._thread.join(timeout)
