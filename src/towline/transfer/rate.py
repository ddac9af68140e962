"""Bandwidth limits. A `Rate` is pure but for its lock: times are given, in seconds of a clock that does not go back."""

from __future__ import annotations

import threading

BURST = 0.1
"""Seconds' worth of bytes that may come at once after a lull."""


class Rate:
    """At most `limit` bytes a second, shared by all threads that ask."""

    def __init__(self, limit: float) -> None:
        self.limit = limit
        self._lock = threading.Lock()
        self._free_at = 0.0

    @property
    def step(self) -> int:
        """Bytes that are best asked for at once: a fraction of a second's worth, so that the flow is even."""
        return max(16 << 10, int(self.limit * BURST / 2))

    def spend(self, count: int, now: float) -> float:
        """Notes bytes that came; returns the seconds to wait before more are asked for."""
        with self._lock:
            self._free_at = max(self._free_at, now - BURST) + count / self.limit
            return max(0.0, self._free_at - now)
