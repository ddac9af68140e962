"""Contestants in turn, A B C A B C: what disturbs the machine meets all of them alike."""

from __future__ import annotations

import statistics
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import TypeVar

T = TypeVar("T")


def interleave(contestants: Mapping[str, Callable[[], T]], rounds: int) -> dict[str, list[T]]:
    """What each contestant returned in each round."""
    results: dict[str, list[T]] = {name: [] for name in contestants}
    for number in range(rounds):
        print(f"  round {number + 1} of {rounds}", file=sys.stderr, flush=True)
        for name, run in contestants.items():
            results[name].append(run())
    return results


def ratio(over: Sequence[float], under: Sequence[float]) -> tuple[float, float, float]:
    """The ratio of the medians, and the least and the greatest ratio within one round."""
    single = [a / b for a, b in zip(over, under, strict=True)]
    return statistics.median(over) / statistics.median(under), min(single), max(single)
