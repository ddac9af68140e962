"""Which bytes of a blob to ask for next. Pure: no clock, no threads, no input or output.

A plan knows three kinds of bytes: *done* (on disk), *claimed by a segment* (some connection is after them), *missing*.
Every byte is in exactly one of them at any time. Segments are handed out in the order of the blob, so that the hash of
the contiguous front keeps up; where nothing is missing, a fresh connection takes over a part of a slower one's.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Iterator

SEGMENT_BYTES = 16 << 20
"""A segment's size: large enough that a round trip vanishes in it, small enough that the front is never far behind."""

STEAL_BYTES = 1 << 20
"""The least worth a new request: one step of writing."""

_RATE_WINDOW = 0.5
"""Seconds over which a connection's rate is measured: several round trips, and little against `_PATIENCE`."""

_PATIENCE = 1.0
"""Seconds before a slow connection is given up for another: it costs the pull that, and a request."""

_CRAWL = STEAL_BYTES // 2
"""Bytes a second under which a connection at the blob's end is given up whole."""

_STRAGGLER = 8
"""A connection so many times slower than usual is given up: less may be chance (`make bench ARGS="--only drop"`)."""

_MIN_TYPICAL = 64 << 10
"""Bytes a second: where even the usual is slower, another connection would be as slow."""

SILENT_AGE = 2.0
"""Seconds without a byte after which a connection is not counted among those that work."""

DUEL_AGE = 5.0
"""Seconds before its first byte after which a second connection asks for the same: a registry that fetches first and
answers then may take that long, and a connection that hangs takes for ever. Neither is given up before one of the two
brings a byte.
"""


class Ranges:
    """A set of bytes as sorted, disjoint, non-adjacent half-open ranges."""

    __slots__ = ("_starts", "_stops", "total")

    def __init__(self, ranges: Iterable[tuple[int, int]] = ()) -> None:
        self._starts: list[int] = []
        self._stops: list[int] = []
        self.total = 0
        for start, stop in ranges:
            self.add(start, stop)

    def __iter__(self) -> Iterator[tuple[int, int]]:
        return iter(zip(self._starts, self._stops, strict=True))

    def __bool__(self) -> bool:
        return bool(self._starts)

    def add(self, start: int, stop: int) -> None:
        """Adds [start, stop); what is there already stays there."""
        if start >= stop:
            return
        low = bisect_left(self._stops, start)
        high = bisect_right(self._starts, stop)
        if low < high:
            start = min(start, self._starts[low])
            stop = max(stop, self._stops[high - 1])
            self.total -= sum(self._stops[i] - self._starts[i] for i in range(low, high))
        self._starts[low:high] = [start]
        self._stops[low:high] = [stop]
        self.total += stop - start

    def remove(self, start: int, stop: int) -> None:
        """Removes [start, stop), whether it is there or not."""
        low = bisect_right(self._stops, start)
        high = bisect_left(self._starts, stop)
        if start >= stop or low >= high:
            return
        kept = [(a, b) for a, b in ((self._starts[low], start), (stop, self._stops[high - 1])) if a < b]
        self.total -= sum(self._stops[i] - self._starts[i] for i in range(low, high))
        self.total += sum(b - a for a, b in kept)
        self._starts[low:high] = [a for a, _ in kept]
        self._stops[low:high] = [b for _, b in kept]

    def first(self) -> tuple[int, int]:
        """The lowest range. Raises IndexError when empty."""
        return self._starts[0], self._stops[0]

    def run_from(self, start: int) -> int:
        """Where the contiguous run that holds `start` ends; `start` itself where there is none."""
        index = bisect_right(self._starts, start) - 1
        return max(self._stops[index], start) if index >= 0 else start


class Segment:
    """Bytes [pos, stop) that one connection is after. The plan moves both ends; the connection reads them.

    `received` counts the bytes that arrived, also those that were not written yet. `patience` is the age in seconds
    from which another connection may take all of it over, `overtaken` that one has. `rival` is after the very same
    bytes: the one that brings the first of them keeps them.
    """

    __slots__ = ("_base", "_base_at", "_rate", "overtaken", "patience", "pos", "received", "rival", "started", "stop")

    def __init__(self, pos: int, stop: int, now: float, patience: float = _PATIENCE) -> None:
        self.pos = pos
        self.stop = stop
        self.started = now
        self.patience = patience
        self.overtaken = False
        self.received = 0
        self.rival: Segment | None = None
        self._base = 0
        self._base_at = now
        self._rate = 0.0

    @property
    def remaining(self) -> int:
        """Bytes not yet claimed for writing."""
        return self.stop - self.pos

    def rate(self, now: float) -> float:
        """Bytes a second over about the last half second; from the first byte on where that is younger."""
        span = now - self._base_at
        recent = (self.received - self._base) / span if span > 0 else 0.0
        if span >= _RATE_WINDOW:
            self._base, self._base_at, self._rate = self.received, now, recent
            return recent
        return self._rate if self._base else recent

    def begins(self, now: float) -> None:
        """Its first byte comes: the wait for that is no part of its rate."""
        self._base_at = now


class Plan:
    """The bytes of one blob of `size` bytes, of which `done` are on disk already. Not safe from threads by itself."""

    def __init__(self, size: int, done: Iterable[tuple[int, int]] = (), *, segment_bytes: int = SEGMENT_BYTES) -> None:
        self.size = size
        self.done = Ranges(done)
        self.active: list[Segment] = []
        self._latency = 0.0
        self._segment_bytes = segment_bytes
        self._missing = Ranges([(0, size)])
        for start, stop in self.done:
            self._missing.remove(start, stop)

    @property
    def complete(self) -> bool:
        """Whether every byte is on disk."""
        return self.done.total == self.size

    def next(self, now: float, *, whole: bool = False, typical: float = 0.0) -> Segment | None:
        """The segment that a free connection should fetch now; None when there is nothing for it.

        `whole` asks for everything up to the next bytes that are there: for a source that ignores ranges.
        `now` is in seconds, of any clock that does not go back; `typical` as for `rescue`.
        """
        if not whole and (rescued := self.rescue(now, typical=typical)) is not None:
            return rescued
        if self._missing:
            start, stop = self._missing.first()
            if not whole:
                stop = min(stop, start + self._segment_bytes)
            self._missing.remove(start, stop)
            return self._begin(start, stop, now)
        return None if whole else self._split(now) or self.duel(now)

    def rescue(self, now: float, *, typical: float = 0.0) -> Segment | None:
        """What is left of the first segment that is far slower than its fellows are, or than `typical`, the bytes a
        second that one connection brought lately; None where all keep up. The slow one is left with nothing.
        """
        rates = sorted(segment.rate(now) for segment in self.active)
        if len(rates) > 1:
            typical = max(typical, rates[len(rates) // 2])
        slow = [
            segment
            for segment in self.active
            if segment.remaining and segment.received and now - segment.started > segment.patience
            if segment.rate(now) * _STRAGGLER < typical and typical > _MIN_TYPICAL
        ]
        late = min(slow, key=lambda segment: segment.pos, default=None)
        return self._take_over(late, late.pos, now) if late is not None else None

    def duel(self, now: float) -> Segment | None:
        """A second segment over the bytes of the first one that has waited long for its first byte."""
        late = (s for s in self.active if not (s.received or s.rival) and s.remaining and now - s.started >= DUEL_AGE)
        first = min(late, key=lambda segment: segment.pos, default=None)
        if first is None:
            return None
        second = self._begin(first.pos, first.stop, now)
        first.rival, second.rival = second, first
        return second

    def received(self, segment: Segment, count: int, now: float) -> Segment | None:
        """Bytes of the segment arrived; the segment that is overtaken by that, as its rival was first."""
        if not segment.received:
            self._latency = now - segment.started
            segment.begins(now)
        segment.received += count
        loser, segment.rival = segment.rival, None
        if loser is not None:
            loser.rival, loser.stop, loser.overtaken = None, loser.pos, True
        return loser

    def silent(self, now: float) -> list[Segment]:
        """The segments that have brought nothing for a while: they are waited for, but not by the whole transfer."""
        return [s for s in self.active if now - s.started > SILENT_AGE and s.rate(now) == 0]

    def claim(self, segment: Segment, count: int) -> tuple[int, int]:
        """The next `count` bytes of the segment are about to be written: where, and how many of them may be.

        Fewer, or none, may where another segment took the rest over since they were asked for.
        """
        start = segment.pos
        count = max(0, min(count, segment.stop - start))
        segment.pos += count
        return start, count

    def landed(self, start: int, stop: int) -> None:
        """Claimed bytes are on disk."""
        self.done.add(start, stop)

    def unclaim(self, start: int, stop: int) -> None:
        """Claimed bytes could not be written, or bytes on disk proved wrong: they are missing again."""
        self.done.remove(start, stop)
        self._missing.add(start, stop)

    def release(self, segment: Segment) -> None:
        """The connection is through with the segment, or gave up: what it did not claim is missing again, unless a
        rival is after it.
        """
        self.active.remove(segment)
        if segment.rival is not None:
            segment.rival.rival = None
        else:
            self._missing.add(segment.pos, segment.stop)

    def _begin(self, start: int, stop: int, now: float, patience: float = _PATIENCE) -> Segment:
        segment = Segment(start, stop, now, patience)
        self.active.append(segment)
        return segment

    def _take_over(self, victim: Segment, at: int, now: float) -> Segment:
        # Twice the patience for who takes all: else a server that slows down everywhere is asked again and again.
        patience = 2 * victim.patience if at == victim.pos else _PATIENCE
        stop, victim.stop = victim.stop, at
        victim.overtaken = at == victim.pos
        return self._begin(at, stop, now, patience)

    def _split(self, now: float) -> Segment | None:
        """Takes a part of the segment that would take longest, so that both ends meet; all of it if it crawls. What
        waits for its first byte is left alone: nobody knows yet how fast it comes.
        """
        flowing = (segment for segment in self.active if segment.received and segment.remaining)
        victim = max(flowing, key=lambda segment: segment.remaining / (segment.rate(now) + 1.0), default=None)
        if victim is None:
            return None
        rate = victim.rate(now)
        if now - victim.started > victim.patience and rate < min(victim.remaining // 2, _CRAWL):
            return self._take_over(victim, victim.pos, now)
        # What is here before a new connection's first byte could be is better left with its own.
        if victim.remaining < max(2 * STEAL_BYTES, 2 * rate * self._latency):
            return None
        return self._take_over(victim, victim.pos + victim.remaining // 2, now)
