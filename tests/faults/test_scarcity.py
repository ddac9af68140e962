"""A moment without threads or memory: a sentence while it lasts, and everything well after it."""

from __future__ import annotations

import contextlib
import http.client
import json
import threading
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import pytest

from tests.conftest import DaemonFactory
from tests.support.daemon import Daemon, Usage
from tests.support.models import Model, generate
from tests.support.pulling import eventually
from tests.support.registry import FaultRegistry
from tests.support.scarcity import few_threads, little_memory

PULLS = 24


@pytest.fixture(scope="module")
def models() -> list[Model]:
    return [generate((1 << 20) + 4096 * number, seed=number) for number in range(PULLS)]


def outcome(daemon: Daemon, name: str) -> str:
    """How a pull ended: `success`, or the error's sentence; what the connection did where there was no answer."""
    try:
        with contextlib.closing(http.client.HTTPConnection("127.0.0.1", daemon.port, timeout=60)) as connection:
            connection.request("POST", "/api/pull", json.dumps({"model": name, "stream": False}))
            answer = json.loads(connection.getresponse().read())
    except (ConnectionError, http.client.HTTPException):
        return "no connection"
    return str(answer.get("status") or answer["error"])


def outcomes(daemon: Daemon, names: list[str]) -> list[str]:
    with ThreadPoolExecutor(len(names)) as callers:
        return list(callers.map(partial(outcome, daemon), names))


@pytest.mark.parametrize("spare", [0, 1, 3, 8])
def test_without_threads_each_pull_ends_and_all_are_well_after_it(
    daemon_factory: DaemonFactory, registry: FaultRegistry, models: list[Model], spare: int
) -> None:
    names = [registry.add(model, f"library/m{number}") for number, model in enumerate(models)]
    daemon = daemon_factory()
    assert outcome(daemon, registry.add(generate(5000, seed=99), "library/first")) == "success"
    with few_threads(daemon.pid, spare):
        during = outcomes(daemon, names)
    assert all(each == "success" or "thread" in each or "no data" in each for each in during), during
    assert outcomes(daemon, names) == ["success"] * PULLS


@pytest.mark.parametrize("spare", [4 << 20, 20 << 20, 60 << 20])
def test_without_memory_each_pull_ends_and_all_are_well_after_it(
    daemon_factory: DaemonFactory, registry: FaultRegistry, models: list[Model], spare: int
) -> None:
    names = [registry.add(model, f"library/m{number}") for number, model in enumerate(models)]
    daemon = daemon_factory()
    assert outcome(daemon, registry.add(generate(5000, seed=99), "library/first")) == "success"
    with little_memory(daemon.pid, spare):
        during = outcomes(daemon, names)
    assert not [each for each in during if "another process" in each], during
    assert outcomes(daemon, names) == ["success"] * PULLS
    before = Usage.of(daemon.pid).descriptors
    eventually(lambda: Usage.of(daemon.pid).descriptors <= before, "files to be closed")


def test_what_a_pull_holds_is_given_back_where_memory_runs_out_in_its_middle(
    daemon_factory: DaemonFactory, registry: FaultRegistry
) -> None:
    model = generate(48 << 20)
    name = registry.add(model, "library/large")
    daemon = daemon_factory()
    ended = list[str]()
    for spare in (1 << 20, 2 << 20, 8 << 20):
        caller = threading.Thread(target=lambda: ended.append(outcome(daemon, name)))
        with little_memory(daemon.pid, spare):
            caller.start()
            caller.join()
    assert not [each for each in ended if "another process" in each], ended
    assert outcome(daemon, name) == "success"
