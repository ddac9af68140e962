"""A daemon behind an nginx with its defaults, which keeps an answer back until it is large or over."""

from __future__ import annotations

import contextlib
import http.client
import json
import socket
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


BUFFER = 4096
"""Bytes that nginx keeps back by default until they are so many, or the answer is over."""


def test_the_first_lines_arrive_before_nginx_would_have_had_enough_of_them(
    registry: FaultRegistry, proxy: Proxy, model: Model, stall: Stall
) -> None:
    body = json.dumps({"model": registry.add(model, "library/model")}).encode()
    head = f"POST /api/pull HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: {len(body)}\r\n\r\n"
    with socket.create_connection(("127.0.0.1", proxy.port), timeout=20) as connection:
        connection.sendall(head.encode() + body)
        received = b""
        while b"pulling manifest" not in received:
            received += connection.recv(1 << 16)
        assert len(received) < BUFFER / 2


def test_lines_arrive_while_the_pull_runs(registry: FaultRegistry, proxy: Proxy, model: Model, stall: Stall) -> None:
    connection = http.client.HTTPConnection("127.0.0.1", proxy.port, timeout=20)
    with contextlib.closing(connection):
        connection.request("POST", "/api/pull", json.dumps({"model": registry.add(model, "library/model")}))
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
