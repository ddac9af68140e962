"""The threads that carry blobs: bounded for the process, shared fairly between the pulls."""

from __future__ import annotations

import heapq
import itertools
import logging
import mmap
import threading
import time
from collections import deque
from collections.abc import Hashable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from towline.model.digest import Digest
from towline.patience import Life, Patience, Pulse
from towline.transfer import desk
from towline.transfer.blob import BlobTransfer
from towline.transfer.desk import Desk
from towline.transfer.distances import Distances
from towline.transfer.growing import promised
from towline.transfer.journal import BLOCK_BYTES
from towline.transfer.protocols import BlobSource, Staging
from towline.transfer.rate import Rate
from towline.transfer.segments import DUEL_AGE
from towline.transfer.slots import Slots
from towline.transfer.syncing import Syncing
from towline.transfer.work import CROWDED, NEVER, Limits, Room, Terms, Traffic, Work
from towline.transfer.worker import Worker

_log = logging.getLogger("towline")

_LOOK_AHEAD = 32
"""How many transfers of one pull are compared for the next free thread: more than there are threads to share."""

_AT_ONCE = 64

MOST_ACTIVE = 64
"""How many blobs of one pull are in the middle of their download at once, each with up to three files open: where a
registry asks to wait, every free thread would begin another one, until the system has no more files to open.
"""

MOST_THREADS = 4
"""Times the connections that carry large blobs: how many threads there are at most, with those that wait in silence, or
for small blobs of a host that is far.
"""

SIGN_SECONDS = 0.5
"""Between two signs of life for the processes that follow a download here."""

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

    __slots__ = ("_patience", "_pool", "found", "transfer")

    def __init__(self, pool: Pool, transfer: BlobTransfer, found: int, patience: Patience) -> None:
        self.transfer = transfer
        self.found = found
        """Bytes that were on disk when the caller began, or joined."""
        self._pool = pool
        self._patience = patience

    def close(self) -> None:
        """Does not block."""
        self._pool._let_go(self.transfer, self._patience)


@dataclass(eq=False, slots=True)
class _Entry:
    transfer: BlobTransfer
    owner: Hashable
    handles: int = 1
    workers: int = 0
    queued: bool = False
    due: float | None = None

    @property
    def small(self) -> bool:
        return self.transfer.small


@dataclass(eq=False, slots=True)
class _Group:
    """What one pull wants fetched: entries in the order in which it named them."""

    queue: deque[_Entry] = field(default_factory=deque)
    workers: int = 0

    def neediest(self, *, small: bool, begun: bool) -> _Entry | None:
        """The entry with the fewest threads, among the first of the queue; the first of several. Of small blobs alone,
        or of those that have begun, where only those are wanted.
        """
        best: _Entry | None = None
        for entry in itertools.islice(self.queue, _LOOK_AHEAD):
            if (small and not entry.small) or (begun and not entry.transfer.begun):
                continue
            if not entry.workers:
                return entry
            if best is None or entry.workers < best.workers:
                best = entry
        return best


class Pool:
    """All transfers of one process, on `connections` receiving threads, a few more while some wait in silence, and at
    most `hashers` hashing ones.

    The threads start as they are needed and live until `close`. A free thread goes to the pull that has the fewest,
    there to the blob that has the fewest. A thread that cannot be started is done without, and tried for at each
    `nudge`.
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
        self.traffic = Traffic()
        self.active: set[BlobTransfer] = set()
        """The transfers whose turn has come, and that are not over."""
        self.distances = Distances()
        """How far the hosts of sources are, as far as it is known: others may know more."""
        far = self.distances.far
        self._desk = Desk()
        self._syncing = Syncing(here=connections // 4)
        self._terms = Terms(
            limits=limits,
            large=Room(Slots(connections_per_host, self._freed), Slots(max(MOST_ACTIVE, 2 * connections), self._freed)),
            small=Room(
                Slots(connections_per_host, self._freed, times=lambda host: MOST_THREADS if far(host) else 1),
                Slots(max(MOST_ACTIVE, 2 * MOST_THREADS * connections), self._freed),
            ),
            syncing=self._syncing,
            traffic=self.traffic,
            distances=self.distances,
            desk=self._desk,
            active=self.active,
            places=set(),
        )
        self._rates = [rate] if rate is not None else []
        self._connections = connections
        self._hashers = hashers
        self._lock = threading.Lock()
        self._wake = threading.Condition(self._lock)
        self._entries: dict[BlobTransfer, _Entry] = {}
        self._by_blob: dict[tuple[Digest, int], _Entry] = {}
        self._groups: dict[Hashable, _Group] = {}
        self._later: list[tuple[float, int, _Entry]] = []
        self._ticket = itertools.count()
        self._idle = 0
        self._large_ones = 0
        self._hanging = 0
        self._crowded = False
        self._workers: set[Worker] = set()
        self._receivers: set[int] = set()
        self._to_hash: deque[Work] = deque()
        self._hash_wake = threading.Condition()
        self._hash_idle = 0
        self._hash_threads: set[Worker] = set()
        self._signers: set[Worker] = set()
        self._closed = False
        self._closing = threading.Event()
        self._nothing_comes = False
        self._life = Life()

    def fetch(
        self, wanted: Sequence[Wanted], owner: Hashable, patience: Patience, *, rate: Rate | None = None
    ) -> list[Handle]:
        """Begins the transfers of these blobs, or joins those that are under way; a handle for each, in order.

        `owner` is the pull that they count for, `patience` its own, `rate` a limit of that pull beside the pool's own.
        The first `_AT_ONCE` begin before all are known: to take thousands in takes as long as many a way to a registry.
        """
        found = [promised(blob.staging, blob.digest, blob.size) if blob.staging.begun else 0 for blob in wanted]
        rates = self._rates if rate is None else [*self._rates, rate]
        terms = replace(self._terms, owner=owner, rates=rates)
        handles: list[Handle] = []
        try:
            for part in (slice(_AT_ONCE), slice(_AT_ONCE, None)):
                for transfer, blob in self._join(wanted[part], found[part], terms, patience, handles):
                    transfer.offer(blob.sources, patience)
        except BaseException:
            for handle in handles:
                handle.close()
            raise
        return handles

    def _join(
        self,
        wanted: Sequence[Wanted],
        found: Sequence[int],
        terms: Terms,
        patience: Patience,
        handles: list[Handle],
    ) -> list[tuple[BlobTransfer, Wanted]]:
        """Appends a handle for each blob; tells which were under way already."""
        joined = []
        with self._lock:
            for blob, bytes_found in zip(wanted, found, strict=True):
                entry = self._by_blob.get((blob.digest, blob.size))
                if entry is None or entry.transfer.concluded:
                    entry = self._entry(blob, bytes_found, terms, patience)
                else:
                    entry.handles += 1
                    joined.append((entry.transfer, blob))
                handles.append(Handle(self, entry.transfer, bytes_found, patience))
                self._enqueue(entry)
            if wanted:
                self._call_thread()  # which calls the next one, as long as there is work
                self._call_signer()
        return joined

    def _entry(self, blob: Wanted, found: int, terms: Terms, patience: Patience) -> _Entry:
        transfer = BlobTransfer(
            blob.digest,
            blob.size,
            blob.sources,
            blob.staging,
            terms,
            patience,
            found=found,
            poke=self._poke,
            hash_soon=self._hash_soon,
        )
        entry = _Entry(transfer, terms.owner)
        self._entries[transfer] = self._by_blob[blob.digest, blob.size] = entry
        return entry

    def close(self, timeout: float = 2.0) -> None:
        """Cancels everything and waits for the threads, at most `timeout` seconds."""
        with self._lock:
            self._closed = True
            self._closing.set()
            transfers = list(self._entries)
            self._wake.notify_all()
        for transfer in transfers:
            transfer.cancel()
        deadline = time.monotonic() + timeout
        for worker in list(self._workers):
            worker.join(max(0.0, deadline - time.monotonic()))
        with self._hash_wake:
            self._nothing_comes = True  # only now: a receiving thread hands what it wrote to one that hashes
            self._hash_wake.notify_all()
        for worker in [*self._hash_threads, *self._signers]:
            worker.join(max(_LAST_WORD, deadline - time.monotonic()))
        self._syncing.close(max(_LAST_WORD, deadline - time.monotonic()))

    def is_busy(self, now: float) -> bool:
        """Whether anything moves, or rests for a while, so that others wait for their turn. To be called a few times a
        second, by one thread.
        """
        self._life.note(self.traffic.moves, now)
        return self._life.lasts(now) or any(transfer.pulse().rests for transfer in list(self.active))

    def nudge(self) -> None:
        """Looks whether something waits for a thread that could not be had before, that hangs in silence, or that is
        not there to look when it is time. To be called now and then.
        """
        with self._lock:
            self._hanging = self._silent()
            self._crowded = False
            due = self._later and self._later[0][0] <= time.monotonic()
            if due or any(group.queue for group in self._groups.values()):
                self._call_thread()
            if self._entries or self._terms.places:
                self._call_signer()
        with self._hash_wake:
            if self._to_hash:
                self._call_hasher()

    def _let_go(self, transfer: BlobTransfer, patience: Patience) -> None:
        transfer.forgo(patience)
        with self._lock:
            entry = self._entries[transfer]
            entry.handles -= 1
            if entry.handles:
                return
            del self._entries[transfer]
            if self._by_blob.get((transfer.digest, transfer.size)) is entry:
                del self._by_blob[transfer.digest, transfer.size]
        if transfer.concluded:
            return
        transfer.cancel()
        with self._lock:
            self._call_thread()  # another may begin in its place

    # Receiving

    def _poke(self, transfer: BlobTransfer) -> None:
        with self._lock:
            entry = self._entries.get(transfer)
            if entry is not None:
                self._enqueue(entry)
                self._call_thread()

    def _enqueue(self, entry: _Entry) -> None:
        """Has the entry asked for work by the next thread that is called. Under lock."""
        if entry.queued or entry.transfer.concluded:
            return
        entry.queued = True
        entry.due = None
        queue = self._groups.setdefault(entry.owner, _Group()).queue
        if entry.transfer.begun:  # before those whose turn has not come: they could not begin while this one waits
            queue.appendleft(entry)
        else:
            queue.append(entry)

    def _freed(self) -> None:
        """A connection or a place was given back. Whoever waits for one says so before the last look for it.

        A receiving thread looks for itself when it is through: to wake another one, each time, that finds nothing then
        costs more than a small blob.
        """
        if self._crowded and threading.get_ident() not in self._receivers:
            with self._lock:
                self._crowded = False
                self._call_thread()

    def _call_thread(self) -> None:
        """There may be work for one thread more. Under lock."""
        if self._idle:
            self._wake.notify()
        elif not self._closed and self._room_for_a_thread():
            Worker.begin(self._work, "towline-receive", self._workers)

    def _room_for_a_thread(self) -> bool:
        count = len(self._workers)
        if count >= MOST_THREADS * self._connections:
            return False
        return count < self._connections + self._hanging or self.distances.any_far

    def _silent(self) -> int:
        """How many threads wait in silence: others may work meanwhile."""
        now = time.monotonic()
        busy = {worker.transfer for worker in list(self._workers)}
        return sum(transfer.silent(now) for transfer in busy if transfer is not None)

    def _work(self, worker: Worker) -> None:
        self._receivers.add(threading.get_ident())
        try:
            self._receive(worker)
        finally:  # however it ends: another thread may have the same number then
            self._receivers.discard(threading.get_ident())
            self._desk.leave()

    def _receive(self, worker: Worker) -> None:
        buffer = memoryview(mmap.mmap(-1, BLOCK_BYTES))  # which takes no memory before it is used
        while True:
            with self._lock:
                chosen = self._next()
                if chosen is None:
                    return
                entry, work = chosen
            worker.transfer = entry.transfer
            try:
                if entry.transfer.size <= desk.MOST_BYTES:
                    self._desk.take()
                else:
                    self._desk.leave()
                work(buffer)
            except Exception as error:  # noqa: BLE001 - it is a fault of one blob, and the thread has others to serve
                entry.transfer.fail(error)
            finally:
                worker.transfer = None
                with self._lock:
                    self._count(entry, -1)

    def _next(self) -> tuple[_Entry, Work] | None:
        """Waits for something to do; None when the pool closes. Under lock."""
        while not self._closed:
            now = time.monotonic()
            self._recall(now)
            chosen = self._choose(now)
            if chosen is not None:
                if not self._crowded and any(group.queue for group in self._groups.values()):
                    self._call_thread()
                return chosen
            self._desk.leave()
            self._idle += 1
            try:
                self._wake.wait(self._later[0][0] - now if self._later else None)
            finally:
                self._idle -= 1
        return None

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
                self._enqueue(entry)

    def _choose(self, now: float) -> tuple[_Entry, Work] | None:
        small = self._large_ones >= self._connections + self._hanging
        for owner, group in sorted(self._groups.items(), key=lambda item: item[1].workers):
            begun = False
            while (entry := group.neediest(small=small, begun=begun)) is not None:
                answer = self._ask(entry, now)
                if not isinstance(answer, float):
                    if entry.small:  # one thread has all of it to do, unless that takes long
                        self._ask_later(group, entry, now + DUEL_AGE)
                    self._count(entry, 1)
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

    def _ask_later(self, group: _Group, entry: _Entry, due: float) -> None:
        group.queue.remove(entry)
        entry.queued = False
        if due != NEVER:
            entry.due = due
            heapq.heappush(self._later, (due, next(self._ticket), entry))

    def _ask(self, entry: _Entry, now: float) -> Work | float:
        answer = entry.transfer.take(now)
        if answer == CROWDED:
            self._crowded = True  # and only then the last look: what is given back after it is told of
            answer = entry.transfer.take(now)
        return answer

    def _count(self, entry: _Entry, by: int) -> None:
        """So many threads more work on it."""
        group = self._groups[entry.owner]
        group.workers += by
        entry.workers += by
        if not entry.small:
            self._large_ones += by
        if not group.workers and not group.queue:
            del self._groups[entry.owner]

    # Hashing

    def _hash_soon(self, work: Work) -> None:
        with self._hash_wake:
            self._to_hash.append(work)
            self._call_hasher()

    def _call_hasher(self) -> None:
        """There is something to hash. Under its lock."""
        if self._hash_idle:
            self._hash_wake.notify()
        elif len(self._hash_threads) < self._hashers and not self._nothing_comes:
            Worker.begin(self._hash, "towline-hash", self._hash_threads)

    def _hash(self, _: Worker) -> None:
        buffer = memoryview(bytearray(BLOCK_BYTES))
        while True:
            with self._hash_wake:
                while not self._to_hash:
                    if self._nothing_comes:
                        return
                    self._hash_idle += 1
                    try:
                        self._hash_wake.wait()
                    finally:
                        self._hash_idle -= 1
                work = self._to_hash.popleft()
            try:
                work(buffer)
            except Exception:  # noqa: BLE001 - as above
                _log.exception("a download failed by a fault in towline")

    # Signs of life

    def _call_signer(self) -> None:
        """Something may have to be signed for. Under lock."""
        if not self._signers and not self._closed:
            Worker.begin(self._sign, "towline-sign", self._signers)

    def _sign(self, worker: Worker) -> None:
        """Apart from all other threads, as they may be in the middle of a long wait for a disk. What does nothing but
        wait for its sources is not signed for: whoever follows it waits for them too.
        """
        before: dict[Any, Pulse] = {}
        while not self._closing.wait(SIGN_SECONDS):
            with self._lock:
                pulses = {place: place.pulse() for place in list(self._terms.places)}
                if not (self._entries or pulses):
                    self._signers.discard(worker)  # under the lock: the next fetch calls another
                    return
            for place, pulse in pulses.items():
                if pulse.rests or not pulse.waits or pulse != before.get(place):
                    place.sign()
            before = pulses
