"""A thread of the pool: one of several of its kind, which can be done without."""

from __future__ import annotations

import contextlib
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
        """Starts one, called `name` and a number; where none is to be had, nothing happens. Raises nothing."""
        with contextlib.suppress(Starved, MemoryError):
            worker = cls(work, kind)
            try:
                kind.add(worker)
                worker._thread = threads.start(worker._run, f"{name}-{len(kind)}")
            except BaseException:
                kind.discard(worker)
                raise

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
