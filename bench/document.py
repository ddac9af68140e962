"""`docs/performance.md`: prose by hand, and between two markers what a run measured."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from bench import plot, table
from bench.report import Report

DOCS = Path(__file__).parent.parent / "docs"
JSON = DOCS / "performance.json"
PAGE = DOCS / "performance.md"
PLOT = DOCS / "performance.svg"

_BEGIN, _END = "<!-- measured: begin -->", "<!-- measured: end -->"


def record(report: Report) -> None:
    """Writes the report into the documentation. Raises ValueError where the page lacks its markers."""
    report.save(JSON)
    PLOT.write_text(plot.targets(list(report.rows)))
    page = PAGE.read_text()
    before, begin, rest = page.partition(_BEGIN)
    _, end, after = rest.partition(_END)
    if not begin or not end:
        raise ValueError(f"{PAGE} lacks the lines {_BEGIN} and {_END}")
    PAGE.write_text(f"{before}{_BEGIN}\n\n{_measured(report)}\n\n{_END}{after}")


def _measured(report: Report) -> str:
    parts = [table.summary(report.rows) + ".", _machine(report), f"![Measured figures]({PLOT.name})"]
    return "\n\n".join([*parts, table.markdown(report)])


def _machine(report: Report) -> str:
    """Each distinct machine, with the figures that were measured on it: one, where one run measured all."""
    seen: dict[tuple[tuple[str, str], ...], list[str]] = {}
    for name, measured in report.figures.items():
        facts = {**measured.machine, "measured": measured.when[:10]}
        facts.pop("load before", None)
        if measured.settings:
            facts["settings"] = " ".join(f"{key}={value}" for key, value in measured.settings.items())
        seen.setdefault(tuple(facts.items()), []).append(name)
    return "\n\n".join(_facts(dict(facts), names, whole=len(seen) == 1) for facts, names in seen.items())


def _facts(facts: dict[str, str], names: Iterable[str], *, whole: bool) -> str:
    of = "" if whole else f" ({', '.join(names)})"
    return f"Machine{of}:\n\n" + "\n".join(f"- {key}: {value}" for key, value in facts.items())
