"""Numbers as people read them: parts of sizes, times, rates."""

from __future__ import annotations

from datetime import datetime

from towline.sizes import UNITS
from towline.sizes import size as size


def share(part: int, whole: int) -> str:
    """`2.51/4.66 GB`: both in the unit of the whole.

    >>> [share(2_510_000_000, 4_661_211_936), share(0, 512), share(5_000_000, 98_362_432)]
    ['2.51/4.66 GB', '0/512 B', '5.0/98.3 MB']
    """
    for unit, letters in UNITS:
        if whole >= unit:
            digits = 2 if whole < 10 * unit else 1 if whole < 100 * unit else 0
            return f"{_cut(part, unit, digits)}/{_cut(whole, unit, digits)} {letters}"
    return f"{part}/{whole} B"


def _cut(count: int, unit: int, digits: int) -> str:
    return f"{count * 10**digits // unit / 10**digits:.{digits}f}"


def percent(part: int, whole: int) -> int:
    """Whole per cent, rounded down, so that 100 means all of it; an empty whole is complete.

    >>> [percent(0, 10), percent(999, 1000), percent(10, 10), percent(0, 0)]
    [0, 99, 100, 100]
    """
    return part * 100 // whole if whole else 100


def rate(bytes_per_second: float) -> str:
    """`112 MB/s`."""
    return f"{size(bytes_per_second)}/s"


def clock(seconds: float) -> str:
    """Time left as `0:19`, `12:03`, `1:02:03`, in at most eight characters; from 24 hours on only that.

    >>> [clock(0.2), clock(19), clock(723), clock(3723), clock(86_399), clock(86_400)]
    ['0:01', '0:19', '12:03', '1:02:03', '23:59:59', '>1 d']
    """
    whole = max(1, round(seconds))
    if whole >= 86_400:
        return ">1 d"
    minutes, second = divmod(whole, 60)
    hours, minute = divmod(minutes, 60)
    return f"{hours}:{minute:02}:{second:02}" if hours else f"{minute}:{second:02}"


def span(seconds: float) -> str:
    """How long something took: `42 ms`, `0.27 s`, `1.3 s`, `42 s`, `3 min 12 s`, `1 h 2 min`.

    >>> [span(0.0424), span(0.27), span(1.34), span(3), span(42.4), span(192), span(3723)]
    ['42 ms', '0.27 s', '1.3 s', '3 s', '42 s', '3 min 12 s', '1 h 2 min']
    """
    if seconds < 0.1:
        return f"{max(1, round(seconds * 1000))} ms"
    if seconds < 10 and seconds != int(seconds):
        return f"{seconds:.2f} s" if seconds < 1 else f"{seconds:.1f} s"
    minutes, second = divmod(round(seconds), 60)
    hours, minute = divmod(minutes, 60)
    if hours:
        return f"{hours} h {minute} min"
    return f"{minutes} min {second} s" if minutes else f"{second} s"


def ago(moment: datetime, now: datetime) -> str:
    """`2 days ago`, with the steps that `ollama list` takes; both times are aware.

    >>> from datetime import timedelta, timezone
    >>> now = datetime(2025, 1, 1, tzinfo=timezone.utc)
    >>> [ago(now - timedelta(seconds=s), now) for s in (0, 5, 90, 7200, 172_800, 1_300_000, 40_000_000)]
    ['Just now', '5 seconds ago', 'About a minute ago', '2 hours ago', '2 days ago', '2 weeks ago', '15 months ago']
    """
    seconds = int((now - moment).total_seconds())
    if seconds < 1:
        return "Just now"
    if seconds < 60:
        return _plural(seconds, "second")
    minutes, hours = seconds // 60, round(seconds / 3600)
    if minutes < 2:
        return "About a minute ago"
    if minutes < 60:
        return _plural(minutes, "minute")
    if hours < 2:
        return "About an hour ago"
    for upper, length, word in ((48, 1, "hour"), (336, 24, "day"), (1440, 168, "week"), (17520, 730, "month")):
        if hours < upper:
            return _plural(hours // length, word)
    return _plural(hours // 8760, "year")


def _plural(count: int, word: str) -> str:
    return f"{count} {word}{'' if count == 1 else 's'} ago"
