"""One towline pulls from another: every daemon is a registry to its neighbours."""

from __future__ import annotations

import contextlib
import socket
import struct
from pathlib import Path

import pytest

from tests.conftest import DaemonFactory
from tests.real.stores import check_stored
from tests.support.daemon import Daemon
from tests.support.docker_registry import DockerRegistry
from tests.support.listener import unused_port
from tests.support.models import SYSTEM_LAYER, Blob, generate, tiny
from tests.support.registry import FaultRegistry
from tests.support.relay import Relay
from towline.demo.seed import blob_path

MIB = 1 << 20


@pytest.fixture
def first(daemon_factory: DaemonFactory, registry: FaultRegistry, tmp_path: Path) -> Daemon:
    """The daemon that is pulled from; what it does not have itself comes from `registry`."""
    return daemon_factory(tmp_path / "first", environment=mirrors(registry.url))


def mirrors(*endpoints: str, host: str = "registry.ollama.ai") -> dict[str, str]:
    """The settings by which a host's models come from these endpoints, in their order."""
    return {"TOWLINE_MIRRORS": ",".join(f"{host}={endpoint}" for endpoint in endpoints)}


def test_a_model_goes_on_to_the_next_though_the_registry_is_gone(
    daemon_factory: DaemonFactory, registry: FaultRegistry, first: Daemon
) -> None:
    model = generate(24 * MIB)
    registry.add(model, "library/shared")
    first.pull("shared", model=model)
    registry.stop()
    second = daemon_factory(environment=mirrors(first.url))
    second.pull("shared", model=model)
    check_stored(second.store, "shared", model)
    third = daemon_factory(second.store.with_name("third"), environment=mirrors(second.url))
    third.pull("shared", model=model)
    check_stored(third.store, "shared", model)


def test_models_of_two_hosts_with_one_name_are_told_apart(
    daemon_factory: DaemonFactory, registry: FaultRegistry, docker_registry: DockerRegistry, first: Daemon
) -> None:
    registry.add(tiny(1), "library/same-name")
    other = docker_registry.push(tiny(2), "library/same-name")
    first.pull("same-name", model=tiny(1))
    first.pull(other, model=tiny(2))
    ours, theirs = mirrors(first.url), mirrors(first.url, host=docker_registry.host)
    both = {"TOWLINE_MIRRORS": f"{ours['TOWLINE_MIRRORS']},{theirs['TOWLINE_MIRRORS']}"}
    second = daemon_factory(environment=both)
    docker_registry.reset()
    registry.reset()
    second.pull("same-name", model=tiny(1))
    second.pull(other, model=tiny(2))
    check_stored(second.store, "same-name", tiny(1))
    check_stored(second.store, other, tiny(2))
    assert not registry.exchanges()
    assert not docker_registry.requests("GET", "/same-name/")


@pytest.mark.parametrize("neighbour", ["is down", "does not have the model"])
def test_a_neighbour_that_cannot_help_is_passed_over(
    daemon_factory: DaemonFactory, registry: FaultRegistry, first: Daemon, neighbour: str
) -> None:
    model = generate(4 * MIB)
    registry.add(model, "library/not-there")
    nearest = first.url if neighbour == "does not have the model" else f"http://127.0.0.1:{unused_port()}"
    second = daemon_factory(environment=mirrors(nearest, registry.url))
    second.pull("not-there", model=model)
    check_stored(second.store, "not-there", model)


def test_a_blob_that_is_damaged_at_the_neighbour_comes_from_the_registry(
    daemon_factory: DaemonFactory, registry: FaultRegistry, first: Daemon
) -> None:
    model = generate(4 * MIB)
    registry.add(model, "library/damaged")
    first.pull("damaged", model=model)
    with blob_path(first.store, model.weights.digest).open("r+b") as file:
        file.seek(2 * MIB)
        file.write(b"not what was here")
    second = daemon_factory(environment=mirrors(first.url, registry.url))
    second.pull("damaged", model=model)
    check_stored(second.store, "damaged", model)


def test_a_new_version_at_the_neighbour_costs_what_changed(
    daemon_factory: DaemonFactory, registry: FaultRegistry, first: Daemon
) -> None:
    model = generate(4 * MIB)
    newer = model.with_layer(Blob.of(SYSTEM_LAYER, "You are the next version."))
    second = daemon_factory(environment=mirrors(first.url))
    for version in (model, newer):
        registry.add(version, "library/renewed")
        first.pull("renewed", model=version)
        pull = second.pull("renewed", model=version)
    assert pull.fetched == {each.digest for each in newer.blobs} - {each.digest for each in model.blobs}
    check_stored(second.store, "renewed", newer)


def test_a_pull_that_was_killed_goes_on_where_it_stood(
    daemon_factory: DaemonFactory, registry: FaultRegistry, first: Daemon
) -> None:
    model = generate(24 * MIB)
    registry.add(model, "library/interrupted")
    first.pull("interrupted", model=model)
    with Relay(first.port, rate=8 * MIB) as relay:
        environment = mirrors(f"http://{relay.host}")
        killed = daemon_factory(environment=environment)
        with killed.pulling("interrupted") as stream:
            stream.until_completed(8 * MIB)
            killed.kill()
        relay.rate = None
        after = daemon_factory(environment=environment)
        assert after.pull("interrupted", model=model).first(model.weights) > 4 * MIB
    check_stored(after.store, "interrupted", model)


def test_a_neighbour_that_breaks_off_in_the_middle_of_a_blob_leaves_no_traceback(
    registry: FaultRegistry, first: Daemon
) -> None:
    model = generate(24 * MIB)
    registry.add(model, "library/broken-off")
    first.pull("broken-off", model=model)
    request = f"GET /v2/library/broken-off/blobs/{model.weights.digest} HTTP/1.1\r\nHost: {first.host}\r\n\r\n"
    with contextlib.closing(socket.create_connection(("127.0.0.1", first.port), timeout=20)) as connection:
        connection.sendall(request.encode())
        assert connection.recv(1000).startswith(b"HTTP/1.1 200 ")
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    assert first.request("GET", "/api/version").status == 200
    assert first.terminate() == 0
    first.close()
