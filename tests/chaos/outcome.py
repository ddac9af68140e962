"""What one fault did, over all the times it was made."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass
class Outcome:
    """A row of the report."""

    times: int = 0
    """How often the fault was made."""
    told: str = ""
    """What was seen, in a few words."""
    refetched: int | None = None
    """The most bytes that one fault had fetched again; None where that has no meaning."""
