"""Fixtures of the pulls that fail."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.pauses import short_pauses
from tests.support.pulling import Pulling
from tests.support.trust import strangers, trust

__all__ = ["short_pauses", "strangers", "trust"]


@pytest.fixture
def pulling(store_path: Path) -> Iterator[Pulling]:
    """Pulls into a fresh store, with bounds that are short enough to be waited for and too long to be met by chance."""
    with Pulling(store_path, stall_timeout=20.0, refused_timeout=3.0) as pulling:
        yield pulling
