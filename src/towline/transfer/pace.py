"""How fast a transfer goes, and how many connections pay. Pure: times are given, in seconds.

A blob begins on one connection. Twice as many are tried at a time, and kept while throughput grows with them: over a
long way every one adds its share, from a server next door a second one only gets in the way of the hash.
"""

from __future__ import annotations

GAIN = 1.15
"""Doubling the connections is worth it if throughput grows by this factor."""

FIRST_WINDOW = 0.1
WINDOW = 0.4
"""Seconds over which throughput is measured: short while climbing for the first time."""

FIRST_REST = 1.0
LONGEST_REST = 8.0
"""Seconds before a climb that did not pay is tried again."""


class Pace:
    """Of one transfer, with at most `most` connections.

    `typical` is what one connection brought at its best lately, in bytes a second: it fades by half each second, so
    that a whole link that becomes slow is not taken for connections that did.
    """

    def __init__(self, most: int) -> None:
        self.connections = 1
        self.typical = 0.0
        self._most = most
        self._received = 0
        self._since: float | None = None
        self._window = FIRST_WINDOW
        self._best = 0.0
        self._before = 1
        self._probing = False
        self._next_probe = 0.0
        self._rest = FIRST_REST

    def received(self, count: int, now: float) -> bool:
        """Notes bytes that came; tells whether more connections are allowed than before."""
        if self._since is None:
            self._since = now
            return False
        self._received += count
        span = now - self._since
        if span < self._window:
            return False
        rate = self._received / span
        self._received, self._since = 0, now
        self.typical = max(rate / self.connections, self.typical * 0.5**span)
        return self._judge(rate, now)

    def _judge(self, rate: float, now: float) -> bool:
        if self._probing:
            if rate >= self._best * GAIN:
                return self._climb(rate)
            self.connections = self._before
            self._probing = False
            self._window = WINDOW
            self._next_probe = now + self._rest
            self._rest = min(self._rest * 2, LONGEST_REST)
            return False
        if now < self._next_probe:
            self._best = rate
            return False
        return self._climb(rate)

    def _climb(self, rate: float) -> bool:
        self._best, self._before = rate, self.connections
        self._probing = self.connections < self._most
        self.connections = min(self.connections * 2, self._most)
        return self._probing
