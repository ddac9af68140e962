"""How many connections one host gets from this process. Safe from threads."""

from __future__ import annotations

import threading
from collections import Counter


class Slots:
    """At most `most` connections for each name."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._lock = threading.Lock()
        self._taken: Counter[str] = Counter()

    def free(self, name: str) -> bool:
        """Whether one more may be opened now."""
        return self._taken[name] < self._most

    def take(self, name: str) -> bool:
        """Takes one if there is one; give it back."""
        with self._lock:
            if self._taken[name] >= self._most:
                return False
            self._taken[name] += 1
            return True

    def give_back(self, name: str) -> None:
        """What `take` took."""
        with self._lock:
            self._taken[name] -= 1
            if not self._taken[name]:
                del self._taken[name]
