"""Fixtures for the commands."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.cli.support import Command


@pytest.fixture
def towline(tmp_path: Path, store_path: Path) -> Command:
    """The command over `store_path`, with a home of its own and no daemon of its store anywhere."""
    return Command(tmp_path / "home", store_path)
