"""The table of a run: on the terminal, and in `docs/chaos.md` between two markers."""

from __future__ import annotations

import datetime
import platform
from dataclasses import dataclass
from pathlib import Path

from tests.chaos.elsewhere import IMPOSSIBLE
from tests.chaos.outcome import Outcome
from tests.chaos.scenario import SCENARIOS

PAGE = Path(__file__).parents[2] / "docs/chaos.md"
_BEGIN, _END = "<!-- chaos: begin -->", "<!-- chaos: end -->"
_HEAD = (
    "| fault | name | how it is made | times | result | fetched again, at most | s |\n|---|---|---|---|---|---|---|\n"
)
_NAMES = {scenario.fault: scenario.name for scenario in SCENARIOS}


@dataclass(frozen=True)
class Row:
    """One fault, how it was made, and what came of it."""

    fault: str
    how: str
    outcome: Outcome | None
    """None where it failed."""
    seconds: float
    why: str = ""
    """Why it failed, or was not made."""

    @property
    def line(self) -> str:
        """For the terminal, as it goes."""
        if self.outcome is None:
            return f"FAILED  {self.fault}: {self.why}"
        again = f"; at most {_size(self.outcome)} fetched again" if self.outcome.refetched is not None else ""
        return f"ok  {self.fault}: {self.outcome.times} times, {self.outcome.told}{again} ({self.seconds:.0f} s)"

    @property
    def name(self) -> str:
        """What `--only` calls it; empty for what other tests make."""
        return _NAMES.get(self.fault, "")

    @property
    def cells(self) -> str:
        """For the table."""
        outcome = self.outcome or Outcome(told=f"**failed**: {self.why}")
        again = _size(outcome) if outcome.refetched is not None else ""
        told = " ".join(outcome.told.replace("|", "/").split())
        name = f"`{self.name}`" if self.name else ""
        made = f"{self.fault} | {name} | {self.how} | {outcome.times or ''}"
        return f"| {made} | {told} | {again} | {self.seconds:.0f} |"


def table(rows: list[Row], seed: int) -> str:
    """In Markdown, with what cannot be made here."""
    today = datetime.datetime.now(datetime.UTC).date()
    lines = "\n".join(row.cells for row in rows)
    impossible = "\n".join(f"- {fault}: {why}." for fault, why in IMPOSSIBLE)
    return (
        f"Measured {today} on Linux {platform.release()}, Python {platform.python_version()}, seed {seed}.\n\n"
        f"{_HEAD}{lines}\n\nWhat this machine cannot make:\n\n{impossible}"
    )


def record(text: str) -> None:
    """Puts the table into the documentation. Raises ValueError where the page lacks its markers."""
    page = PAGE.read_text()
    before, begin, rest = page.partition(_BEGIN)
    _, end, after = rest.partition(_END)
    if not begin or not end:
        raise ValueError(f"{PAGE} lacks the lines {_BEGIN} and {_END}")
    PAGE.write_text(f"{before}{_BEGIN}\n\n{text}\n\n{_END}{after}")


def _size(outcome: Outcome) -> str:
    return f"{(outcome.refetched or 0) / (1 << 20):.1f} MiB"
