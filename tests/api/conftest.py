"""Fixtures for the Python API."""

from __future__ import annotations

import os
from pathlib import Path

import pytest


@pytest.fixture(autouse=True)
def environment(store_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No setting but the store's folder."""
    for name in list(os.environ):
        if name.startswith(("OLLAMA_", "TOWLINE_")):
            monkeypatch.delenv(name)
    monkeypatch.setenv("OLLAMA_MODELS", str(store_path))
