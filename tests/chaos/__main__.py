"""`python -m tests.chaos`: makes every fault, a line each, and writes the table into `docs/chaos.md`."""

from __future__ import annotations

import argparse
import random
import sys
import time
from collections.abc import Callable, Sequence
from functools import partial

from tests.chaos import elsewhere, runner
from tests.chaos.mounts import can_mount
from tests.chaos.outcome import Outcome
from tests.chaos.report import Row, record, table
from tests.chaos.scenario import SCENARIOS, Scenario


def main(arguments: Sequence[str] | None = None) -> int:
    """Returns the exit code: 0 where no fault did harm."""
    chosen = _parser().parse_args(arguments)
    seed = random.SystemRandom().randrange(1 << 32) if chosen.seed is None else chosen.seed
    _say(f"seed {seed}")
    rows = []
    for scenario in SCENARIOS:
        if not chosen.only or scenario.name in chosen.only:
            rows.append(_scenario(scenario, seed, scenario.short if chosen.short else scenario.full))
            _say(rows[-1].line)
    if not chosen.only:
        for group in elsewhere.ELSEWHERE:
            rows.append(_row(group.fault, group.how, partial(elsewhere.run, group)))
            _say(rows[-1].line)
    text = table(rows, seed)
    _say(f"\n{text}")
    if not chosen.only and not chosen.short:
        record(text)
    return 0 if all(row.outcome for row in rows) else 1


def _scenario(scenario: Scenario, seed: int, times: int) -> Row:
    if scenario.mounts and not can_mount():
        return Row(scenario.fault, scenario.how, Outcome(told="not made: it takes root to mount"), 0.0)
    return _row(scenario.fault, scenario.how, lambda: runner.run(scenario, seed, times))


def _row(fault: str, how: str, make: Callable[[], Outcome]) -> Row:
    started = time.monotonic()
    outcome, why = None, ""
    try:
        outcome = make()
    except Exception as error:
        why = f"{type(error).__name__}: {error}"
    return Row(fault, how, outcome, time.monotonic() - started, why)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="make chaos", description=__doc__)
    parser.add_argument("--seed", type=int, help="decides every random moment; one that is told by a failed run")
    parser.add_argument("--short", action="store_true", help="a few times each, as among the tests")
    names = [scenario.name for scenario in SCENARIOS]
    parser.add_argument("--only", nargs="+", choices=names, metavar="NAME", help=f"some of: {', '.join(names)}")
    return parser


def _say(text: str) -> None:
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())
