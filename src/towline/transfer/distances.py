"""How far hosts are: from one behind a long way, small blobs are bound by how many are asked for at once."""

from __future__ import annotations

FAR = 0.01
"""Seconds before the first byte of an answer, at best, from which a host counts as far: what a near one takes longer
for is work, and is not done sooner by asking for more at once.
"""


class Distances:
    """The shortest wait for a blob's first byte, of each host. Safe from threads."""

    def __init__(self) -> None:
        self._least: dict[str, float] = {}
        self.any_far = False
        """Whether one of them is far."""

    def note(self, host: str, seconds: float) -> None:
        """A blob's first byte came from this host after so long."""
        if seconds < self._least.get(host, float("inf")):
            self._least[host] = seconds
            self.any_far = any(map(self.far, list(self._least)))

    def far(self, host: object) -> bool:
        """Whether this one is."""
        return self._least.get(str(host), 0.0) > FAR
