"""Moments in which the machine has no more files, memory or threads for this process.

They are nobody's fault here and pass: a request that meets one is told so, the log says it once a minute without a
traceback, and whatever is done after it goes well.
"""

from __future__ import annotations

import errno
import time

import structlog

PAUSE = 60.0
"""Seconds for which the log is silent about a shortage of which it has told."""

_HINTS = {
    "files": "raise the limit (ulimit -n, LimitNOFILE=), or have fewer clients at once",
    "memory": "free some, or raise the limit of this process",
    "threads": "raise the limit (ulimit -u, TasksMax=, pids.max)",
}

log = structlog.get_logger("towline.server")
_told: dict[str, float] = {}


def what_is_short(error: BaseException | None) -> str | None:
    """`files`, `memory` or `threads` where that is what the error means."""
    if isinstance(error, MemoryError):
        return "memory"
    if isinstance(error, RuntimeError) and "can't start new thread" in str(error):
        return "threads"
    if isinstance(error, OSError):
        if error.errno in (errno.EMFILE, errno.ENFILE):
            return "files"
        if error.errno in (errno.ENOMEM, errno.ENOBUFS):
            return "memory"
    return None


def tell(what: str) -> None:
    """Logs it, once a minute for each kind."""
    now = time.monotonic()
    if now - _told.get(what, -PAUSE) < PAUSE:
        return
    _told[what] = now
    log.warning(f"out of {what}: {_HINTS[what]}; clients wait or are refused meanwhile")


def sentence(what: str) -> str:
    """What a client is told."""
    return f"the server is out of {what} at the moment; try again, or {_HINTS[what]} where it runs"
