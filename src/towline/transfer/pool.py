"""The threads that carry blobs: bounded for the process, shared fairly between the pulls."""

from __future__ import annotations

import mmap
import threading
import time
from collections.abc import Hashable, Sequence
from dataclasses import replace
from typing import Any

from towline.model.digest import Digest
from towline.patience import Life, Patience, Pulse
from towline.transfer import desk
from towline.transfer.blob import BlobTransfer
from towline.transfer.desk import Desk
from towline.transfer.distances import Distances
from towline.transfer.growing import promised
from towline.transfer.hashing import LAST_WORD, Hashing
from towline.transfer.journal import BLOCK_BYTES
from towline.transfer.rate import Rate
from towline.transfer.schedule import Entry, Schedule
from towline.transfer.slots import Slots
from towline.transfer.syncing import Syncing
from towline.transfer.work import Limits, Room, Terms, Traffic, Wanted, Work
from towline.transfer.worker import Worker

_AT_ONCE = 64
"""How many blobs of a pull begin before the others are known: as many requests as go to a far host at once."""

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
        """How far the hosts of sources are."""
        self._connections = connections
        self._desk = Desk()
        self._syncing = Syncing(here=connections // 4)
        self._hashing = Hashing(hashers)
        self._terms = self._shared_terms(limits, connections_per_host)
        self._rates = [rate] if rate is not None else []
        self._lock = threading.Lock()
        self._wake = threading.Condition(self._lock)
        self._entries: dict[BlobTransfer, Entry] = {}
        self._by_blob: dict[tuple[Digest, int], Entry] = {}
        self._schedule = Schedule()
        self._idle = 0
        self._hanging = 0
        self._workers: set[Worker] = set()
        self._receivers: set[int] = set()
        self._signers: set[Worker] = set()
        self._closed = False
        self._closing = threading.Event()
        self._life = Life()

    def _shared_terms(self, limits: Limits, per_host: int) -> Terms:
        """Those of all pulls. Small blobs have more connections to a host that is far."""
        far = self.distances.far
        return Terms(
            limits=limits,
            large=self._room(Slots(per_host, self._freed), self._connections),
            small=self._room(
                Slots(per_host, self._freed, times=lambda host: MOST_THREADS if far(host) else 1),
                MOST_THREADS * self._connections,
            ),
            syncing=self._syncing,
            traffic=self.traffic,
            distances=self.distances,
            desk=self._desk,
            active=self.active,
            places=set(),
        )

    def _room(self, slots: Slots, threads: int) -> Room:
        return Room(slots, Slots(max(MOST_ACTIVE, 2 * threads), self._freed))

    def fetch(
        self, wanted: Sequence[Wanted], owner: Hashable, patience: Patience, *, rate: Rate | None = None
    ) -> list[Handle]:
        """Begins the transfers of these blobs, or joins those that are under way; a handle for each, in order.

        `owner` is the pull that they count for, `patience` its own, `rate` a limit of that pull beside the pool's own.
        The first `_AT_ONCE` begin before all are known: to take thousands in takes as long as many a way to a registry.
        """
        found = [promised(blob) if blob.staging.begun else 0 for blob in wanted]
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
                self._schedule.add(entry)
            if wanted:
                self._call_thread()  # which calls the next one, as long as there is work
                self._call_signer()
        return joined

    def _entry(self, blob: Wanted, found: int, terms: Terms, patience: Patience) -> Entry:
        transfer = BlobTransfer(blob, terms, patience, found=found, poke=self._poke, hash_soon=self._hashing.soon)
        entry = Entry(transfer, terms.owner)
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
        self._hashing.close(deadline - time.monotonic())  # only now: a receiving thread hands it what it wrote
        for worker in list(self._signers):
            worker.join(max(LAST_WORD, deadline - time.monotonic()))
        self._syncing.close(max(LAST_WORD, deadline - time.monotonic()))

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
            self._schedule.crowded = False
            due = self._schedule.due
            if self._schedule.waiting or (due is not None and due <= time.monotonic()):
                self._call_thread()
            if self._entries or self._terms.places:
                self._call_signer()
        self._hashing.nudge()

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
                self._schedule.add(entry)
                self._call_thread()

    def _freed(self) -> None:
        """A connection or a place was given back. Whoever waits for one says so before the last look for it.

        A receiving thread looks for itself when it is through: to wake another one, each time, that finds nothing then
        costs more than a small blob.
        """
        if self._schedule.crowded and threading.get_ident() not in self._receivers:
            with self._lock:
                self._schedule.crowded = False
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
                    self._schedule.count(entry, -1)

    def _next(self) -> tuple[Entry, Work] | None:
        """Waits for something to do; None when the pool closes. Under lock."""
        while not self._closed:
            now = time.monotonic()
            small = self._schedule.large_ones >= self._connections + self._hanging
            chosen = self._schedule.choose(now, small=small)
            if chosen is not None:
                if self._schedule.waiting and not self._schedule.crowded:
                    self._call_thread()
                return chosen
            self._desk.leave()
            due = self._schedule.due
            self._idle += 1
            try:
                self._wake.wait(due - now if due is not None else None)
            finally:
                self._idle -= 1
        return None

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
