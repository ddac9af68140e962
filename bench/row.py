"""One line of the table: what was measured, and what was hoped for."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Self


@dataclass(frozen=True)
class Row:
    """A measured value, with the least and the greatest of the single rounds, in `unit`.

    Without a value it could not be measured, and `note` says why. Without a target it is only reported.
    """

    what: str
    unit: str
    value: float | None
    low: float | None = None
    high: float | None = None
    target: float | None = None
    stretch: float | None = None
    at_least: bool = False
    """Whether more is better, and target and stretch are the least."""
    note: str = ""

    @classmethod
    def of(cls, what: str, unit: str, values: Sequence[float], **rest: Any) -> Self:
        """The median of single rounds, with their least and greatest."""
        return cls(what, unit, statistics.median(values), min(values), max(values), **rest)

    @classmethod
    def absent(cls, what: str, unit: str, why: str, **rest: Any) -> Self:
        """What could not be measured here."""
        return cls(what, unit, None, note=why, **rest)

    @classmethod
    def parse(cls, fields: dict[str, Any]) -> Self:
        """From `as_dict`."""
        return cls(**{name: value for name, value in fields.items() if name != "verdict"})

    def as_dict(self) -> dict[str, Any]:
        """For JSON; the verdict stands beside what it follows from."""
        return {**asdict(self), "verdict": self.verdict}

    @property
    def verdict(self) -> str:
        """`stretch`, `met`, `missed`; `reported` where there is no target, `not measured` where there is no value."""
        if self.value is None:
            return "not measured"
        if self.target is None:
            return "reported"
        if self.stretch is not None and self._reaches(self.stretch):
            return "stretch"
        return "met" if self._reaches(self.target) else "missed"

    def share(self, value: float) -> float | None:
        """A value of this row as a part of its target, such that more than 1 is a miss; None without a target."""
        if not self.target:
            return None
        return self.target / max(value, 1e-9) if self.at_least else value / self.target

    def _reaches(self, bound: float) -> bool:
        assert self.value is not None
        return self.value >= bound if self.at_least else self.value <= bound
