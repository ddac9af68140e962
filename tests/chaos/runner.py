"""Makes one fault, as often as it is told, in a folder that goes afterwards."""

from __future__ import annotations

import tempfile
from pathlib import Path

from tests.chaos.arena import Arena
from tests.chaos.outcome import Outcome
from tests.chaos.scenario import Scenario


def run(scenario: Scenario, seed: int, times: int) -> Outcome:
    """Raises AssertionError where the fault did harm; `seed` decides the dice."""
    with tempfile.TemporaryDirectory(prefix="towline-chaos-") as folder, Arena(Path(folder), seed) as arena:
        return scenario.make(arena, times)
