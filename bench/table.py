"""Rows as text: for the terminal and for Markdown."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from bench.report import Measured, Report
from bench.row import Row

_HEADINGS = ("figure", "target", "stretch", "measured", "least–most", "verdict")


def terminal(title: str, rows: Iterable[Row]) -> str:
    """One figure, in columns."""
    lines = [_HEADINGS, *map(_cells, rows)]
    widths = [max(len(line[column]) for line in lines) for column in range(len(_HEADINGS))]
    shown = ["  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip() for line in lines]
    return "\n".join([title, *(f"  {line}" for line in shown)])


def markdown(report: Report) -> str:
    """Every figure, one table each."""
    return "\n\n".join(_section(measured) for measured in report.figures.values())


def summary(rows: Iterable[Row]) -> str:
    """How many targets are met."""
    judged = [row for row in rows if row.target is not None]
    met = sum(row.verdict in ("met", "stretch") for row in judged)
    measured = sum(row.value is not None for row in judged)
    return f"{met} of {measured} targets met, {len(judged) - measured} not measured"


def number(value: float) -> str:
    """Three digits that count, without a power of ten."""
    if value == 0:
        return "0"
    size = abs(value)
    return f"{value:.0f}" if size >= 100 else f"{value:.1f}" if size >= 10 else f"{value:.2f}"


def _section(measured: Measured) -> str:
    lines = [
        f"### {measured.title}",
        "",
        "| " + " | ".join(_HEADINGS) + " |",
        "| --- | ---: | ---: | ---: | ---: | --- |",
        *("| " + " | ".join(cell.replace("|", "\\|") for cell in _cells(row)) + " |" for row in measured.rows),
    ]
    return "\n".join(lines)


def _cells(row: Row) -> Sequence[str]:
    sign = "≥" if row.at_least else "≤"
    note = f" ({row.note})" if row.note else ""
    return (
        row.what + note,
        f"{sign} {number(row.target)}" if row.target is not None else "",
        f"{sign} {number(row.stretch)}" if row.stretch is not None else "",
        f"{number(row.value)} {row.unit}" if row.value is not None else "—",
        f"{number(row.low)}–{number(row.high)}" if row.low is not None and row.high is not None else "",
        row.verdict,
    )
