"""Short pauses between two tries: a fixture, for the conftest of a folder to import."""

from __future__ import annotations

import pytest

from towline.registry import client
from towline.transfer import supplier


@pytest.fixture(autouse=True)
def short_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    """A fifth of the first pause after a failure; each further one doubles as ever."""
    monkeypatch.setattr(supplier, "FIRST_PAUSE", 0.05)
    monkeypatch.setattr(client, "_FIRST_PAUSE", 0.05)
