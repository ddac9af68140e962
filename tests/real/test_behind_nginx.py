"""A daemon behind an nginx with its defaults, which keeps an answer back until it is large or over."""

from __future__ import annotations

import contextlib
import http.client
import json
from collections.abc import Iterator
from pathlib import Path

import ollama
import pytest

from tests.support.components import require
from tests.support.daemon import Daemon, PullStream
from tests.support.exchanges import blob
from tests.support.faults import Stall
from tests.support.models import Model, generate
from tests.support.nginx import Proxy
from tests.support.registry import FaultRegistry

MIB = 1 << 20


@pytest.fixture(scope="module")
def model() -> Model:
    return generate(4 * MIB, seed=41)


@pytest.fixture
def proxy(daemon: Daemon, tmp_path: Path) -> Iterator[Proxy]:
    require("nginx")
    with Proxy(tmp_path / "proxy", daemon.url) as proxy:
        yield proxy


@pytest.fixture
def stall(registry: FaultRegistry, model: Model) -> Stall:
    """Holds the weights at 1 MiB: the pull cannot end before it is released."""
    stall = Stall(after=MIB)
    registry.fail(blob(model.weights), stall, times=None)
    return stall


def test_lines_arrive_while_the_pull_runs(registry: FaultRegistry, proxy: Proxy, model: Model, stall: Stall) -> None:
    name = registry.add(model, "library/model")
    connection = http.client.HTTPConnection("127.0.0.1", proxy.port, timeout=20)
    with contextlib.closing(connection):
        connection.request("POST", "/api/pull", json.dumps({"model": name}))
        stream = PullStream(connection, connection.getresponse())
        assert stream.until(lambda _: True) == {"status": "pulling manifest"}
        stream.until_completed(MIB)
        stall.release()
        stream.finish(model=model)


def test_ollamas_own_package_is_told_while_the_pull_runs(
    registry: FaultRegistry, proxy: Proxy, model: Model, stall: Stall
) -> None:
    client = ollama.Client(proxy.url, timeout=6)
    events = iter(client.pull(registry.add(model, "library/model"), stream=True))
    assert next(events).status == "pulling manifest"
    while (next(events).completed or 0) < MIB:
        pass
    stall.release()
    assert list(events)[-1].status == "success"
    client.close()  # type: ignore[no-untyped-call]
