"""A blob of up to a block while its place is ours: fetched whole into memory, and written once it is right.

There are models of thousands of such blobs: one costs a request and a few names of files, and little beside. Nothing of
one is recovered: to fetch it again costs less.
"""

from __future__ import annotations

import contextlib
import hashlib
import threading
import time
from collections.abc import Sequence
from functools import partial
from typing import cast

from towline.errors import Cancelled, SourceBusy, SourceError, TowlineError
from towline.patience import Pulse
from towline.transfer.protocols import BlobSource, ByteStream, SmallStaging
from towline.transfer.segments import DUEL_AGE, SILENT_AGE
from towline.transfer.supplier import Supplier
from towline.transfer.suppliers import Suppliers
from towline.transfer.work import CROWDED, LOOK_AGAIN, NEVER, Crew, Terms, Wanted, Work, meaning

_LONGEST_PAUSE = 0.05
"""Seconds of a limit's pause after which it is looked whether anybody still waits."""

_DRIP = 4 << 10
"""Bytes that a connection has to bring to be heard anew. With fewer in `DUEL_AGE` a blob may take most of an hour, and
64 connections that share a slow link bring as much each where it carries 52 KB a second.
"""


class _Attempt:
    """One request for the blob. `heard` is when the last bytes came that are no drip, or it began; ahead of the time
    where a limit of bandwidth has it rest until then. `received` is how many had come by then.
    """

    __slots__ = ("cancelled", "heard", "received", "stream", "supplier")

    def __init__(self, supplier: Supplier, now: float) -> None:
        self.supplier = supplier
        self.heard = now
        self.received = 0
        self.stream: ByteStream | None = None
        self.cancelled = False

    def hears(self, filled: int, now: float) -> None:
        """So many bytes have come in all."""
        if not self.received or filled - self.received >= _DRIP:
            self.received, self.heard = filled, now

    def cancel(self) -> None:
        """From any thread, any number of times."""
        self.cancelled = True  # before the look at the stream, as whoever opens it looks here after that
        if self.stream is not None:
            self.stream.cancel()


class SmallDownload:
    """See the module: what a `Download` is to larger blobs. The lock guards the suppliers, the attempts and the flags;
    `_busy` counts the threads inside, and the last one that leaves when it is over gives the place back.
    """

    __slots__ = (
        "_attempts",
        "_busy",
        "_crew",
        "_crowded",
        "_keeping",
        "_last_error",
        "_lock",
        "_over",
        "_received",
        "_released",
        "_resting",
        "_staging",
        "_suppliers",
        "_terms",
        "digest",
        "shown",
        "size",
    )

    def __init__(self, blob: Wanted, terms: Terms, crew: Crew) -> None:
        self.digest = blob.digest
        self.size = blob.size
        self.shown = 0
        self._suppliers = Suppliers(blob.digest, blob.sources, terms.limits.refused_timeout, terms.small.slots)
        self._staging = cast("SmallStaging", blob.staging)
        self._terms = terms
        self._crew = crew
        self._lock = threading.Lock()
        self._attempts: list[_Attempt] = []
        self._last_error: SourceError | None = None
        self._received = 0
        self._busy = 1
        self._crowded = False
        self._keeping = False
        self._resting = False
        self._over = False
        self._released = False
        terms.places.add(self)

    def begin(self) -> None:
        """Takes what is there if a last step failed before; once, and first. Raises nothing: see `Crew.ended`."""
        try:
            if not self.size:
                self._keep_nothing()
            elif self._staging.begun:
                self._try_again()
        except Exception as error:  # noqa: BLE001 - see `meaning`
            self._end(meaning(error, self.digest))
        finally:
            self._leave()

    def _keep_nothing(self) -> None:
        if self._is_right(b""):
            self._keep(memoryview(b""))
        else:
            self._end(self._suppliers.mismatch)

    def _try_again(self) -> None:
        """What was fetched and could not be made to last is not fetched anew."""
        if self._is_right(self._staging.read()):
            self._keeping = True
            self._keep_soon()

    def offer(self, sources: Sequence[BlobSource]) -> None:
        """Further sources, from another caller who wants the same blob."""
        with self._lock:
            new = self._suppliers.offer(sources)
        if new:
            self._crew.poke()

    def stop(self) -> None:
        """Nobody wants it any longer. From any thread, any number of times."""
        self._finish()

    def sign(self) -> None:
        """Leaves a sign of life for other processes. From any thread, whatever the others wait for."""
        with self._lock, contextlib.suppress(OSError):
            if not self._released:
                self._staging.sign()

    def pulse(self) -> Pulse:
        """What it does, at a glance."""
        waits = not self._keeping and bool(self._attempts or not self._crowded)
        return Pulse(self._received, waits=waits, rests=self._keeping or self._resting)

    def silent(self, now: float) -> int:
        """How many of its connections have brought nothing for a while."""
        with self._lock:
            return sum(now - attempt.heard > SILENT_AGE for attempt in self._attempts)

    @property
    def trouble(self) -> str:
        """Why bytes lack: the last that a source said of it."""
        return self._suppliers.trouble(self._last_error)

    # Taking

    def take(self, now: float) -> Work | float:
        """What a free thread should do now; or the time of `time.monotonic` at which to ask again, `NEVER` or
        `CROWDED`.
        """
        with self._lock:
            if self._over or self._keeping:
                return NEVER
            picked = self._suppliers.pick(now)
            self._crowded = picked == CROWDED
            if isinstance(picked, Supplier):
                work = self._attempt(picked, now)
                self._crowded = work == CROWDED
                return work
            if picked == CROWDED:
                return CROWDED
            if self._attempts:
                return now + LOOK_AGAIN
            if picked is not None:
                return picked
            if self._suppliers.turn_back():
                return now
            failure = self._suppliers.failure
        return lambda _: self._end(failure)

    def _attempt(self, supplier: Supplier, now: float) -> Work | float:
        """A request to the supplier, a second one where the first has waited long for its next byte. Under lock."""
        if self._attempts:
            first = self._attempts[0]
            if len(self._attempts) > 1:
                return NEVER
            if now - first.heard < DUEL_AGE:
                return first.heard + DUEL_AGE
            supplier = self._suppliers.spare(supplier, [first.supplier], now)
        if not self._terms.small.slots.take(str(supplier.source)):
            return CROWDED
        attempt = _Attempt(supplier, now)
        self._attempts.append(attempt)
        self._busy += 1
        return partial(self._fetch, attempt)

    # Fetching

    def _fetch(self, attempt: _Attempt, buffer: memoryview) -> None:
        error: TowlineError | None = None
        try:
            data = self._receive(attempt, buffer)
            right = self._is_right(data)
        except Exception as caught:  # noqa: BLE001 - see `meaning`
            error = meaning(caught, self.digest)
        with self._lock:
            self._attempts.remove(attempt)
        self._terms.small.slots.give_back(str(attempt.supplier.source))
        try:
            if error is not None:
                self._learn(attempt.supplier, error)
            elif right:
                self._keep(data)
            else:
                self._reject(attempt.supplier)
        except Exception as caught:  # noqa: BLE001 - see `meaning`
            self._end(meaning(caught, self.digest))
        self._leave()
        if not (self._over or self._keeping):
            self._crew.poke()

    def _receive(self, attempt: _Attempt, buffer: memoryview) -> memoryview:
        """The whole blob, at the start of the buffer. Raises SourceError, Cancelled."""
        source = attempt.supplier.source
        stream = attempt.stream = source.open(0, self.size)
        stream.waits_within(self._terms.desk.away)
        if attempt.cancelled:
            raise Cancelled("the download was stopped")
        with stream:
            filled = 0
            while filled < self.size:
                count = stream.readinto(buffer[filled : self.size])
                if count is None:
                    continue
                if not count:
                    raise SourceBusy("the source ended early")
                filled += count
                now = time.monotonic()
                attempt.hears(filled, now)
                if filled == count:
                    self._terms.distances.note(str(source), stream.waited)
                self._arrived(attempt, filled, count, now)
        return buffer[:filled]

    def _arrived(self, attempt: _Attempt, filled: int, count: int, now: float) -> None:
        """So many bytes came. Waits as the limits of bandwidth say. Raises Cancelled."""
        self._terms.traffic.moves += 1
        self._received += count
        self.shown = max(self.shown, min(filled, self.size - 1))
        pause = max((rate.spend(count, now) for rate in self._terms.rates), default=0.0)
        if not pause:
            return
        self._resting = True
        try:
            until = attempt.heard = now + pause
            with self._terms.desk.away:
                while (left := until - time.monotonic()) > 0:
                    if self._over:
                        raise Cancelled("the download was stopped")
                    time.sleep(min(left, _LONGEST_PAUSE))
        finally:
            self._resting = False

    def _is_right(self, data: memoryview | bytes) -> bool:
        return hashlib.sha256(data).hexdigest() == self.digest.hex

    def _learn(self, supplier: Supplier, error: TowlineError) -> None:
        """What a failure says of the source, or of the whole download."""
        if isinstance(error, SourceError):
            with self._lock:
                supplier.failed(error, time.monotonic(), endless=self._crew.endless())
                self._last_error = error
        elif not isinstance(error, Cancelled):
            self._end(error)

    def _reject(self, supplier: Supplier) -> None:
        """The bytes are wrong: asks one source alone, as long as that is any use."""
        with self._lock:
            supplier.completes()
            supplier.delivers()
            again = self._suppliers.blame()
        if not again:
            self._end(self._suppliers.mismatch)

    # Keeping

    def _keep(self, data: memoryview) -> None:
        """The bytes are right: writes them, and has them made to last. Raises OSError."""
        with self._lock:
            if self._keeping or self._over:
                return  # another attempt was first
            self._keeping = True
            late = list(self._attempts)
        for attempt in late:
            attempt.cancel()
        self._staging.write(data)
        self._keep_soon()

    def _keep_soon(self) -> None:
        with self._lock:
            self._busy += 1
        self._terms.syncing.promptly(self._made_last)

    def _made_last(self) -> None:
        error: TowlineError | None = None
        try:
            self._staging.keep()
        except Exception as caught:  # noqa: BLE001 - see `meaning`
            error = meaning(caught, self.digest)
        self._release()
        self._end(error)
        self._leave()

    # Ending

    def _end(self, error: TowlineError | None) -> None:
        if self._finish():
            self._crew.ended(error)

    def _finish(self) -> bool:
        """Whether this was the end, and not an earlier call."""
        with self._lock:
            if self._over:
                return False
            self._over = True
            late = list(self._attempts)
            last = not self._busy
        for attempt in late:
            attempt.cancel()
        if last:
            self._release()
        return True

    def _leave(self) -> None:
        with self._lock:
            self._busy -= 1
            last = not self._busy and self._over
        if last:
            self._release()

    def _release(self) -> None:
        """Gives the place back; any number of times."""
        with self._lock:
            if self._released:
                return
            self._released = True
        self._staging.release()
        self._terms.places.discard(self)
