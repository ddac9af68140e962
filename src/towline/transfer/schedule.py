"""Where a free thread goes: to the pull that has the fewest threads, there to the blob that has the fewest."""

from __future__ import annotations

import heapq
import itertools
from collections import deque
from collections.abc import Hashable
from dataclasses import dataclass, field

from towline.transfer.blob import BlobTransfer
from towline.transfer.segments import DUEL_AGE
from towline.transfer.work import CROWDED, NEVER, Work

_LOOK_AHEAD = 32
"""How many transfers of one pull are compared for the next free thread: more than there are threads to share."""


@dataclass(eq=False, slots=True)
class Entry:
    """A transfer, the pull that it counts for, how many callers share it, and how many threads work on it."""

    transfer: BlobTransfer
    owner: Hashable
    handles: int = 1
    workers: int = 0
    queued: bool = False
    due: float | None = None


@dataclass(eq=False, slots=True)
class _Group:
    """What one pull wants fetched: entries in the order in which it named them."""

    queue: deque[Entry] = field(default_factory=deque)
    workers: int = 0

    def neediest(self, *, small: bool, begun: bool) -> Entry | None:
        """The entry with the fewest threads, among the first of the queue; the first of several. Of small blobs alone,
        or of those that have begun, where only those are wanted.
        """
        best: Entry | None = None
        for entry in itertools.islice(self.queue, _LOOK_AHEAD):
            if (small and not entry.transfer.small) or (begun and not entry.transfer.begun):
                continue
            if not entry.workers:
                return entry
            if best is None or entry.workers < best.workers:
                best = entry
        return best


class Schedule:
    """The entries that are to be asked for work, now or later. Not safe from threads: the pool's lock is held for all
    but a glance at `crowded`.
    """

    def __init__(self) -> None:
        self.large_ones = 0
        """Threads that work on blobs larger than small ones."""
        self.crowded = False
        """Whether an entry lacked a connection or a place at the last look: to be reset where one was given back."""
        self._groups: dict[Hashable, _Group] = {}
        self._later: list[tuple[float, int, Entry]] = []
        self._ticket = itertools.count()

    @property
    def waiting(self) -> bool:
        """Whether an entry is to be asked now."""
        return any(group.queue for group in self._groups.values())

    @property
    def due(self) -> float | None:
        """When the next one is, of `time.monotonic`; None for never."""
        return self._later[0][0] if self._later else None

    def add(self, entry: Entry) -> None:
        """It is to be asked now."""
        if entry.queued or entry.transfer.concluded:
            return
        entry.queued = True
        entry.due = None
        queue = self._groups.setdefault(entry.owner, _Group()).queue
        if entry.transfer.begun:  # before those whose turn has not come: they could not begin while this one waits
            queue.appendleft(entry)
        else:
            queue.append(entry)

    def choose(self, now: float, *, small: bool) -> tuple[Entry, Work] | None:
        """What a free thread should do, `small` blobs alone where it may do nothing else: told to `count`."""
        self._recall(now)
        for owner, group in sorted(self._groups.items(), key=lambda item: item[1].workers):
            begun = False
            while (entry := group.neediest(small=small, begun=begun)) is not None:
                answer = self._ask(entry, now)
                if not isinstance(answer, float):
                    if entry.transfer.small:  # one thread has all of it to do, unless that takes long
                        self._ask_later(group, entry, now + DUEL_AGE)
                    self.count(entry, 1)
                    return entry, answer
                if answer != CROWDED:
                    self._ask_later(group, entry, answer)
                elif begun or entry.transfer.begun:
                    break
                else:  # there is no place for another one: those that have theirs may still use more threads
                    begun = True
            if not group.workers and not group.queue:
                del self._groups[owner]
        return None

    def count(self, entry: Entry, by: int) -> None:
        """So many threads more work on it."""
        group = self._groups[entry.owner]
        group.workers += by
        entry.workers += by
        if not entry.transfer.small:
            self.large_ones += by
        if not group.workers and not group.queue:
            del self._groups[entry.owner]

    def _recall(self, now: float) -> None:
        """Has the entries whose time has come asked again. Of those for which it means nothing any more, as they are
        over or were asked meanwhile, none stays the next: each would wake every idle thread in its time.
        """
        while self._later:
            due, _, entry = self._later[0]
            counts = entry.due == due and not entry.transfer.concluded
            if counts and due > now:
                return
            heapq.heappop(self._later)
            if counts:
                self.add(entry)

    def _ask_later(self, group: _Group, entry: Entry, due: float) -> None:
        group.queue.remove(entry)
        entry.queued = False
        if due != NEVER:
            entry.due = due
            heapq.heappush(self._later, (due, next(self._ticket), entry))

    def _ask(self, entry: Entry, now: float) -> Work | float:
        answer = entry.transfer.take(now)
        if answer == CROWDED:
            self.crowded = True  # and only then the last look: what is given back after it is told of
            answer = entry.transfer.take(now)
        return answer
