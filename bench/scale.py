"""How much is measured: the whole, or a quick look."""

from __future__ import annotations

import re
from dataclasses import dataclass

_UNITS = {"": 1, "k": 1 << 10, "m": 1 << 20, "g": 1 << 30}


@dataclass(frozen=True)
class Scale:
    """Sizes in bytes; `rounds` is how often each contestant has its turn."""

    rounds: int = 7
    size: int = 2 << 30
    layers: int = 5000
    watchers: int = 500
    starts: int = 20
    link_size: int = 900_000_000
    """Through a link of 50 MB/s."""
    drop_size: int = 400_000_000
    """Through the same, where a connection drops to a crawl."""
    slow_rounds: int = 3
    """Of figures that a link's rate bounds: they vary little and take long."""


FULL = Scale()
QUICK = Scale(
    rounds=2,
    size=256 << 20,
    layers=500,
    watchers=100,
    starts=5,
    link_size=250_000_000,
    drop_size=200_000_000,
    slow_rounds=1,
)


def parse_size(text: str) -> int:
    """`2GiB`, `512M`, `65536`: bytes. Raises ValueError."""
    match = re.fullmatch(r"(\d+)\s*([kmg]?)(i?b)?", text.strip().lower())
    if not match:
        raise ValueError(f"{text!r} is no size; write it as 512MiB")
    return int(match[1]) * _UNITS[match[2]]
