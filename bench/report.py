"""All figures of a run, and of runs before it, as JSON."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Self

from bench.row import Row
from bench.scale import Scale


@dataclass(frozen=True)
class Measured:
    """The rows of one figure, when they were measured, and on what."""

    title: str
    rows: tuple[Row, ...]
    when: str
    """Local time, to the minute."""
    seconds: float
    """How long it took."""
    scale: dict[str, Any]
    machine: dict[str, str]
    settings: dict[str, str]
    """TOWLINE_* that the daemons were started with."""

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {**asdict(self), "rows": [row.as_dict() for row in self.rows]}

    @classmethod
    def parse(cls, fields: dict[str, Any]) -> Self:
        """From `as_dict`."""
        return cls(**{**fields, "rows": tuple(map(Row.parse, fields["rows"]))})


@dataclass
class Report:
    """Figures by name. What is measured anew replaces what was there."""

    figures: dict[str, Measured] = field(default_factory=dict)

    @classmethod
    def load(cls, path: Path) -> Self:
        """What a file holds; an empty report where there is none."""
        if not path.exists():
            return cls()
        figures = json.loads(path.read_text())["figures"]
        return cls({name: Measured.parse(fields) for name, fields in figures.items()})

    def save(self, path: Path) -> None:
        """Writes the file, and its folder if need be."""
        path.parent.mkdir(parents=True, exist_ok=True)
        figures = {name: measured.as_dict() for name, measured in self.figures.items()}
        path.write_text(json.dumps({"figures": figures}, indent=1, ensure_ascii=False) + "\n")

    @property
    def rows(self) -> Iterator[Row]:
        """Every row."""
        return (row for measured in self.figures.values() for row in measured.rows)

    def ordered(self, names: list[str]) -> Report:
        """The same in this order; figures of other names are dropped."""
        return Report({name: self.figures[name] for name in names if name in self.figures})


def scale_of(scale: Scale) -> dict[str, Any]:
    """For `Measured.scale`."""
    return asdict(scale)
