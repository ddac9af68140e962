"""A blob while its place is ours: fetched in segments, written and journaled block by block, hashed behind that.

The pool's threads call `take` to learn what to do next, and do it. Stopping waits for nobody: whoever leaves last
closes the file and gives the place back.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Sequence
from functools import partial
from typing import cast

from towline.errors import Cancelled, SourceError, TowlineError
from towline.patience import Pulse
from towline.transfer.front import Front
from towline.transfer.growing import GrowingFile
from towline.transfer.journal import BLOCK_BYTES
from towline.transfer.pace import Pace
from towline.transfer.protocols import BlobSource, LargeStaging
from towline.transfer.reception import Reception
from towline.transfer.recovered import Block
from towline.transfer.segments import Plan, Segment
from towline.transfer.supplier import Supplier
from towline.transfer.suppliers import Suppliers
from towline.transfer.work import CROWDED, LOOK_AGAIN, NEVER, Crew, Terms, Wanted, Work, meaning

INLINE_BYTES = 4 << 20
"""Blobs up to this size are hashed by the thread that receives them: handing them over would cost more."""

LEAD_BYTES = 64 << 20
"""How far what arrives may be ahead of the hash. Where the hash is what a download waits for, to receive any faster
only takes the processor from it, and leaves a long wait after the last byte.
"""

TURN_BLOCKS = 16
"""What a hashing thread does for one blob before it is another's turn, so that a large pull holds up no small one."""

_HASH_PAUSE = 0.004


class Download:
    """See the module. Made by whoever holds the place's lock; it gives that back when it ended or was stopped.

    `shown` are the bytes to show: they never fall, and are less than all of them. The lock guards the plan, the
    suppliers, the pace, the receptions, `_hashing`, `_busy`, which counts the threads inside, and `_resting`, which
    counts those that wait for the disk or a limit, the one that begins at first; one thread at a time hashes, and has
    the front to itself. `_skipped_to` is how far sources that ignore ranges have sent since a byte was gained what was
    there already, `_crowded` whether all connections to those that may be asked were taken at the last look.
    """

    def __init__(self, blob: Wanted, terms: Terms, crew: Crew) -> None:
        self.digest = digest = blob.digest
        self.size = size = blob.size
        self.shown = 0
        self.step = min([BLOCK_BYTES, *(rate.step for rate in terms.rates)])
        self._suppliers = Suppliers(digest, blob.sources, terms.limits.refused_timeout, terms.large.slots)
        staging = cast("LargeStaging", blob.staging)
        self._growing = GrowingFile(staging, digest, size, writeback=terms.limits.writeback, syncing=terms.syncing)
        self._terms = terms
        self._crew = crew
        self._lock = threading.Lock()
        self._plan = Plan(size)
        self._pace = Pace(terms.limits.connections)
        self._front = Front()
        self._hashing = False
        self._receptions: dict[Segment, Reception] = {}
        self._last_error: SourceError | None = None
        self._received = 0
        self._skipped_to = 0
        self._crowded = False
        self._resting = 1
        self._recovered_to = 0
        self._inherited = False
        self._discard = False
        self._busy = 1
        self._over = threading.Event()
        terms.places.add(self)

    def begin(self) -> None:
        """Opens the file and goes on with what is there; once, and first. Raises nothing: see `Crew.ended`."""
        try:
            self._open()
            if self.size == 0:
                self._judge()
        except Exception as error:  # noqa: BLE001 - see `meaning`
            self._end(meaning(error, self.digest))
        finally:
            self._rest(-1)
            self._leave()

    def _open(self) -> None:
        found = self._growing.open()
        if not found.ranges:
            return
        with self._lock:
            self._inherited = bool(found.extents)
            self._plan = Plan(self.size, found.ranges)
            self._front = Front(found.blocks)
            self._recovered_to = max((stop for _, stop in self._plan.done), default=0)
            self._show()
            hashing = self._start_hashing()
        if hashing:
            self._hash_soon()

    def offer(self, sources: Sequence[BlobSource]) -> None:
        """Further sources, from another caller who wants the same blob."""
        with self._lock:
            new = self._suppliers.offer(sources)
        if new:
            self._crew.poke()

    def take(self, now: float) -> Work | float:
        """What a free thread should do now; or the time of `time.monotonic` at which to ask again, `NEVER` or
        `CROWDED`.
        """
        with self._lock:
            try:
                work = self._take(now)
            except Exception as error:  # noqa: BLE001 - see `meaning`
                work = meaning(error, self.digest)
            self._crowded = work == CROWDED
        if isinstance(work, TowlineError):
            failure = work
            return lambda _: self._end(failure)
        return work

    def stop(self) -> None:
        """Nobody wants it any longer: what arrived stays. From any thread, any number of times."""
        self._finish()

    def sign(self) -> None:
        """Leaves a sign of life for other processes. From any thread, whatever the others wait for."""
        with contextlib.suppress(OSError):  # a place that was lost is noticed by who writes to it
            self._growing.sign()

    def pulse(self) -> Pulse:
        """What it does, at a glance."""
        waits = not self._plan.complete and bool(self._receptions or not self._crowded)
        return Pulse(self._received, self._front.position, waits=waits, rests=self._resting > 0)

    def silent(self, now: float) -> int:
        """How many of its connections have brought nothing for a while."""
        with self._lock:
            return len(self._plan.silent(now))

    @property
    def trouble(self) -> str:
        """Why bytes lack: the last that a source said of it."""
        return self._suppliers.trouble(self._last_error)

    # Taking

    def _take(self, now: float) -> Work | float | TowlineError:
        if self._over.is_set():
            return NEVER
        picked = self._suppliers.pick(now)
        if isinstance(picked, Supplier):
            return self._take_segment(picked, now)
        if picked == CROWDED:
            return CROWDED
        if self._plan.active or self._plan.complete:
            return now + LOOK_AGAIN
        if picked is not None:
            return picked
        return now if self._suppliers.turn_back() else self._suppliers.failure

    def _take_segment(self, supplier: Supplier, now: float) -> Work | float:
        plan = self._plan
        segment = self._next_segment(supplier.source, now)
        late = self._cancel_overtaken()
        if segment is None:
            return now + LOOK_AGAIN if plan.active else NEVER
        silent = [self._receptions[each] for each in plan.silent(now) if each in self._receptions]
        supplier = self._suppliers.spare(supplier, [each.supplier for each in (*late, *silent)], now)
        reception = self._receptions[segment] = Reception(plan, segment, supplier, self)
        work = partial(self._fetch, reception)
        if not self._terms.large.slots.take(str(supplier.source)):  # last: nothing after it may fail
            del self._receptions[segment]
            plan.release(segment)  # another blob's thread was faster
            return CROWDED
        self._busy += 1
        return work

    def _next_segment(self, source: BlobSource, now: float) -> Segment | None:
        plan, pace = self._plan, self._pace
        if not source.ranged:
            return plan.next(now, whole=True) if not plan.active else None
        allowed = min(pace.connections + len(plan.silent(now)), self._terms.limits.connections)
        if len(plan.active) < allowed:
            return plan.next(now, typical=pace.typical)
        if len(plan.active) > self._terms.limits.connections:
            return None
        # Connections that wait for a limit of bandwidth are not slow.
        rescued = plan.rescue(now, typical=pace.typical) if not self._terms.rates else None
        return rescued or (plan.duel(now) if len(plan.silent(now)) == len(plan.active) else None)

    def _cancel_overtaken(self) -> list[Reception]:
        late = [reception for reception in self._receptions.values() if reception.segment.overtaken]
        for reception in late:
            reception.cancel()
        return late

    # Fetching

    def _fetch(self, reception: Reception, buffer: memoryview) -> None:
        error: TowlineError | None = None
        try:
            reception.receive(buffer)
        except Exception as caught:  # noqa: BLE001 - see `meaning`
            error = meaning(caught, self.digest)
        finally:
            self._part(reception)
        try:
            self._learn(reception, error)
        finally:
            self._leave()
        if not self._over.is_set():
            self._crew.poke()

    def _part(self, reception: Reception) -> None:
        """The connection is through with its segment, well or not."""
        with self._lock:
            del self._receptions[reception.segment]
            reception.plan.release(reception.segment)
        self._terms.large.slots.give_back(str(reception.supplier.source))

    def _learn(self, reception: Reception, error: TowlineError | None) -> None:
        """What its end says of the source, or of the whole download."""
        if error is None and not reception.segment.overtaken:
            with self._lock:
                reception.supplier.completes()
        elif isinstance(error, SourceError):
            with self._lock:
                reception.supplier.failed(error, time.monotonic(), endless=self._crew.endless())
                self._last_error = error
        elif error is not None and not isinstance(error, Cancelled):
            self._end(error)

    def arrived(self, count: int) -> None:
        """See `Receiver`."""
        now = time.monotonic()
        pause = max((rate.spend(count, now) for rate in self._terms.rates), default=0.0)
        if pause:
            self._rest(1)
            try:
                if self._over.wait(pause):
                    raise Cancelled("the download was stopped")
            finally:
                self._rest(-1)

    def _rest(self, change: int) -> None:
        with self._lock:
            self._resting += change

    def skipped(self, position: int) -> None:
        """See `Receiver`. Counts where it is further than before: what always ends at the same place brings nothing."""
        self._terms.traffic.moves += 1
        with self._lock:
            self._received += max(0, position - self._skipped_to)
            self._skipped_to = max(self._skipped_to, position)

    def gained(self, reception: Reception, count: int) -> None:
        """See `Receiver`."""
        self._terms.traffic.moves += 1
        now = time.monotonic()
        with self._lock:
            self._received += count
            self._skipped_to = 0
            overtaken = reception.plan.received(reception.segment, count, now)
            late = self._receptions.get(overtaken) if overtaken is not None else None
            more = self._pace.received(count, now)
        if late is not None:
            late.cancel()
        if more:
            self._crew.poke()

    def keep(self, reception: Reception, buffer: memoryview, length: int) -> None:
        """Writes and journals a block, and lets the hash keep up; what another segment took over is dropped."""
        with self._lock:
            start, count = reception.plan.claim(reception.segment, length)
            self._resting += 1
        try:
            if count:
                self._write(reception, start, buffer[:count])
        finally:
            self._rest(-1)
        if count:
            self._follow_up(buffer, start, count)
            self._hold_to_hash()

    def _hold_to_hash(self) -> None:
        while self._lead() > LEAD_BYTES:
            if self._over.wait(_HASH_PAUSE):
                raise Cancelled("the download was stopped")

    def _lead(self) -> int:
        """Bytes that came and that the hash could take. What an earlier run left does not count: it was not received
        too fast, and the hash may have to wait for the disk.
        """
        with self._lock:
            position = self._front.position
            return self._plan.done.run_from(position) - position if position >= self._recovered_to else 0

    def _write(self, reception: Reception, start: int, block: memoryview) -> None:
        plan, stop = reception.plan, start + len(block)
        try:
            self._growing.write(block, start)
        except BaseException:
            with self._lock:
                plan.unclaim(start, stop)
            raise
        with self._lock:
            plan.landed(start, stop)
            reception.supplier.delivers()
            self._last_error = None
            self._show()

    def _follow_up(self, buffer: memoryview, start: int, count: int) -> None:
        """A block was written: sees to it that it is hashed, a small blob's by this very thread."""
        with self._lock:
            hashing = self._start_hashing()
        if not hashing:
            return
        if self.size > INLINE_BYTES:
            self._hash_soon()
        else:
            self._advance(buffer, count if self._front.position == start else 0)

    # Hashing

    def _start_hashing(self) -> bool:
        """Whether the caller must see to hashing: something can be hashed and nobody does. Under lock."""
        position = self._front.position
        if self._hashing or self._over.is_set() or self._plan.done.run_from(position) <= position:
            return False
        self._hashing = True
        self._busy += 1
        return True

    def _hash_soon(self) -> None:
        """Has a hashing thread go on with it, in the turn of the calling one."""
        try:
            self._crew.hash_soon(self._advance)
        except Exception as error:  # noqa: BLE001 - see `meaning`
            self._end(meaning(error, self.digest))
            self._leave()

    def _advance(self, buffer: memoryview, count: int = 0) -> None:
        """Hashes what can be hashed, for a turn: first so many bytes of the buffer."""
        if self._hash(buffer, count):
            self._hash_soon()
        else:
            self._leave()

    def _hash(self, buffer: memoryview, count: int) -> bool:
        """Whether there is more, for another turn."""
        try:
            if count:
                self._feed(buffer[:count])
            for _ in range(TURN_BLOCKS):
                step = self._step()
                if step is None:
                    return False
                length, block = step
                if not length:
                    self._judge()
                    return False
                data = buffer[:length]
                self._read(data)
                if block is None or block.matches(data):
                    self._feed(data)
                else:
                    self._disbelieve(block)
        except Exception as error:  # noqa: BLE001 - see `meaning`
            self._end(meaning(error, self.digest))
            return False
        return True

    def _read(self, buffer: memoryview) -> None:
        self._terms.traffic.moves += 1
        self._rest(1)
        try:
            self._growing.read(buffer, self._front.position)
        finally:
            self._rest(-1)

    def _feed(self, data: memoryview) -> None:
        start = self._front.position
        self._front.feed(data)
        self._growing.hashed(start, data)

    def _step(self) -> tuple[int, Block | None] | None:
        """What to hash next; with None hashing is over for now, and the next bytes that land start it again.

        A length of 0 means that all is hashed: whoever is told so judges, and nobody else, as `_hashing` stays.
        """
        with self._lock:
            if not self._over.is_set() and self._front.position == self.size:
                return 0, None
            stop = self._plan.done.run_from(self._front.position)
            if self._over.is_set() or stop <= self._front.position:
                self._hashing = False
                return None
            return self._front.step(stop)

    def _disbelieve(self, block: Block) -> None:
        """The disk does not hold what the journal says: those bytes are fetched again."""
        with self._lock:
            self._front.disbelieve(block)
            self._plan.unclaim(block.start, block.stop)
        self._crew.poke()

    def _judge(self) -> None:
        """All bytes are there and hashed: right, or all again."""
        if self._front.digest() == self.digest:
            self._rest(1)
            self._growing.finish(self._finished)
            return
        with self._lock:
            again = self._may_begin_anew()
        if again:
            self._begin_anew()
        else:
            self._discard = True
            self._end(self._suppliers.mismatch)

    def _finished(self, error: TowlineError | None) -> None:
        self._rest(-1)
        self._end(error)

    def _may_begin_anew(self) -> bool:
        """Whether to fetch all bytes again is any use. Under lock."""
        inherited, self._inherited = self._inherited, False  # what another program left may well be what was wrong
        return inherited or (self.size > 0 and self._suppliers.blame())

    def _begin_anew(self) -> None:
        """Forgets all bytes. Raises OSError."""
        self._growing.forget()  # before any of them is asked for again
        with self._lock:
            self._hashing = False
            self._plan = Plan(self.size)
            self._front = Front()
            self._recovered_to = self._skipped_to = 0
        self._crew.poke()

    # Ending

    def _show(self) -> None:
        self.shown = max(self.shown, min(self._plan.done.total, max(self.size - 1, 0)))

    def _end(self, error: TowlineError | None) -> None:
        if self._finish():
            self._crew.ended(error)

    def _finish(self) -> bool:
        """Whether this was the end, and not an earlier call."""
        with self._lock:
            if self._over.is_set():
                return False
            self._over.set()
            self._busy += 1
            receptions = list(self._receptions.values())
        for reception in receptions:
            reception.cancel()
        self._leave()
        return True

    def _leave(self) -> None:
        """A thread is through; the last one to leave a download that is over closes its place."""
        with self._lock:
            self._busy -= 1
            last = not self._busy and self._over.is_set()
        if last:
            self._growing.close(partial(self._terms.places.discard, self), keep=not self._discard)
