"""Being told to stop, in the middle of something that has to be put away first."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

GRACE = 3.0
"""Seconds in which a second Ctrl-C is taken for impatience, while what runs is put away; later ones end the process.

Ending it in whatever state is safe for a store (it stands `kill -9`), only not tidy.
"""

_STOPPING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class Interrupted(KeyboardInterrupt):
    """The process was asked to stop, by Ctrl-C or by a signal."""

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.exit_code = 128 + number


@contextmanager
def interruptible() -> Iterator[None]:
    """Inside, Ctrl-C, SIGTERM and SIGHUP raise Interrupted, once, in the main thread, which has to be the caller.

    Signals that the process was started to ignore (`nohup`, a background job of a script) stay ignored. An error that
    comes after it is no news: Python itself makes a TypeError of one that comes in the middle of an import.
    """
    asked: list[tuple[Interrupted, float]] = []

    def stop(number: int, _frame: FrameType | None) -> None:
        if not asked:
            asked.append((Interrupted(number), time.monotonic()))
            raise asked[0][0]
        if time.monotonic() - asked[0][1] > GRACE:
            os._exit(128 + number)

    before = {number: signal.getsignal(number) for number in _STOPPING}
    for number in _STOPPING:
        if before[number] is not signal.SIG_IGN:
            signal.signal(number, stop)
    try:
        yield
    except Exception:
        if asked:
            raise asked[0][0] from None
        raise
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
