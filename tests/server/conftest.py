"""Fixtures of the server's tests."""

from __future__ import annotations

import io
import logging
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.server.support import FakePuller, Served, serving
from towline import logs


@pytest.fixture
def puller(tmp_path: Path) -> FakePuller:
    """A puller over an empty store; a test sets its script."""
    return FakePuller(tmp_path / "models")


@pytest.fixture
def served(puller: FakePuller) -> Iterator[Served]:
    """The application over that puller."""
    with serving(puller) as served:
        yield served


@pytest.fixture
def logged() -> Callable[[], str]:
    """What went into the log of this process, set up for it as the daemon's is, whatever another test left."""
    stream = io.StringIO()
    logs.configure(stream, level=logging.INFO)
    return stream.getvalue
