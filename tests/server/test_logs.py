"""What the daemon's log says, and in which form."""

from __future__ import annotations

import json
import socket
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import DaemonFactory
from tests.server.support import until
from tests.support.daemon import Daemon
from tests.support.exchanges import blob, manifest
from tests.support.faults import Slow, Status
from tests.support.listener import unused_port
from tests.support.models import generate
from tests.support.registry import FaultRegistry

SIZE = 2 << 20


def entries(daemon: Daemon) -> list[dict[str, Any]]:
    """The log of a daemon that writes JSON: an object each line, without exception."""
    return [json.loads(line) for line in daemon.output.splitlines()]


def of_pulls(daemon: Daemon) -> list[dict[str, Any]]:
    return [entry for entry in entries(daemon) if entry["event"].startswith("pull ")]


@pytest.fixture
def logging_json(daemon_factory: DaemonFactory) -> Daemon:
    return daemon_factory(environment={"TOWLINE_LOG": "json"})


def test_a_pull_says_when_it_begins_and_what_it_brought(logging_json: Daemon, registry: FaultRegistry) -> None:
    name = registry.add(generate(SIZE), "library/tiny")
    logging_json.pull(name)
    logging_json.pull(name)
    first, brought, _, nothing = of_pulls(logging_json)
    assert (first["event"], first["model"], first["level"]) == ("pull begins", name, "info")
    assert (brought["event"], brought["model"], brought["level"]) == ("pull ended", name, "info")
    assert brought["bytes"] == sum(each.size for each in generate(SIZE).blobs)
    assert brought["sources"] == [registry.host]
    assert 0 <= brought["seconds"] < 60
    assert "error" not in brought
    assert (nothing["bytes"], nothing["sources"]) == (0, [registry.host])  # it sent the manifest


def test_a_pull_that_fails_says_why(logging_json: Daemon, registry: FaultRegistry) -> None:
    name = registry.add(generate(SIZE), "library/tiny")
    registry.fail(manifest(), Status(403), times=None)
    logging_json.pull(name, success=False)
    _, failed = of_pulls(logging_json)
    assert (failed["event"], failed["model"]) == ("pull failed", name)
    assert "403" in failed["error"]


def test_a_pull_that_was_left_says_so_once_for_all_who_joined_it(logging_json: Daemon, registry: FaultRegistry) -> None:
    name = registry.add(generate(SIZE), "library/tiny")
    registry.fail(blob(), Slow(100_000, after=SIZE // 4), times=None)
    with logging_json.pulling(name) as first, logging_json.pulling(name) as second:
        first.until_completed(SIZE // 8)
        second.until_completed(SIZE // 8)
    until(lambda: len(of_pulls(logging_json)) == 2, 10)
    assert "stopped" in of_pulls(logging_json)[1]["error"]
    assert 0 < of_pulls(logging_json)[1]["bytes"] < SIZE


def test_text_says_the_same(daemon: Daemon, registry: FaultRegistry) -> None:
    name = registry.add(generate(SIZE), "library/tiny")
    daemon.pull(name)
    _, begins, ends = daemon.output.splitlines()
    assert "pull begins" in begins
    assert name in begins
    assert "pull ended" in ends
    assert registry.host in ends


@pytest.mark.parametrize("debug", ["1", "2"])
def test_debug_tells_of_every_request(daemon_factory: DaemonFactory, debug: str) -> None:
    daemon = daemon_factory(environment={"TOWLINE_LOG": "json", "OLLAMA_DEBUG": debug})
    daemon.request("GET", "/api/tags?token=none")
    daemon.request("GET", "/nothing")
    asked = [(entry["path"], entry["status"]) for entry in entries(daemon) if entry["event"] == "request"]
    assert asked[-2:] == [("/api/tags", 200), ("/nothing", 404)]


def test_without_debug_requests_are_not_told(daemon: Daemon) -> None:
    daemon.request("GET", "/api/tags")
    assert len(daemon.output.splitlines()) == 1


def test_less_than_nothing_of_debug_tells_of_troubles_alone(
    daemon_factory: DaemonFactory, registry: FaultRegistry
) -> None:
    daemon = daemon_factory(environment={"OLLAMA_DEBUG": "-1"})
    daemon.pull(registry.add(generate(SIZE), "library/tiny"))
    assert daemon.output == ""


@pytest.mark.parametrize(("setting", "served"), [("", False), ("0", False), ("1", True)])
def test_an_open_daemon_says_who_can_reach_it_and_what_they_get(
    daemon_factory: DaemonFactory, setting: str, served: bool
) -> None:
    port = unused_port()
    environment = {"OLLAMA_HOST": f"0.0.0.0:{port}", "TOWLINE_LOG": "json", "TOWLINE_SERVE_REGISTRY": setting}
    daemon = daemon_factory(environment=environment, port=port)
    where, who = entries(daemon)
    assert where["addresses"] == [f"0.0.0.0:{port}"]
    assert f"other machines can reach this towline at 0.0.0.0:{port}" in who["event"]
    assert ("is served" in who["event"], "is refused" in who["event"]) == (served, not served)
    assert f"TOWLINE_SERVE_REGISTRY={0 if served else 1}" in who["event"]
    assert (daemon.request("GET", "/v2/").status == 200) is served


def test_every_address_that_it_is_bound_to_is_told(daemon_factory: DaemonFactory) -> None:
    port = unused_port()
    daemon = daemon_factory(environment={"OLLAMA_HOST": f":{port}", "TOWLINE_LOG": "json"}, port=port)
    expected = [
        f"0.0.0.0:{port}",
        *([f"[::]:{port}"] if socket.has_ipv6 and Path("/proc/net/if_inet6").exists() else []),
    ]
    assert entries(daemon)[0]["addresses"] == expected


def test_what_libraries_log_is_json_too(daemon_factory: DaemonFactory, registry: FaultRegistry) -> None:
    daemon = daemon_factory(environment={"TOWLINE_LOG": "json", "OLLAMA_DEBUG": "1"})
    daemon.pull(registry.add(generate(SIZE), "library/tiny"))
    told = [entry for entry in entries(daemon) if "new HTTP connection" in entry["event"]]
    assert told
    assert {entry["level"] for entry in told} == {"debug"}
