"""`make` says what it can do."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

ROOT = Path(__file__).parents[1]


def told(*arguments: str) -> str:
    """What make prints, and nothing else is done."""
    return subprocess.run(["make", *arguments], cwd=ROOT, capture_output=True, text=True, check=True).stdout


def test_help_names_every_target_with_what_it_does_and_is_what_make_alone_shows() -> None:
    targets = re.search(r"^\.PHONY: (.+)$", (ROOT / "Makefile").read_text(), re.MULTILINE)
    assert targets is not None
    listed = dict(line.split(maxsplit=1) for line in told("help").splitlines()[1:])
    assert set(listed) == set(targets[1].split())
    assert all(listed.values())
    assert told() == told("help")
