"""Thousands of tiny layers from docker-registry, beside the pace at which `wrk` gets them there."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path

from tests.support.models import Model

from bench.command import missing, output
from bench.depot import Depot
from bench.figures.watchers import watched_pull
from bench.pull import pull_once
from bench.rounds import interleave, ratio
from bench.row import Row
from bench.workspace import Workspace
from towline.settings import Settings

REPOSITORY = "library/crowd"
TARGET = 1.25
"""Times what the same requests take through the HTTP client alone."""
WATCHERS = 50

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
    """Milliseconds a layer, wall and CPU, alone and with many watchers."""
    model = work.crowd
    count = len(model.layers)
    absent = missing("docker-registry")
    if absent:
        return [Row.absent("a layer of 4 KiB", "ms", absent)]
    connections = Settings().connections
    cpus: list[float] = []
    with Depot(work) as depot:
        name = depot.hold(model, REPOSITORY)
        requests = script(work, model)

        def pull() -> float:
            timing = pull_once(work, name, model)
            cpus.append(timing.cpu * 1000 / count)
            return timing.wall * 1000 / count

        def watched(watchers: int) -> float:
            return watched_pull(work, name, watchers).seen.seconds * 1000 / count

        def wrk() -> float:
            return pace(f"http://{depot.host}", requests, connections, max(2, count // 1500))

        def bare() -> float:
            digests = str(requests.with_name("digests"))
            command = [sys.executable, "-m", "bench.bare", depot.host, REPOSITORY, digests, str(connections)]
            return float(output(command))

        without = missing("wrk")
        contestants: dict[str, Callable[[], float]] = {"bare": bare, "towline": pull}
        contestants |= {"one": partial(watched, 1), "many": partial(watched, WATCHERS)}
        results = interleave(contestants if without else {"wrk": wrk, **contestants}, work.scale.slow_rounds)
    rows = [] if without else [Row.of(f"`wrk`, {connections} connections, a layer", "ms", results["wrk"])]
    return [*rows, *_rows(results, cpus, count)]


def _rows(results: Mapping[str, Sequence[float]], cpus: Sequence[float], count: int) -> Sequence[Row]:
    over, least, most = ratio(results["towline"], results["bare"])
    slowed, low, high = ((each - 1) * 100 for each in ratio(results["many"], results["one"]))
    return [
        Row.of("the requests alone, through the HTTP client, nothing kept", "ms", results["bare"]),
        Row.of("a pull, a layer of 4 KiB", "ms", results["towline"], note=f"{count} layers"),
        Row("a pull over the requests alone", "×", over, least, most, target=TARGET),
        Row.of("CPU of the daemon, a layer of 4 KiB", "ms", cpus),
        Row(f"slowed by {WATCHERS} watchers", "%", slowed, low, high, target=10),
    ]


def pace(url: str, requests: Path, connections: int, seconds: int) -> float:
    """Milliseconds that `wrk` takes for each of the requests of a `script`."""
    said = output(["wrk", "-t2", f"-c{connections}", f"-d{seconds}s", "-s", requests, url])
    assert not _FAILED.search(said), said
    found = _PACE.search(said)
    assert found, said
    return 1000 / float(found[1])


def script(work: Workspace, model: Model) -> Path:
    """For `wrk`: asks for one blob of the model after the other."""
    folder = work.fresh("wrk")
    digests = folder / "digests"
    digests.write_text("".join(f"{blob.digest}\n" for blob in model.blobs))
    script = folder / "cycle.lua"
    script.write_text(_SCRIPT.format(digests=digests, repository=REPOSITORY))
    return script
