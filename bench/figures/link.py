"""A link of 400 Mbit/s, 25 MB/s a connection, 60 ms there and back; whole, and with a connection that drops out."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence

from tests.support.models import Model
from tests.support.relay import Relay

from bench.origin import Origin
from bench.process import ConnectionWatch
from bench.pull import pull_once
from bench.rounds import interleave
from bench.row import Row
from bench.workspace import Workspace

RATE = 50e6
CONNECTION_RATE = 25e6
ROUND_TRIP = 0.06
CRAWL = 20e3

REPOSITORY = "library/far"

_EARLY = 24 << 20
"""Bytes of one connection after which it drops: in the middle of its second segment."""
_LATE = 0.9


def measure_use(work: Workspace) -> Sequence[Row]:
    """How much of the link a pull uses, from the request to success, the climb included."""
    model = work.cut(work.scale.link_size, seed=41)
    most = 0
    walls: list[float] = []
    with Origin(work) as origin:
        name = origin.hold(model, REPOSITORY)
        for _ in range(work.scale.slow_rounds):
            with _far(origin) as relay, ConnectionWatch(relay.port) as watch:
                walls.append(_pull(work, relay, name, model))
            most = max(most, watch.most)
    used = [model.size / RATE / wall * 100 for wall in walls]
    return [
        Row.of(
            "share of the link that a pull uses",
            "%",
            used,
            target=90,
            at_least=True,
            note=f"{model.size / 1e6:.0f} MB, {most} connections at most",
        )
    ]


def measure_drop(work: Workspace) -> Sequence[Row]:
    """What it costs when a connection drops to 20 KB/s in the middle, and near the end where nothing hides it."""
    model = work.cut(work.scale.drop_size, seed=42)
    with Origin(work) as origin:
        name = origin.hold(model, REPOSITORY)

        def whole() -> float:
            with _far(origin) as relay:
                return _pull(work, relay, name, model)

        def early() -> float:
            with _far(origin) as relay:
                relay.slow_one(CRAWL, after=_EARLY)
                wall = _pull(work, relay, name, model)
                _check_dropped(relay)
                return wall

        def late() -> float:
            with _far(origin) as relay, _When(relay, int(model.size * _LATE), lambda: relay.slow_one(CRAWL)):
                wall = _pull(work, relay, name, model)
                _check_dropped(relay)
                return wall

        results = interleave({"whole": whole, "early": early, "late": late}, work.scale.slow_rounds)
    rows = [Row.of("a pull through the whole link", "s", results["whole"])]
    for key, words in (("early", f"after {_EARLY >> 20} MiB of its own"), ("late", f"at {_LATE:.0%} of the blob")):
        costs = [slow - fast for slow, fast in zip(results[key], results["whole"], strict=True)]
        rows.append(Row.of(f"one connection drops to {CRAWL / 1e3:.0f} KB/s {words}: cost", "s", costs, target=2.0))
    return rows


def _far(origin: Origin) -> Relay:
    return Relay(origin.port, rate=RATE, connection_rate=CONNECTION_RATE, delay=ROUND_TRIP)


def _pull(work: Workspace, relay: Relay, name: str, model: Model) -> float:
    return pull_once(work, f"{relay.host}/{name.partition('/')[2]}", model).wall


def _check_dropped(relay: Relay) -> None:
    assert any(link.rate == CRAWL for link in relay.links), "no connection came to where it should have dropped"


class _When:
    """Does something once the relay has carried so many bytes."""

    def __init__(self, relay: Relay, carried: int, act: Callable[[], object]) -> None:
        self._relay, self._carried, self._act = relay, carried, act
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._wait, name="when")

    def __enter__(self) -> None:
        self._thread.start()

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()

    def _wait(self) -> None:
        while not self._over.wait(0.02):
            if self._relay.carried >= self._carried:
                self._act()
                return
