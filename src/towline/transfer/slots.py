"""What is given out in limited numbers: connections to a host, places for blobs in the middle of their download.

Whoever gives one back, on whatever thread, tells those who may wait for one.
"""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable, Hashable


class Slots:
    """At most `most` for each name, `times` as many for those that may have more. Safe from threads; `freed` is called,
    without a lock, after each return.
    """

    def __init__(
        self, most: int, freed: Callable[[], None] = lambda: None, *, times: Callable[[Hashable], int] = lambda _: 1
    ) -> None:
        self._most = most
        self._times = times
        self._freed = freed
        self._lock = threading.Lock()
        self._taken: Counter[Hashable] = Counter()

    def free(self, name: Hashable) -> bool:
        """Whether one more may be opened now."""
        return self._taken[name] < self._most * self._times(name)

    def take(self, name: Hashable) -> bool:
        """Takes one if there is one; give it back."""
        with self._lock:
            if not self.free(name):
                return False
            self._taken[name] += 1
            return True

    def give_back(self, name: Hashable) -> None:
        """What `take` took. The caller holds no lock of a transfer."""
        with self._lock:
            self._taken[name] -= 1
            if not self._taken[name]:
                del self._taken[name]
        self._freed()
