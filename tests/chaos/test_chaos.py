"""The short form of `make chaos`, and that its power cut would find what it looks for."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from tests.chaos import power, runner
from tests.chaos.arena import Arena, check_store
from tests.chaos.cut import build
from tests.chaos.log import Log, Sync
from tests.chaos.mounts import can_mount
from tests.chaos.scenario import SCENARIOS, Scenario
from tests.support.components import lacking
from tests.support.models import generate


@pytest.mark.parametrize("scenario", SCENARIOS, ids=lambda scenario: scenario.name)
def test_no_fault_does_harm(scenario: Scenario) -> None:
    if scenario.mounts and not can_mount():
        lacking("it takes root to mount a file system")
    seed = random.SystemRandom().randrange(1 << 32)
    try:
        runner.run(scenario, seed, scenario.short)
    except Exception as error:
        raise AssertionError(f"again with: make chaos ARGS='--short --only {scenario.name} --seed {seed}'") from error


def test_a_store_that_syncs_nothing_is_found_out(tmp_path: Path) -> None:
    with Arena(tmp_path, seed=1) as arena:
        old = generate(3 << 20, seed=1)
        log, _ = power.record(arena, "library/careless", old, generate(3 << 20, seed=2))
        careless = Log([each for each in log.operations if not isinstance(each, Sync)], log.folders)
        for ordered in (True, False):
            with pytest.raises(AssertionError, match=r"sha256"):
                _cut_many(careless, tmp_path / str(ordered), arena.random, ordered=ordered)


def _cut_many(log: Log, folder: Path, dice: random.Random, *, ordered: bool) -> None:
    folder.mkdir()
    for number in range(100):
        build(log, len(log.operations), folder / str(number), dice, ordered=ordered)
        check_store(folder / str(number))
