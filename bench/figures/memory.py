"""The most memory the daemon ever held (VmHWM), with sixteen connections that are really open, and with many layers."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from tests.support.models import Model
from tests.support.relay import Relay

from bench.depot import Depot
from bench.origin import Origin
from bench.process import ConnectionWatch
from bench.pull import pull_once
from bench.rounds import interleave
from bench.row import Row
from bench.workspace import Workspace
from towline.model.manifest import MODEL_LAYER

CONNECTIONS = 16
CONNECTION_RATE = 10e6
"""Bytes a second: slow enough that every connection pays, so that all of them are opened."""

TARGET = 100.0


def measure(work: Workspace) -> Sequence[Row]:
    """One blob over sixteen connections, several blobs side by side, and very many small ones."""
    several = _several(work)
    with Origin(work) as origin, Depot(work) as depot:
        whole = origin.hold(work.big_model, "library/big")
        pieces = origin.hold(several, "library/several")
        crowd = depot.hold(work.crowd, "library/crowd")
        open_most: dict[str, int] = {}

        def pull(key: str, name: str, port: int, per_blob: int) -> float:
            environment = {"TOWLINE_CONNECTIONS_PER_BLOB": str(per_blob)}
            with ConnectionWatch(port) as watch:
                timing = pull_once(work, name, environment=environment)
            open_most[key] = max(open_most.get(key, 0), watch.most)
            return timing.peak / 1e6

        def through_relay() -> float:
            with Relay(origin.port, connection_rate=CONNECTION_RATE) as relay:
                return pull("one", _renamed(whole, relay.host), relay.port, CONNECTIONS)

        contestants: dict[str, Callable[[], float]] = {
            "one": through_relay,
            "several": lambda: pull("several", pieces, origin.port, CONNECTIONS // 4),
            "many": lambda: pull("many", crowd, depot.port, CONNECTIONS),
        }
        peaks = interleave(contestants, work.scale.slow_rounds)
    titles = {
        "one": f"one blob of {_size(work.scale.size)}, a relay of {CONNECTION_RATE / 1e6:.0f} MB/s a connection",
        "several": f"{len(several.layers)} blobs side by side from nginx",
        "many": f"{work.scale.layers} layers of 4 KiB from docker-registry",
    }
    return [
        Row.of(f"VmHWM, {title}", "MB", peaks[key], target=TARGET, note=f"{open_most[key]} connections open at most")
        for key, title in titles.items()
    ]


def _several(work: Workspace) -> Model:
    parts = [work.cut(work.scale.size // 8, seed) for seed in range(8)]
    return Model.of([layer for part in parts for layer in part.layers if layer.media_type == MODEL_LAYER])


def _renamed(name: str, host: str) -> str:
    return f"{host}/{name.partition('/')[2]}"


def _size(size: int) -> str:
    return f"{size / (1 << 30):g} GiB"
