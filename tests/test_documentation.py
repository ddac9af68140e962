"""What the documents say of the code, where that can be told from the code."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

import towline

SOURCE = Path(towline.__file__).parent
DOCS = SOURCE.parents[1] / "docs"


@pytest.mark.parametrize("room", [".", "files", "model", "registry", "store", "transfer"])
def test_every_module_has_its_place_in_the_picture_of_the_rooms(room: str) -> None:
    rooms = (DOCS / "architecture.md").read_text().partition("## Rooms")[2].partition("\n## ")[0]
    modules = {path.stem for path in (SOURCE / room).glob("*.py") if not path.stem.startswith("_")}
    assert modules - set(re.findall(r"\w+", rooms)) == set()


def test_every_setting_is_told() -> None:
    told = (DOCS / "settings.md").read_text()
    read = set(re.findall(r"(?:OLLAMA|TOWLINE)_[A-Z_]+[A-Z]", (SOURCE / "settings.py").read_text()))
    assert {name for name in read if f"`{name}`" not in told} == set()
