"""How far hosts are: from one behind a long way, small blobs are bound by how many are asked for at once."""

from __future__ import annotations

FAR = 0.01
"""Seconds before the first byte of an answer, at best, from which a host counts as far: what a near one takes longer
for is work, and is not done sooner by asking for more at once.
"""


_WORK = 3.0
"""Times the way that the answer to another question may take: registries look a manifest up, and read it."""


class Distances:
    """The shortest wait for a first byte, of each host. Safe from threads."""

    def __init__(self) -> None:
        self._least: dict[str, float] = {}
        self.any_far = False
        """Whether one of them is far."""

    def note(self, host: str, seconds: float) -> None:
        """An answer of this host began after so long."""
        if seconds < self._least.get(host, float("inf")):
            self._least[host] = seconds
            self.any_far = any(map(self.far, list(self._least)))

    def guess(self, host: str, seconds: float) -> None:
        """The answer to another question began after so long, most of which may have been work."""
        self.note(host, seconds / _WORK)

    def far(self, host: object) -> bool:
        """Whether this one is."""
        return self._least.get(str(host), 0.0) > FAR
