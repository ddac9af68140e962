"""What a real Ollama answered, and the store over which it did (`tests/recorded/`)."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

_FOLDER = Path(__file__).parents[1] / "recorded"


def store(folder: Path) -> Path:
    """Rebuilds the store beneath an empty folder, byte for byte."""
    subprocess.run([sys.executable, _FOLDER / "make_models.py", folder], check=True, capture_output=True)
    return folder / "store-base"


def answer(name: str, path: str) -> dict[str, Any]:
    """The answer to a GET of this path, from `name`.jsonl, its fields in the order in which they came."""
    lines = (_FOLDER / f"{name}.jsonl").read_text(encoding="utf-8").splitlines()
    record = next(record for record in map(json.loads, lines) if record["path"] == path)
    found: dict[str, Any] = record["response"]
    return found
