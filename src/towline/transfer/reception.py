"""One connection's part of a download: a segment on its way from one source, read into blocks."""

from __future__ import annotations

import time
from typing import Protocol

from towline.errors import Cancelled, SourceBusy
from towline.transfer.journal import BLOCK_BYTES
from towline.transfer.protocols import ByteStream
from towline.transfer.segments import Plan, Segment
from towline.transfer.supplier import Supplier

FLUSH_SECONDS = 0.5
"""A block that fills slower than this is kept as far as it is, and so is one whose connection falls silent: progress
shows, and little is lost to a crash.
"""


class Receiver(Protocol):
    """Who wants the segment. `step` is how many bytes are best asked for at once."""

    step: int

    def arrived(self, count: int) -> None:
        """So many bytes came, of whatever use. Waits as the limits of bandwidth say. Raises Cancelled."""

    def skipped(self, position: int) -> None:
        """A source that ignores ranges has sent all up to here, which was there already."""

    def gained(self, reception: Reception, count: int) -> None:
        """They are of its segment."""

    def keep(self, reception: Reception, buffer: memoryview, length: int) -> None:
        """The next bytes of the segment, at the start of the buffer, which may be used for other bytes after that.
        Raises OSError, Cancelled.
        """


class Reception:
    """A segment of a plan, and the supplier that it comes from. One thread receives; any other may cancel."""

    def __init__(self, plan: Plan, segment: Segment, supplier: Supplier, receiver: Receiver) -> None:
        self.plan = plan
        self.segment = segment
        self.supplier = supplier
        self._receiver = receiver
        self._stream: ByteStream | None = None
        self._cancelled = False

    def cancel(self) -> None:
        """From any thread, any number of times: `receive` raises Cancelled within milliseconds."""
        self._cancelled = True  # before the look at the stream, as `receive` looks here after it set that
        if self._stream is not None:
            self._stream.cancel()

    def receive(self, buffer: memoryview) -> None:
        """Reads the segment and has it kept in blocks, as long as nobody takes it over. Raises SourceError, Cancelled,
        OSError.
        """
        source, segment = self.supplier.source, self.segment
        start = segment.pos if source.ranged else 0
        stream = self._stream = source.open(start, segment.stop)
        if self._cancelled:
            raise Cancelled("the download was stopped")
        with stream:
            if segment.pos > start:
                self._skip(stream, segment.pos, buffer)
            self._fill(stream, buffer)

    def _skip(self, stream: ByteStream, count: int, buffer: memoryview) -> None:
        """Reads and drops so many bytes, which come before the segment, from a source that ignores ranges."""
        skipped = 0
        while skipped < count:
            if came := self._read(stream, buffer[: count - skipped]):
                skipped += came
                self._receiver.skipped(skipped)

    def _fill(self, stream: ByteStream, buffer: memoryview) -> None:
        filled = 0
        kept = time.monotonic()
        try:
            while room := buffer[filled : self.segment.remaining]:
                count = self._read(stream, room)
                if count:
                    filled += count
                    self._receiver.gained(self, count)
                whole = filled >= min(BLOCK_BYTES, self.segment.remaining)
                if whole or (filled and (not count or time.monotonic() - kept >= FLUSH_SECONDS)):
                    length, filled, kept = filled, 0, time.monotonic()
                    self._receiver.keep(self, buffer, length)
        finally:
            if filled:
                self._receiver.keep(self, buffer, filled)

    def _read(self, stream: ByteStream, room: memoryview) -> int:
        """Takes what has come; 0 where nothing came for a moment."""
        count = stream.readinto(room[: self._receiver.step])
        if count is None:
            return 0
        if not count:
            raise SourceBusy("the source ended early")
        self._receiver.arrived(count)
        return count
