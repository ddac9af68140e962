"""A blob while its place is ours: fetched in segments, written and journaled block by block, hashed behind that.

The pool's threads call `take` to learn what to do next, and do it. Stopping waits for nobody: whoever leaves last
closes the file and gives the place back.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence

from towline.errors import Cancelled, SourceBusy, SourceError, TowlineError, TransferError
from towline.model.digest import Digest
from towline.transfer.front import Front
from towline.transfer.growing import GrowingFile
from towline.transfer.journal import BLOCK_BYTES, Block
from towline.transfer.pace import Pace
from towline.transfer.protocols import BlobSource, ByteStream, Staging
from towline.transfer.rate import Rate
from towline.transfer.segments import Plan, Segment
from towline.transfer.slots import Slots
from towline.transfer.supplier import Supplier
from towline.transfer.suppliers import Suppliers
from towline.transfer.work import CROWDED, LOOK_AGAIN, NEVER, Crew, Limits, Work, meaning

INLINE_BYTES = 4 << 20
"""Blobs up to this size are hashed by the thread that receives them: handing them over would cost more."""

LEAD_BYTES = 64 << 20
"""How far what arrives may be ahead of the hash. Where the hash is what a download waits for, to receive any faster
only takes the processor from it, and leaves a long wait after the last byte.
"""

FLUSH_SECONDS = 0.5
"""A block that fills slower than this is written as far as it is, and so is one whose connection falls silent: progress
shows, and little is lost to a crash.
"""

TURN_BLOCKS = 16
"""What a hashing thread does for one blob before it is another's turn, so that a large pull holds up no small one."""

_HASH_PAUSE = 0.004


class Download:
    """See the module. Made by whoever holds the place's lock; it gives that back when it ended or was stopped.

    `shown` are the bytes to show: they never fall, and are less than all of them.
    """

    def __init__(
        self,
        digest: Digest,
        size: int,
        sources: Sequence[BlobSource],
        staging: Staging,
        limits: Limits,
        *,
        slots: Slots,
        rates: Sequence[Rate],
        crew: Crew,
    ) -> None:
        self.digest = digest
        self.size = size
        self.shown = 0
        self._suppliers = Suppliers(digest, sources, limits.refused_timeout, slots)
        self._growing = GrowingFile(staging, digest, size, writeback=limits.writeback)
        self._limits = limits
        self._slots = slots
        self._rates = rates
        self._crew = crew
        self._lock = threading.Lock()
        self._plan = Plan(size)
        self._pace = Pace(limits.connections)
        self._front = Front()
        self._hashing = False
        self._streams: dict[Segment, ByteStream] = {}
        self._fed_by: dict[Segment, Supplier] = {}
        self._last_error: SourceError | None = None
        self._last_byte = self._ready_at = time.monotonic()
        self._recovered_to = 0
        self._inherited = False
        self._discard = False
        self._busy = 1
        self._over = threading.Event()

    def begin(self) -> None:
        """Opens the file and goes on with what is there; once, and first. Raises nothing: see `Crew.ended`."""
        try:
            self._open()
            if self.size == 0:
                self._judge()
        except Exception as error:  # noqa: BLE001 - see `meaning`
            self._end(meaning(error, self.digest))
        finally:
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
            self._crew.hash_soon(self._advance)

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
        if isinstance(work, TowlineError):
            failure = work
            return lambda _: self._end(failure)
        return work

    def stop(self) -> None:
        """Nobody wants it any longer: what arrived stays. From any thread, any number of times."""
        self._finish()

    # Taking

    def _take(self, now: float) -> Work | float | TowlineError:
        if self._over.is_set():
            return NEVER
        picked = self._suppliers.pick(now)
        if isinstance(picked, Supplier) and not self._plan.active:
            self._forgive_waiting(max(self._ready_at, picked.not_before), now)
        if picked == CROWDED:
            if not self._plan.active:
                self._forgive_waiting(self._ready_at, now)
            return CROWDED
        deadline = self._last_byte + self._limits.stall_timeout
        if now >= deadline and (self._last_error or self._plan.active):
            return self._stalled()
        if isinstance(picked, Supplier):
            return self._take_segment(picked, now)
        if self._plan.active or self._plan.complete:
            return now + LOOK_AGAIN
        if picked is not None:
            return min(picked, deadline)
        return now if self._suppliers.turn_back() else self._suppliers.failure

    def _forgive_waiting(self, since: float, now: float) -> None:
        """To wait for a free thread is no stall."""
        self._last_byte += max(0.0, now - since)
        self._ready_at = now

    def _take_segment(self, supplier: Supplier, now: float) -> Work | float:
        plan = self._plan
        segment = self._next_segment(supplier.source, now)
        late = self._cancel_overtaken()
        if segment is None:
            return now + LOOK_AGAIN if plan.active else NEVER
        slow = (self._fed_by[each] for each in (*late, *plan.silent(now)) if each in self._fed_by)
        supplier = self._suppliers.spare(supplier, slow, now)
        if not self._slots.take(str(supplier.source)):
            plan.release(segment)  # another blob's thread was faster
            return CROWDED
        self._fed_by[segment] = supplier
        self._busy += 1
        return lambda buffer: self._fetch(plan, segment, supplier, buffer)

    def _next_segment(self, source: BlobSource, now: float) -> Segment | None:
        plan, pace = self._plan, self._pace
        if not source.ranged:
            return plan.next(now, whole=True) if not plan.active else None
        allowed = min(pace.connections + len(plan.silent(now)), self._limits.connections)
        if len(plan.active) < allowed:
            return plan.next(now, typical=pace.typical)
        if self._rates:
            return None  # connections that wait for the limit are not slow
        return plan.rescue(now, typical=pace.typical) if len(plan.active) <= self._limits.connections else None

    def _cancel_overtaken(self) -> list[Segment]:
        late = [segment for segment in self._streams if segment.overtaken]
        for segment in late:
            self._streams[segment].cancel()
        return late

    def _stalled(self) -> TowlineError:
        why = str(self._last_error or f"{self._suppliers} sends nothing")
        return TransferError(f"no data for {self._limits.stall_timeout:g} s: {why}; pull again to go on from here")

    # Fetching

    def _fetch(self, plan: Plan, segment: Segment, supplier: Supplier, buffer: memoryview) -> None:
        error: TowlineError | None = None
        try:
            self._receive(plan, segment, supplier, buffer)
        except Exception as caught:  # noqa: BLE001 - see `meaning`
            error = meaning(caught, self.digest)
        now = time.monotonic()
        with self._lock:
            self._streams.pop(segment, None)
            self._fed_by.pop(segment, None)
            self._slots.give_back(str(supplier.source))
            plan.release(segment)
            if not plan.active:
                self._ready_at = now
            if isinstance(error, SourceError):
                supplier.failed(error, now)
                self._last_error = error
        if error is not None and not isinstance(error, (SourceError, Cancelled)):
            self._end(error)
        self._leave()
        if not self._over.is_set():
            self._crew.poke()

    def _receive(self, plan: Plan, segment: Segment, supplier: Supplier, buffer: memoryview) -> None:
        """Reads the segment and writes it in blocks, as long as nobody takes it over."""
        start = segment.pos if supplier.source.ranged else 0
        stream = supplier.source.open(start, segment.stop)
        with self._lock:
            if self._over.is_set():
                raise Cancelled("the download was stopped")
            self._streams[segment] = stream
        with stream:
            self._skip(stream, segment.pos - start, buffer)
            self._fill(stream, plan, segment, supplier, buffer)

    def _skip(self, stream: ByteStream, count: int, buffer: memoryview) -> None:
        """Reads and drops what comes before the segment, from a source that ignores ranges."""
        while count:
            count -= self._read(stream, buffer[:count])

    def _fill(self, stream: ByteStream, plan: Plan, segment: Segment, supplier: Supplier, buffer: memoryview) -> None:
        filled = 0
        written = time.monotonic()
        try:
            while room := buffer[filled : segment.remaining]:
                count = self._read(stream, room)
                if count:
                    filled += count
                    self._note(segment, count)
                whole = filled >= min(BLOCK_BYTES, segment.remaining)
                if whole or (filled and (not count or self._last_byte - written >= FLUSH_SECONDS)):
                    length, filled, written = filled, 0, self._last_byte
                    self._write(plan, segment, supplier, buffer, length)
                    self._hold_to_hash()
        finally:
            if filled:
                self._write(plan, segment, supplier, buffer, filled)

    def _read(self, stream: ByteStream, room: memoryview) -> int:
        """Takes what has come, and holds to the limits of bandwidth; 0 where nothing came for a moment."""
        step = min([BLOCK_BYTES, *(rate.step for rate in self._rates)])
        count = stream.readinto(room[:step])
        if count is None:
            return 0
        if not count:
            raise SourceBusy("the source ended early")
        self._last_byte = time.monotonic()
        self._hold_to_rates(count, self._last_byte)
        return count

    def _hold_to_rates(self, count: int, now: float) -> None:
        pause = max((rate.spend(count, now) for rate in self._rates), default=0.0)
        if pause and self._over.wait(pause):
            raise Cancelled("the download was stopped")
        if pause:
            self._last_byte = time.monotonic()

    def _hold_to_hash(self) -> None:
        while self._lead() > LEAD_BYTES:
            if self._over.wait(_HASH_PAUSE):
                raise Cancelled("the download was stopped")
            self._last_byte = time.monotonic()

    def _lead(self) -> int:
        """Bytes that came and that the hash could take. What an earlier run left does not count: it was not received
        too fast, and the hash may have to wait for the disk.
        """
        with self._lock:
            position = self._front.position
            return self._plan.done.run_from(position) - position if position >= self._recovered_to else 0

    def _note(self, segment: Segment, count: int) -> None:
        segment.received += count
        with self._lock:
            more = self._pace.received(count, self._last_byte)
        if more:
            self._crew.poke()

    def _write(self, plan: Plan, segment: Segment, supplier: Supplier, buffer: memoryview, length: int) -> None:
        """Writes and journals the block at the start of `buffer`; what another segment took over is dropped."""
        with self._lock:
            start, count = plan.claim(segment, length)
        if not count:
            return
        block = buffer[:count]
        try:
            self._growing.write(block, start)
        except OSError:
            with self._lock:
                plan.unclaim(start, start + count)
            raise
        with self._lock:
            plan.landed(start, start + count)
            supplier.delivers()
            self._last_error = None
            self._show()
            hashing = self._start_hashing()
        if not hashing:
            return
        if self.size <= INLINE_BYTES:
            if self._front.position == start:
                self._front.feed(block)
            self._advance(buffer)
        else:
            self._crew.hash_soon(self._advance)

    # Hashing

    def _start_hashing(self) -> bool:
        """Whether the caller must see to hashing: something can be hashed and nobody does. Under lock."""
        position = self._front.position
        if self._hashing or self._over.is_set() or self._plan.done.run_from(position) <= position:
            return False
        self._hashing = True
        self._busy += 1
        return True

    def _advance(self, buffer: memoryview) -> None:
        """Hashes what can be hashed, for a turn."""
        if self._hash(buffer):
            self._crew.hash_soon(self._advance)
        else:
            self._leave()

    def _hash(self, buffer: memoryview) -> bool:
        """Whether there is more, for another turn."""
        try:
            for _ in range(TURN_BLOCKS):
                step = self._step()
                if step is None:
                    return False
                length, block = step
                if not length:
                    self._judge()
                    return False
                data = buffer[:length]
                self._growing.read(data, self._front.position)
                if block is None or block.matches(data):
                    self._front.feed(data)
                    self._growing.settle(self._front.position)
                else:
                    self._disbelieve(block)
        except Exception as error:  # noqa: BLE001 - see `meaning`
            self._end(meaning(error, self.digest))
            return False
        return True

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
            try:
                self._growing.finish()
            except TowlineError as error:
                self._end(error)
            else:
                self._end(None)
            return
        with self._lock:
            again = self._begin_anew()
        if again:
            self._crew.poke()
        else:
            self._discard = True
            self._end(self._suppliers.mismatch)

    def _begin_anew(self) -> bool:
        """Forgets all bytes; False when to fetch them again is no use. Under lock."""
        if not self._inherited and not (self.size and self._suppliers.blame()):
            return False
        self._inherited = False  # what another program left may well have been what was wrong
        self._hashing = False
        self._plan = Plan(self.size)
        self._front = Front()
        self._growing.forget()
        self._last_byte = self._ready_at = time.monotonic()
        return True

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
            streams = list(self._streams.values())
        for stream in streams:
            stream.cancel()
        self._leave()
        return True

    def _leave(self) -> None:
        """A thread is through; the last one to leave a download that is over closes its place."""
        with self._lock:
            self._busy -= 1
            last = not self._busy and self._over.is_set()
        if last:
            self._growing.close(keep=not self._discard)
