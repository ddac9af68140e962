"""Fixtures of the server's tests."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.server.support import FakePuller, Served, serving


@pytest.fixture
def puller(tmp_path: Path) -> FakePuller:
    """A puller over an empty store; a test sets its script."""
    return FakePuller(tmp_path / "models")


@pytest.fixture
def served(puller: FakePuller) -> Iterator[Served]:
    """The application over that puller."""
    with serving(puller) as served:
        yield served
