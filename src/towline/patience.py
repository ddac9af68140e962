"""How long a pull waits for its sources while none of their bytes lands (section 1 of the contract)."""

from __future__ import annotations

from typing import NamedTuple

LONGEST_STEP = 1.0
"""Seconds that count at most between two looks. More between them means that this process did not run, stopped or on a
sleeping machine: that is no source's fault.
"""

LASTING = 5.0
"""Seconds for which a sign of life tells that something is alive. Longer than between any two: where a file system has
no locks they come every four seconds (`store.claims`).
"""


class Patience:
    """The clock of one pull. Pure: the time is given at each look, in seconds of a clock that does not go back.

    It runs while the pull waits for sources and nothing lands, stands still while something else is waited for, and
    begins anew with each byte. `seconds` is when it is out; `endless` patience never is.
    """

    def __init__(self, seconds: float, *, endless: bool = False) -> None:
        self.seconds = seconds
        self.endless = endless
        self.waited = 0.0
        """Seconds since the last byte that were spent waiting for sources."""
        self._looked_at: float | None = None
        self._landed = 0

    def look(self, now: float, landed: int, *, excused: bool) -> None:
        """Looks at a count of the bytes that came, whichever bytes it counts; `excused` says that more than sources is
        waited for. To be called a few times a second.
        """
        step = min(now - self._looked_at, LONGEST_STEP) if self._looked_at is not None else 0.0
        self._looked_at = now
        if landed != self._landed:
            self._landed, self.waited = landed, 0.0
        elif not excused:
            self.waited += step

    def renew(self) -> None:
        """Something else is waited for from here on: what was waited before does not count."""
        self.waited = 0.0

    @property
    def out(self) -> bool:
        """Whether the pull is to be given up."""
        return self.waited >= self.seconds and not self.endless


class Life:
    """Whether something is alive that shows it now and then by a mark that changes. Pure: times are given, as above."""

    __slots__ = ("_mark", "_until")

    def __init__(self) -> None:
        self._mark: object = None
        self._until = float("-inf")

    def note(self, mark: object, now: float) -> None:
        """What the mark is now; the first one is a change too."""
        if mark != self._mark:
            self._mark, self._until = mark, now + LASTING

    def lasts(self, now: float) -> bool:
        """Whether the mark has changed lately."""
        return now < self._until


class Pulse(NamedTuple):
    """What a part of a pull does, at a glance. Something happened between two that differ in `received` or `stirred`.

    `received` counts bytes that came, `stirred` what else moves: the hash. `waits` tells that a source is waited for,
    `rests` that a disk or a limit of bandwidth is, or another process that is alive.
    """

    received: int = 0
    stirred: int = 0
    waits: bool = False
    rests: bool = False
