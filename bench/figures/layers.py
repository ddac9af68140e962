"""Thousands of tiny layers from docker-registry, beside the pace at which `wrk` gets them there."""

from __future__ import annotations

import re
import statistics
import sys
from collections.abc import Sequence
from pathlib import Path

from tests.support.models import Model

from bench.command import missing, output
from bench.depot import Depot
from bench.pull import pull_once
from bench.rounds import interleave
from bench.row import Row
from bench.workspace import Workspace
from towline.settings import Settings

REPOSITORY = "library/crowd"
TARGET = 1.5
OVER_WRK = 1.3

_SCRIPT = """\
local digests = {{}}
for line in io.lines("{digests}") do digests[#digests + 1] = line end
local position, threads = 0, 0
function setup(thread) thread:set("first", threads * 977); threads = threads + 1 end
function init() position = first end
function request()
  position = position % #digests + 1
  return wrk.format("GET", "/v2/{repository}/blobs/" .. digests[position])
end
"""
_PACE = re.compile(r"^Requests/sec:\s+([\d.]+)", re.MULTILINE)
_FAILED = re.compile(r"Non-2xx or 3xx responses: (\d+)")


def measure(work: Workspace) -> Sequence[Row]:
    """Milliseconds a layer, wall and CPU. The target is the milder of the two that the issue names."""
    model = work.crowd
    count = len(model.layers)
    absent = missing("docker-registry")
    if absent:
        return [Row.absent("a layer of 4 KiB", "ms", absent, target=TARGET)]
    connections = Settings().connections
    cpus: list[float] = []
    with Depot(work) as depot:
        name = depot.hold(model, REPOSITORY)
        script = _script(work, model)

        def pull() -> float:
            timing = pull_once(work, name, model)
            cpus.append(timing.cpu * 1000 / count)
            return timing.wall * 1000 / count

        def wrk() -> float:
            url = f"http://{depot.host}"
            seconds = max(2, count // 1500)
            said = output(["wrk", "-t2", f"-c{connections}", f"-d{seconds}s", "-s", script, url])
            assert not _FAILED.search(said), said
            found = _PACE.search(said)
            assert found, said
            return 1000 / float(found[1])

        def bare() -> float:
            digests = str(script.with_name("digests"))
            command = [sys.executable, "-m", "bench.bare", depot.host, REPOSITORY, digests, str(connections)]
            return float(output(command))

        without = missing("wrk")
        contestants = {"bare": bare, "towline": pull} if without else {"wrk": wrk, "bare": bare, "towline": pull}
        results = interleave(contestants, work.scale.slow_rounds)
    target, note = TARGET, f"{count} layers; wrk: {without}"
    rows = []
    if not without:
        pace = statistics.median(results["wrk"])
        target = max(TARGET, OVER_WRK * pace)
        note = (
            f"{count} layers; {statistics.median(results['towline']) / pace:.2f} × wrk; "
            f"target: the milder of {TARGET} ms and {OVER_WRK} × wrk"
        )
        rows.append(Row.of(f"`wrk`, {connections} connections, a layer", "ms", results["wrk"]))
    return [
        *rows,
        Row.of("the requests alone, through urllib3, nothing kept", "ms", results["bare"]),
        Row.of("a pull, a layer of 4 KiB", "ms", results["towline"], target=target, note=note),
        Row.of("CPU of the daemon, a layer of 4 KiB", "ms", cpus),
    ]


def _script(work: Workspace, model: Model) -> Path:
    folder = work.fresh("wrk")
    digests = folder / "digests"
    digests.write_text("".join(f"{blob.digest}\n" for blob in model.blobs))
    script = folder / "cycle.lua"
    script.write_text(_SCRIPT.format(digests=digests, repository=REPOSITORY))
    return script
