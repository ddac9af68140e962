"""`python -m bench`: measures the figures and prints the table."""

from __future__ import annotations

import argparse
import datetime
import json
import signal
import sys
import time
import traceback
from collections.abc import Sequence
from dataclasses import replace

from bench import document, machine, table
from bench.figures import FIGURES, Figure
from bench.pull import inherited
from bench.report import Measured, Report, scale_of
from bench.scale import FULL, QUICK, Scale, parse_size
from bench.workspace import DISK, Workspace

_EPILOG = """\
A whole run (no --quick, no --only, no --size) is recorded in docs/performance.{md,json,svg}; --record records any other
as well, in place of what stands there for the same figures. Every run leaves bench/out/report.json.
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Returns the exit code: 0 unless a figure could not be measured because something broke."""
    chosen = _parser().parse_args(arguments)
    names = [figure.name for figure in FIGURES]
    wanted = [figure for figure in FIGURES if not chosen.only or figure.name in chosen.only]
    scale = _scale(chosen)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that what was started is ended
    report, broken = Report(), []
    facts = machine.describe()
    print(json.dumps(facts, indent=1, ensure_ascii=False), file=sys.stderr)
    with Workspace(scale) as work:
        for figure in wanted:
            print(f"{figure.name} …", file=sys.stderr, flush=True)
            measured = _measure(figure, work, facts)
            if measured is None:
                broken.append(figure.name)
                continue
            report.figures[figure.name] = measured
            print(table.terminal(figure.title, measured.rows), end="\n\n", flush=True)
    print(table.summary(report.rows))
    report.save(DISK / "report.json")
    if chosen.record or (scale == FULL and not chosen.only and not broken):
        recorded = Report.load(document.JSON)
        recorded.figures.update(report.figures)
        document.record(recorded.ordered(names))
    if broken:
        print(f"broken: {', '.join(broken)}", file=sys.stderr)
    return 1 if broken else 0


def _measure(figure: Figure, work: Workspace, facts: dict[str, str]) -> Measured | None:
    """None, with the reason on stderr, where it broke: the others are measured all the same."""
    start = time.monotonic()
    try:
        rows = tuple(figure.measure(work))
    except Exception:
        traceback.print_exc()
        return None
    when = datetime.datetime.now().astimezone().isoformat(" ", "minutes")
    seconds = round(time.monotonic() - start, 1)
    return Measured(figure.title, rows, when, seconds, scale_of(work.scale), facts, inherited())


def _scale(chosen: argparse.Namespace) -> Scale:
    scale = QUICK if chosen.quick else FULL
    if chosen.size:
        scale = replace(scale, size=chosen.size)
    if chosen.rounds:
        scale = replace(scale, rounds=chosen.rounds, slow_rounds=chosen.rounds)
    return scale


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__, epilog=_EPILOG)
    names = [figure.name for figure in FIGURES]
    parser.add_argument("--quick", action="store_true", help="small sizes and few rounds: a look, not a measurement")
    parser.add_argument("--only", action="append", choices=names, metavar="NAME", help=f"any of: {', '.join(names)}")
    parser.add_argument("--rounds", type=int, help="turns of each contestant")
    parser.add_argument("--size", type=parse_size, help="of the large blob: 512MiB")
    parser.add_argument("--record", action="store_true", help="write it into docs/ as well")
    return parser


if __name__ == "__main__":
    sys.exit(main())
