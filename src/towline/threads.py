"""Starting a thread, where the system may have none to give."""

from __future__ import annotations

import mmap
import threading
from collections.abc import Callable

from towline.errors import Starved

HEADROOM = 16 << 20
"""Bytes of address space that must be there before a thread is started: its stack, and what it allocates first. One
that runs out of memory before it says that it runs leaves whoever starts it waiting for ever.
"""


def start(target: Callable[[], None], name: str) -> threading.Thread:
    """A thread that runs `target`; daemonic, so that what cannot be interrupted never keeps the process from ending.

    Raises Starved where there is none to be had: an ordinary thing, which may have passed a moment later.
    """
    try:
        mmap.mmap(-1, HEADROOM).close()
        thread = threading.Thread(target=target, name=name, daemon=True)
        thread.start()
    except (RuntimeError, MemoryError, OSError):
        raise Starved(
            "this machine has no thread or no memory to spare now; try again when less runs, or raise the limits "
            "of processes and memory (ulimit -u, ulimit -v, the container's)"
        ) from None
    return thread
