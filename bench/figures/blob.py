"""One verified blob from nginx on loopback to tmpfs, over what hashing it or copying it takes; plain and with TLS."""

from __future__ import annotations

import statistics
from collections.abc import Sequence

from bench.command import timed
from bench.origin import Origin
from bench.pull import Timing, pull_once
from bench.rounds import interleave, ratio
from bench.row import Row
from bench.workspace import Workspace, settle

REPOSITORY = "library/big"


def measure(work: Workspace) -> Sequence[Row]:
    """Wall time over the longer of the two yardsticks, CPU time a GB, memory, and the wait after the last byte."""
    model = work.big_model
    timings: dict[str, list[Timing]] = {"plain": [], "TLS": []}
    last_sent: list[float] = []
    with Origin(work) as origin:
        name = origin.hold(model, REPOSITORY)

        def plain() -> float:
            timings["plain"].append(pull_once(work, name, model))
            last_sent.append(origin.last_sent(str(model.weights.digest)))
            return timings["plain"][-1].wall

        def secure() -> float:
            timings["TLS"].append(pull_once(work, REPOSITORY, model, origin.tls_environment))
            return timings["TLS"][-1].wall

        contestants = {
            "hash": lambda: hash_once(work),
            "copy": lambda: copy_once(work),
            "plain": plain,
            "TLS": secure,
        }
        results = interleave(contestants, work.scale.rounds)
    hashes, copies = results["hash"], results["copy"]
    return [
        Row.of("`openssl dgst -sha256` of the file", "s", hashes),
        Row.of("`cp` of the file to the same tmpfs", "s", copies),
        *_wall(timings, hashes, copies),
        *_cpu(timings, model.size),
        _wait(timings["plain"], last_sent),
        Row.of(
            "peak memory in these pulls",
            "MB",
            [each.peak / 1e6 for way in timings.values() for each in way],
            target=100,
        ),
    ]


def hash_once(work: Workspace) -> float:
    """Seconds that `openssl` takes over the big file."""
    return timed(["openssl", "dgst", "-sha256", work.big_file])


def copy_once(work: Workspace) -> float:
    """Seconds that `cp` takes for a copy of the big file on tmpfs."""
    folder = work.fresh("copy")
    seconds = timed(["cp", work.big_file, folder / "copy"])
    settle(folder)
    return seconds


def _wall(pulls: dict[str, list[Timing]], hashes: list[float], copies: list[float]) -> list[Row]:
    yardstick = max((hashes, copies), key=statistics.median)
    bounds = {"plain": (1.5, 1.25), "TLS": (2.6, 2.0)}
    rows = []
    for way, timings in pulls.items():
        walls = [each.wall for each in timings]
        value, low, high = ratio(walls, yardstick)
        target, stretch = bounds[way]
        rows += [
            Row.of(f"pull, {way}", "s", walls),
            Row(f"pull, {way}, over the longer of hash and copy", "×", value, low, high, target, stretch),
        ]
    return rows


def _cpu(pulls: dict[str, list[Timing]], size: int) -> list[Row]:
    bounds = {"plain": (1.6, 1.3), "TLS": (2.4, 1.9)}
    return [
        Row.of(
            f"CPU of the daemon, {way}",
            "CPU-s/GB",
            [each.cpu / (size / 1e9) for each in timings],
            target=bounds[way][0],
            stretch=bounds[way][1],
        )
        for way, timings in pulls.items()
    ]


def _wait(timings: list[Timing], last_sent: list[float]) -> Row:
    waits = [timing.ended_at - sent for timing, sent in zip(timings, last_sent, strict=True)]
    came = statistics.median(timing.wall - wait for timing, wait in zip(timings, waits, strict=True))
    note = f"the last byte was sent {came:.2f} s after the request"
    return Row.of("last byte sent → success, tmpfs", "ms", [wait * 1000 for wait in waits], target=150, note=note)
