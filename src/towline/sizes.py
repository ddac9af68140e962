"""Sizes as people read them, in the decimal units of `ollama list`: whatever towline says of bytes, it says so."""

from __future__ import annotations

UNITS = ((10**12, "TB"), (10**9, "GB"), (10**6, "MB"), (10**3, "KB"))
"""Bytes and what they are called, the largest first."""


def size(count: float) -> str:
    """`4.7 GB`, `98 MB`, `512 B`: one decimal below ten and none above.

    >>> [size(n) for n in (0, 999, 1000, 1550, 98_362_432, 4_661_211_936)]
    ['0 B', '999 B', '1 KB', '1.6 KB', '98 MB', '4.7 GB']
    """
    for unit, letters in UNITS:
        if count >= unit:
            value = count / unit
            return f"{int(value)} {letters}" if value >= 10 or value == int(value) else f"{value:.1f} {letters}"
    return f"{int(count)} B"


def finer(count: float) -> str:
    """The same with one decimal always, for two sizes that are to be compared.

    >>> [finer(n) for n in (512, 1550, 12_589_000, 4_661_211_936)]
    ['512 B', '1.6 KB', '12.6 MB', '4.7 GB']
    """
    return next((f"{count / unit:.1f} {letters}" for unit, letters in UNITS if count >= unit), size(count))
