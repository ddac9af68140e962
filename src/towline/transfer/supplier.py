"""How one source of a blob fares, and when it may be asked again. Times are given; only the jitter is drawn."""

from __future__ import annotations

import random
from dataclasses import dataclass

from towline.errors import SourceBusy, SourceError, SourceGone, SourceLied
from towline.transfer.protocols import BlobSource

FIRST_PAUSE = 0.25
LONGEST_PAUSE = 4.0
"""Seconds before a failed source is asked again; the first doubles up to the longest, a few tries a stall timeout."""

MAX_LIES = 2
"""Wrong answers in a row: one may be a hiccup of a cache."""

HANG_PAUSE = 2.0
"""Seconds for which a source whose connection hangs stands behind the others."""


@dataclass(slots=True, eq=False)
class Supplier:
    """A source, and what it did. Times in seconds of a clock that does not go back.

    `gone` is the error for which it is not asked again. `blamed` counts the times that a blob proved wrong to which it
    had given bytes.
    """

    source: BlobSource
    refused_timeout: float
    not_before: float = 0.0
    gone: SourceError | None = None
    blamed: int = 0
    delivered: bool = False
    _failures: int = 0
    _lies: int = 0
    _refused_since: float | None = None

    def delivers(self) -> None:
        """Bytes came and were written: the budget of tries is full again."""
        self.delivered = True
        self._failures = self._lies = 0
        self._refused_since = None

    def failed(self, error: SourceError, now: float) -> None:
        """Notes a failure: later, with growing pauses and jitter, or never."""
        if isinstance(error, SourceGone):
            self.gone = error
        elif isinstance(error, SourceLied):
            if now < self.not_before:
                return  # its connections fail together: that is one failure
            self._lies += 1
            if self._lies >= MAX_LIES:
                self.gone = error
            self.not_before = now + FIRST_PAUSE
        elif isinstance(error, SourceBusy):
            self._busy(error, now)

    def _busy(self, error: SourceBusy, now: float) -> None:
        if error.refused:
            self._refused_since = self._refused_since if self._refused_since is not None else now
            if now - self._refused_since >= self.refused_timeout:
                self.gone = error
        else:
            self._refused_since = None
        if now < self.not_before:
            return  # its connections fail together: that is one failure
        pause = min(FIRST_PAUSE * 2**self._failures, LONGEST_PAUSE) * random.uniform(0.75, 1.25)  # noqa: S311
        if error.refused and self._refused_since is not None:
            pause = min(pause, 1.0, max(self._refused_since + self.refused_timeout - now, 0.0))
        self.not_before = now + max(pause, error.retry_after or 0.0)
        self._failures = min(self._failures + 1, 8)

    def hangs(self, now: float) -> None:
        """A connection to it fell silent or crawls: it is asked again when the others have had their turn."""
        self.not_before = max(self.not_before, now + HANG_PAUSE)


def pick(sources: list[Supplier], now: float) -> Supplier | float | None:
    """The first source that may be asked now; else the time at which one may; None where all are gone."""
    alive = [supplier for supplier in sources if supplier.gone is None]
    if not alive:
        return None
    return next(
        (supplier for supplier in alive if supplier.not_before <= now), min(supplier.not_before for supplier in alive)
    )
