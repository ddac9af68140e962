"""Thousands of small layers behind a round trip, beside the pace at which `wrk` gets them there."""

from __future__ import annotations

import os
from collections.abc import Sequence

from tests.support.models import Blob, Model

from bench.command import missing
from bench.far import relayed
from bench.figures import layers
from bench.origin import Origin
from bench.pull import pull_once
from bench.rounds import interleave, ratio
from bench.row import Row
from bench.workspace import Workspace
from towline.model.manifest import MODEL_LAYER

LAYERS = 2000
SIZE = 64 << 10
ROUND_TRIP = 0.05
CONNECTIONS = 64
"""Of `wrk`, which has them open already when its time begins."""
TARGET = 1.3


def measure(work: Workspace) -> Sequence[Row]:
    """Milliseconds a layer, through a relay without any other limit; the pull from its request to success."""
    count = min(LAYERS, work.scale.layers)
    model = Model.of([Blob.of(MODEL_LAYER, os.urandom(SIZE)) for _ in range(count)])
    peaks: list[float] = []
    cpus: list[float] = []
    with Origin(work) as origin:
        origin.hold(model, layers.REPOSITORY)
        script = layers.script(work, model)

        def pull() -> float:
            with relayed(origin.port, ROUND_TRIP) as port:
                timing = pull_once(work, f"127.0.0.1:{port}/{layers.REPOSITORY}:latest", model)
            peaks.append(timing.peak / 1e6)
            cpus.append(timing.cpu * 1000 / count)
            return timing.wall * 1000 / count

        def wrk() -> float:
            with relayed(origin.port, ROUND_TRIP) as port:
                return layers.pace(f"http://127.0.0.1:{port}", script, CONNECTIONS, max(4, count // 500))

        without = missing("wrk")
        results = interleave({"towline": pull} if without else {"wrk": wrk, "towline": pull}, work.scale.slow_rounds)
    rows = [
        Row.of(f"a pull, a layer of {SIZE >> 10} KiB", "ms", results["towline"], note=f"{count} layers"),
        Row.of("CPU of the daemon, a layer", "ms", cpus),
        Row.of("VmHWM", "MB", peaks, target=100),
    ]
    over = f"a pull over `wrk`, {ROUND_TRIP * 1000:.0f} ms there and back"
    if without:
        return [*rows, Row.absent(over, "×", without, target=TARGET)]
    return [
        Row.of(f"`wrk`, {CONNECTIONS} connections, a layer", "ms", results["wrk"]),
        *rows,
        Row(over, "×", *ratio(results["towline"], results["wrk"]), target=TARGET),
    ]
