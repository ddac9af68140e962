"""Secrets that carry a mark: wherever it shows, one has leaked.

The servers of the tests put it into their tokens and signatures, so that the whole run looks for leaks: in what daemons
print, when they are closed, and in each event and sentence that is checked.
"""

from __future__ import annotations

import os
from pathlib import Path

PLANTED = "pl4nted"

_READ_UP_TO = 4 << 20


def plant(place: str) -> str:
    """A secret that stands in this place, and nowhere else."""
    return f"{PLANTED}.{place}_7"


def look_for_secrets(text: str) -> None:
    """Asserts that nothing planted is in it."""
    at = text.find(PLANTED)
    assert at < 0, f"a secret shows: {text[max(0, at - 200) : at + 60]!r}"


def look_for_secrets_in(folder: Path) -> None:
    """Asserts that nothing planted is in the names of the files there, nor in them; of large ones, in their start."""
    for parent, folders, files in os.walk(folder):
        look_for_secrets("\n".join([*folders, *files]))
        for name in files:
            with Path(parent, name).open("rb") as file:
                look_for_secrets(file.read(_READ_UP_TO).decode("latin-1"))
