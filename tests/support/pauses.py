"""Short pauses between two tries: a fixture, for the conftest of a folder to import."""

from __future__ import annotations

import pytest

from towline.registry import race
from towline.transfer import supplier


@pytest.fixture(autouse=True)
def short_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    """A fifth of the first pause after a failure; each further one doubles as ever."""
    monkeypatch.setattr(supplier, "FIRST_PAUSE", 0.05)
    monkeypatch.setattr(race, "FIRST_PAUSE", 0.05)
