"""`make` says what it can do."""

from __future__ import annotations

import os
import re
import subprocess
from pathlib import Path

ROOT = Path(__file__).parents[1]


def told(*arguments: str) -> str:
    """What make prints, and nothing else is done."""
    # Apart from the make that runs the tests: below it, make tells of folders that it enters.
    environment = {name: value for name, value in os.environ.items() if name not in ("MAKEFLAGS", "MAKELEVEL")}
    command = ["make", *arguments]
    return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=True).stdout


def test_help_names_every_target_with_what_it_does_and_is_what_make_alone_shows() -> None:
    targets = re.search(r"^\.PHONY: (.+)$", (ROOT / "Makefile").read_text(), re.MULTILINE)
    assert targets is not None
    listed = dict(line.split(maxsplit=1) for line in told("help").splitlines()[1:])
    assert set(listed) == set(targets[1].split())
    assert all(listed.values())
    assert told() == told("help")
