"""How one source of a blob fares, and when it may be asked again. Times are given; only the jitter is drawn."""

from __future__ import annotations

import random
from dataclasses import dataclass

from towline.errors import SourceBusy, SourceError, SourceGone, SourceLied
from towline.transfer.protocols import BlobSource

FIRST_PAUSE = 0.25
LONGEST_PAUSE = 4.0
"""Seconds before a failed source is asked again; the first doubles up to the longest, a few tries a stall timeout."""

MAX_LIES = 3
"""Wrong answers without a whole right one between them: one or two may be a hiccup of a cache."""

_REFUSALS_APART = 1.5
"""Seconds that count at most between two refusals: more is time in which nobody asked, or this process did not run."""

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
    _refused_at: float | None = None
    _refused_for: float = 0.0

    def delivers(self) -> None:
        """Bytes came and were written: the budget of tries is full again."""
        self.delivered = True
        self._failures = 0
        self._refused_at, self._refused_for = None, 0.0

    def completes(self) -> None:
        """All that was asked for came: what it lied before is forgiven. Mere bytes do not tell that they are right."""
        self._lies = 0

    def failed(self, error: SourceError, now: float, *, endless: bool = False) -> None:
        """Notes a failure: later, with growing pauses and jitter, or never. `endless`: refusals are waited out."""
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
            self._busy(error, now, endless)

    def _busy(self, error: SourceBusy, now: float, endless: bool) -> None:
        if error.refused:
            self._refused(now)
            if self._refused_for >= self.refused_timeout and not endless:
                self.gone = error
        else:
            self._refused_at, self._refused_for = None, 0.0
        if now < self.not_before:
            return  # its connections fail together: that is one failure
        pause = min(FIRST_PAUSE * 2**self._failures, LONGEST_PAUSE) * random.uniform(0.75, 1.25)  # noqa: S311
        if error.refused and not endless:
            pause = min(pause, 1.0, max(self.refused_timeout - self._refused_for, 0.0))
        self.not_before = now + max(pause, error.retry_after or 0.0)
        self._failures = min(self._failures + 1, 8)

    def _refused(self, now: float) -> None:
        if self._refused_at is not None:
            self._refused_for += min(now - self._refused_at, _REFUSALS_APART)
        self._refused_at = now

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
