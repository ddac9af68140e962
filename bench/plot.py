"""Bars as SVG: every figure that has a target, as a part of that target."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

from bench.row import Row
from bench.table import number

_WIDTH, _LABELS, _VALUES = 1000, 430, 170
_TOP, _STEP, _BAR = 64, 26, 14
_MOST = 2.0
"""What is further beyond its target than this is cut off there, and says so by its number."""

_BACKGROUND, _INK, _FAINT, _GRID = "#ffffff", "#1f2328", "#59636e", "#d1d9e0"
_GOOD, _BAD = "#0969da", "#bc4c00"


def targets(rows: Sequence[Row]) -> str:
    """A bar a row: how much of its target it takes; the line at 1 is the target, the tick the stretch goal."""
    judged = [row for row in rows if row.target is not None and row.value is not None]
    height = _TOP + _STEP * len(judged) + 40
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {height}" '
        'font-family="system-ui, sans-serif" font-size="13" role="img">',
        "<title>Measured figures as a part of their targets</title>",
        f'<rect width="{_WIDTH}" height="{height}" fill="{_BACKGROUND}"/>',
        _text(16, 28, "Measured, as a part of the target", size=16, weight="600"),
        _text(16, 46, "left of the line is met; ┃ stretch goal; thin: least to most of the rounds", ink=_FAINT),
    ]
    parts += _axis(height)
    for index, row in enumerate(judged):
        parts += _bar(row, _TOP + _STEP * index)
    return "\n".join([*parts, "</svg>", ""])


def _x(share: float) -> float:
    return _LABELS + min(max(share, 0.0), _MOST) / _MOST * (_WIDTH - _LABELS - _VALUES)


def _axis(height: int) -> list[str]:
    parts = []
    for share in (0.0, 0.5, 1.0, 1.5, 2.0):
        x, strong = _x(share), share == 1
        parts.append(
            f'<line x1="{x:.1f}" x2="{x:.1f}" y1="{_TOP - 6}" y2="{height - 34}" '
            f'stroke="{_INK if strong else _GRID}" stroke-width="{1.5 if strong else 1}"/>'
        )
        parts.append(_text(x, height - 16, "target" if strong else f"{share:g} ×", anchor="middle", ink=_FAINT))
    return parts


def _bar(row: Row, y: float) -> list[str]:
    assert row.value is not None
    share = row.share(row.value)
    assert share is not None
    colour = _BAD if row.verdict == "missed" else _GOOD
    middle = y + _BAR / 2
    parts = [
        _text(_LABELS - 10, middle + 4, _shortened(row.what), anchor="end"),
        f'<rect x="{_x(0):.1f}" y="{y}" width="{max(_x(share) - _x(0), 1):.1f}" height="{_BAR}" fill="{colour}"/>',
    ]
    if row.low is not None and row.high is not None:
        ends = [_x(row.share(each) or 0.0) for each in (row.low, row.high)]
        parts.append(
            f'<line x1="{min(ends):.1f}" x2="{max(ends):.1f}" y1="{middle}" y2="{middle}" '
            f'stroke="{_INK}" stroke-width="1.5"/>'
        )
    if row.stretch is not None:
        x = _x(row.share(row.stretch) or 0.0)
        parts.append(
            f'<line x1="{x:.1f}" x2="{x:.1f}" y1="{y - 3}" y2="{y + _BAR + 3}" stroke="{_INK}" stroke-width="3"/>'
        )
    value = f"{number(row.value)} {row.unit} · {row.verdict}"
    parts.append(_text(_WIDTH - _VALUES + 10, middle + 4, value, ink=colour))
    return parts


def _shortened(text: str) -> str:
    plain = text.replace("`", "")
    return plain if len(plain) <= 62 else plain[:61] + "…"


def _text(
    x: float, y: float, text: str, *, anchor: str = "start", ink: str = _INK, size: int = 13, weight: str = "400"
) -> str:
    return (
        f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" fill="{ink}" font-size="{size}" '
        f'font-weight="{weight}">{escape(text)}</text>'
    )
