"""The threads that carry blobs: bounded for the process, shared fairly between the pulls."""

from __future__ import annotations

import heapq
import itertools
import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, field

from towline.model.digest import Digest
from towline.transfer.blob import BlobTransfer
from towline.transfer.growing import promised
from towline.transfer.journal import BLOCK_BYTES
from towline.transfer.protocols import BlobSource, Staging
from towline.transfer.rate import Rate
from towline.transfer.slots import Slots
from towline.transfer.work import CROWDED, NEVER, Limits, Terms, Work

_log = logging.getLogger("towline")

_LOOK_AHEAD = 32
"""How many transfers of one pull are compared for the next free thread: more than there are threads to share."""

MOST_ACTIVE = 64
"""How many blobs of one pull are in the middle of their download at once, each with up to three files open: where a
registry asks to wait, every free thread would begin another one, until the system has no more files to open.
"""

_LAST_WORD = 0.1
"""Seconds that each hashing thread gets at the end, however long the receiving ones took: one block at most."""


@dataclass(frozen=True, slots=True)
class Wanted:
    """A blob to be transferred: what it is, where its bytes come from, where they go. `size` in bytes."""

    digest: Digest
    size: int
    sources: Sequence[BlobSource]
    staging: Staging


class Handle:
    """One caller's share in a transfer; close it once. The last one that goes cancels the transfer."""

    def __init__(self, pool: Pool, transfer: BlobTransfer) -> None:
        self.transfer = transfer
        self._pool = pool

    def close(self) -> None:
        """Does not block."""
        self._pool._let_go(self.transfer)


@dataclass(eq=False, slots=True)
class _Entry:
    transfer: BlobTransfer
    owner: Hashable
    handles: int = 1
    workers: int = 0
    queued: bool = False
    due: float | None = None


@dataclass(eq=False, slots=True)
class _Group:
    """What one pull wants fetched: entries in the order in which it named them."""

    queue: deque[_Entry] = field(default_factory=deque)
    workers: int = 0

    def neediest(self) -> _Entry:
        """The entry with the fewest threads, among the first of the queue; the first of several."""
        best = self.queue[0]
        for entry in itertools.islice(self.queue, _LOOK_AHEAD):
            if not entry.workers:
                return entry
            if entry.workers < best.workers:
                best = entry
        return best


class Pool:
    """All transfers of one process, on at most `connections` receiving and `hashers` hashing threads.

    The threads start as they are needed and live until `close`. A free thread goes to the pull that has the fewest,
    there to the blob that has the fewest.
    """

    def __init__(
        self,
        *,
        connections: int,
        hashers: int,
        limits: Limits,
        connections_per_host: int,
        rate: Rate | None = None,
    ) -> None:
        self._limits = limits
        self._slots = Slots(connections_per_host)
        self._rates = [rate] if rate is not None else []
        self._connections = connections
        self._hashers = hashers
        self._wake = threading.Condition()
        self._entries: dict[BlobTransfer, _Entry] = {}
        self._by_blob: dict[tuple[Digest, int], _Entry] = {}
        self._groups: dict[Hashable, _Group] = {}
        self._later: list[tuple[float, int, _Entry]] = []
        self._ticket = itertools.count()
        self._idle = 0
        self._workers: list[threading.Thread] = []
        self._to_hash: deque[Work] = deque()
        self._hash_wake = threading.Condition()
        self._hash_idle = 0
        self._hash_threads: list[threading.Thread] = []
        self._closed = False
        self._nothing_comes = False

    def fetch(self, wanted: Sequence[Wanted], owner: Hashable, *, rate: Rate | None = None) -> list[Handle]:
        """Begins the transfers of these blobs, or joins those that are under way; a handle for each, in order.

        `owner` is the pull that they count for, `rate` a limit of that pull beside the pool's own. None begins before
        all are known: the threads would only get in the way.
        """
        found = [promised(blob.staging, blob.digest, blob.size) for blob in wanted]
        terms = self._terms(rate)
        handles = []
        joined = []
        with self._wake:
            for blob, bytes_found in zip(wanted, found, strict=True):
                entry = self._by_blob.get((blob.digest, blob.size))
                if entry is None or entry.transfer.concluded:
                    entry = self._entry(blob, bytes_found, owner, terms)
                    self._enqueue(entry)
                else:
                    entry.handles += 1
                    joined.append((entry.transfer, blob))
                handles.append(Handle(self, entry.transfer))
        for transfer, blob in joined:
            transfer.offer(blob.sources)
        return handles

    def _terms(self, rate: Rate | None) -> Terms:
        rates = self._rates if rate is None else [*self._rates, rate]
        berths = threading.BoundedSemaphore(max(MOST_ACTIVE, 2 * self._connections))
        return Terms(self._limits, self._slots, rates, berths)

    def _entry(self, blob: Wanted, found: int, owner: Hashable, terms: Terms) -> _Entry:
        transfer = BlobTransfer(
            blob.digest,
            blob.size,
            blob.sources,
            blob.staging,
            terms,
            found=found,
            poke=self._poke,
            hash_soon=self._hash_soon,
        )
        entry = _Entry(transfer, owner)
        self._entries[transfer] = self._by_blob[blob.digest, blob.size] = entry
        return entry

    def close(self, timeout: float = 2.0) -> None:
        """Cancels everything and waits for the threads, at most `timeout` seconds."""
        with self._wake:
            self._closed = True
            transfers = list(self._entries)
            self._wake.notify_all()
        for transfer in transfers:
            transfer.cancel()
        deadline = time.monotonic() + timeout
        for thread in self._workers:
            thread.join(max(0.0, deadline - time.monotonic()))
        with self._hash_wake:
            self._nothing_comes = True  # only now: a receiving thread hands what it wrote to one that hashes
            self._hash_wake.notify_all()
        for thread in self._hash_threads:
            thread.join(max(_LAST_WORD, deadline - time.monotonic()))

    def _let_go(self, transfer: BlobTransfer) -> None:
        with self._wake:
            entry = self._entries[transfer]
            entry.handles -= 1
            if entry.handles:
                return
            del self._entries[transfer]
            if self._by_blob.get((transfer.digest, transfer.size)) is entry:
                del self._by_blob[transfer.digest, transfer.size]
        transfer.cancel()
        with self._wake:
            self._call_thread()  # another may begin in its place

    # Receiving

    def _poke(self, transfer: BlobTransfer) -> None:
        with self._wake:
            entry = self._entries.get(transfer)
            if entry is not None:
                self._enqueue(entry)

    def _enqueue(self, entry: _Entry) -> None:
        """Has the entry asked for work. Under lock."""
        if entry.queued or entry.transfer.concluded:
            return
        entry.queued = True
        entry.due = None
        queue = self._groups.setdefault(entry.owner, _Group()).queue
        if entry.transfer.begun:  # before those whose turn has not come: they could not begin while this one waits
            queue.appendleft(entry)
        else:
            queue.append(entry)
        self._call_thread()

    def _call_thread(self) -> None:
        """There may be work for one thread more. Under lock."""
        if self._idle:
            self._wake.notify()
        elif len(self._workers) < self._connections and not self._closed:
            self._workers.append(_start(self._work, f"towline-receive-{len(self._workers)}"))

    def _work(self) -> None:
        buffer = memoryview(bytearray(BLOCK_BYTES))
        while True:
            with self._wake:
                chosen = self._next()
                if chosen is None:
                    return
                entry, work = chosen
            try:
                work(buffer)
            except Exception:  # noqa: BLE001 - it is a fault of one blob, and the thread has others to serve
                _log.exception("a download failed by a fault in towline")
            finally:
                with self._wake:
                    entry.workers -= 1
                    self._count(entry.owner, -1)

    def _next(self) -> tuple[_Entry, Work] | None:
        """Waits for something to do; None when the pool closes. Under lock."""
        while not self._closed:
            now = time.monotonic()
            while self._later and self._later[0][0] <= now:
                due, _, entry = heapq.heappop(self._later)
                if entry.due == due:
                    self._enqueue(entry)
            chosen = self._choose(now)
            if chosen is not None:
                if any(group.queue for group in self._groups.values()):
                    self._call_thread()
                return chosen
            self._idle += 1
            self._wake.wait(self._later[0][0] - now if self._later else None)
            self._idle -= 1
        return None

    def _choose(self, now: float) -> tuple[_Entry, Work] | None:
        for owner, group in sorted(self._groups.items(), key=lambda item: item[1].workers):
            while group.queue:
                entry = group.neediest()
                answer = entry.transfer.take(now)
                if not isinstance(answer, float):
                    entry.workers += 1
                    self._count(owner, 1)
                    return entry, answer
                if answer == CROWDED:
                    break
                group.queue.remove(entry)
                entry.queued = False
                if answer != NEVER:
                    entry.due = answer
                    heapq.heappush(self._later, (answer, next(self._ticket), entry))
            if not group.workers and not group.queue:
                del self._groups[owner]
        return None

    def _count(self, owner: Hashable, by: int) -> None:
        group = self._groups[owner]
        group.workers += by
        if not group.workers and not group.queue:
            del self._groups[owner]

    # Hashing

    def _hash_soon(self, work: Work) -> None:
        with self._hash_wake:
            self._to_hash.append(work)
            if self._hash_idle:
                self._hash_wake.notify()
            elif len(self._hash_threads) < self._hashers and not self._nothing_comes:
                self._hash_threads.append(_start(self._hash, f"towline-hash-{len(self._hash_threads)}"))

    def _hash(self) -> None:
        buffer = memoryview(bytearray(BLOCK_BYTES))
        while True:
            with self._hash_wake:
                while not self._to_hash:
                    if self._nothing_comes:
                        return
                    self._hash_idle += 1
                    self._hash_wake.wait()
                    self._hash_idle -= 1
                work = self._to_hash.popleft()
            try:
                work(buffer)
            except Exception:  # noqa: BLE001 - as above
                _log.exception("a download failed by a fault in towline")


def _start(target: Callable[[], None], name: str) -> threading.Thread:
    # Daemonic, so that a connection that cannot be cancelled while it is made never keeps the process from ending.
    thread = threading.Thread(target=target, name=name, daemon=True)
    thread.start()
    return thread
