"""Hundreds of watchers of one pull, from a process of their own, beside one watcher."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import msgspec
from tests.support.relay import Relay

from bench.command import output
from bench.origin import Origin
from bench.process import cpu_seconds
from bench.pull import fresh_daemon
from bench.rounds import interleave, ratio
from bench.row import Row
from bench.workspace import Workspace

RATE = 150e6
"""Bytes a second of the limited source: the processors are free enough then that they are not what is measured."""


class Seen(msgspec.Struct):
    """What `bench.watching` prints."""

    seconds: float
    """From the first request to success at the first watcher."""
    last: float
    """The same, to success at the last."""
    finals: int
    """Watchers whose last line was success."""
    cpu: float
    """CPU-seconds of the watchers themselves."""


@dataclass(frozen=True)
class Watched:
    """One pull and its watchers."""

    seen: Seen
    cpu: float
    """CPU-seconds of the daemon."""


def measure(work: Workspace) -> Sequence[Row]:
    """From a source of a bounded rate, which is judged, and at full speed, where two cores are all there is."""
    many = work.scale.watchers
    rows: list[Row] = []
    with Origin(work) as origin, Relay(origin.port, rate=RATE) as relay:
        path = origin.hold(work.big_model, "library/big").partition("/")[2]
        for host, words, target in (
            (relay.host, f"at {RATE / 1e6:.0f} MB/s", 10.0),
            (f"127.0.0.1:{origin.port}", "at full speed", None),
        ):
            rows += _contest(work, f"{host}/{path}", many, words, target)
    return rows


def _contest(work: Workspace, name: str, many: int, words: str, target: float | None) -> list[Row]:
    contestants = {str(count): partial(watched_pull, work, name, count) for count in (1, many)}
    results = interleave(contestants, work.scale.slow_rounds)
    alone, crowd = results["1"], results[str(many)]
    value, low, high = ((each - 1) * 100 for each in ratio(_seconds(crowd), _seconds(alone)))
    later = max(each.seen.last - each.seen.seconds for each in crowd)
    return [
        Row.of(f"a pull {words}, 1 watcher", "s", _seconds(alone)),
        Row(
            f"slowed by {many} watchers, {words}",
            "%",
            value,
            low,
            high,
            target=target,
            note=f"the last one has its success {later:.2f} s after the first",
        ),
        Row.of(
            f"watchers that get their final event, {words}",
            f"of {many}",
            [each.seen.finals for each in crowd],
            target=many,
            at_least=True,
        ),
        Row.of(f"CPU of the daemon, 1 watcher, {words}", "CPU-s", [each.cpu for each in alone]),
        Row.of(f"CPU of the daemon, {many} watchers, {words}", "CPU-s", [each.cpu for each in crowd]),
        Row.of(f"CPU of the {many} watchers themselves, {words}", "CPU-s", [each.seen.cpu for each in crowd]),
    ]


def _seconds(watched: Sequence[Watched]) -> list[float]:
    return [each.seen.seconds for each in watched]


def watched_pull(work: Workspace, name: str, count: int) -> Watched:
    """A pull into an empty store, with so many watchers from the first moment."""
    with fresh_daemon(work) as daemon:
        before = cpu_seconds(daemon.pid)
        said = output([sys.executable, "-m", "bench.watching", str(daemon.port), name, str(count)])
        return Watched(msgspec.json.decode(said, type=Seen), cpu_seconds(daemon.pid) - before)
