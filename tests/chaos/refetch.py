"""Which bytes a registry sent more than once, and after which interruption."""

from __future__ import annotations

from collections import defaultdict

from tests.support.registry import FaultRegistry
from towline.model.digest import Digest
from towline.transfer.segments import Ranges


class Refetch:
    """Charges every byte that is sent again to the session that had got it last.

    A session is a process and the pull that it made; `ended` is told when it is over. Bytes that a session itself
    had sent twice, when one connection took over from another, count too: all that went out more than once does.
    """

    def __init__(self, registry: FaultRegistry) -> None:
        self._registry = registry
        self._sessions: list[dict[Digest, Ranges]] = []
        self.charged: list[int] = []
        """For each session, what others fetched again after it."""
        self.within = 0
        """Bytes that a session itself fetched twice."""

    def ended(self) -> None:
        """Takes what the registry sent since the last time; it forgets that."""
        self._registry.wait_idle()
        got: dict[Digest, Ranges] = defaultdict(Ranges)
        for exchange in self._registry.blob_requests():
            if exchange.sent and exchange.digest and exchange.status in (200, 206):
                before = got[exchange.digest].total
                start, stop = exchange.offset, exchange.offset + exchange.sent
                got[exchange.digest].add(start, stop)
                self.within += stop - start - (got[exchange.digest].total - before)
                self._charge(exchange.digest, start, stop)
        self._registry.reset()
        self._sessions.append(got)
        self.charged.append(0)

    def forget(self) -> None:
        """A new store: nothing that came before is fetched again."""
        self._sessions = [{} for _ in self._sessions]

    @property
    def most(self) -> int:
        """The most that one interruption had fetched again."""
        return max(self.charged, default=0)

    def _charge(self, digest: Digest, start: int, stop: int) -> None:
        for number, session in enumerate(self._sessions):
            if digest in session:
                before = session[digest].total
                session[digest].remove(start, stop)
                self.charged[number] += before - session[digest].total
