"""Other people's programs, timed."""

from __future__ import annotations

import shutil
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path

TIMEOUT = 600.0


def missing(*programs: str) -> str | None:
    """Why a comparison cannot be made: the programs that are not on the PATH. None when all are there."""
    absent = [program for program in programs if not shutil.which(program)]
    return f"{' and '.join(absent)} not on the PATH" if absent else None


def timed(*commands: Sequence[str | Path]) -> float:
    """Wall seconds of the commands, one after another. Raises AssertionError with what a failing one printed."""
    start = time.perf_counter()
    for command in commands:
        output(command)
    return time.perf_counter() - start


def output(command: Sequence[str | Path]) -> str:
    """What it printed. Raises AssertionError when it fails."""
    done = subprocess.run(
        [str(each) for each in command], stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=TIMEOUT
    )
    assert done.returncode == 0, f"{command[0]} ended with {done.returncode}: {done.stderr[-500:]}{done.stdout[-500:]}"
    return done.stdout
