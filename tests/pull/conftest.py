"""Fixtures of pulls inside the test's own process."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.pulling import Pulling
from tests.support.trust import strangers, trust

__all__ = ["strangers", "trust"]


@pytest.fixture
def pulling(store_path: Path) -> Iterator[Pulling]:
    """Pulls into a fresh store, each blob over one connection, so that what a registry sends is exact."""
    with Pulling(store_path, connections_per_blob=1) as pulling:
        yield pulling
