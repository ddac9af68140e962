"""How long a person waits for the command line to say anything."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from tests.support.daemon import TOWLINE

from bench.command import timed
from bench.rounds import interleave
from bench.row import Row
from bench.workspace import Workspace


def measure(work: Workspace) -> Sequence[Row]:
    """`towline version` as a new process each time, in turn with an interpreter that does nothing."""
    contestants = {
        "python": lambda: timed([sys.executable, "-c", "pass"]) * 1000,
        "towline": lambda: timed([TOWLINE, "version"]) * 1000,
    }
    results = interleave(contestants, work.scale.starts)
    return [
        Row.of("`python -c pass`", "ms", results["python"]),
        Row.of("`towline version`", "ms", results["towline"], target=120),
    ]
