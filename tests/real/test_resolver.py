"""The name of a registry that is gone from the resolver in the middle of a pull."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from tests.conftest import DaemonFactory
from tests.support.daemon import Daemon, PullStream
from tests.support.exchanges import blob
from tests.support.faults import Stall
from tests.support.models import Model, generate
from tests.support.registry import FaultRegistry
from tests.support.resolver import NAME, Resolver

MIB = 1 << 20


@pytest.fixture
def resolver(tmp_path: Path) -> Resolver:
    return Resolver(tmp_path / "resolver")


@pytest.fixture
def daemon(resolver: Resolver, daemon_factory: DaemonFactory, registry: FaultRegistry) -> Daemon:
    environment = {"TOWLINE_PLAIN_HTTP": f"{NAME}:{registry.port}", "TOWLINE_STALL_TIMEOUT": "5"}
    return daemon_factory(environment=environment, within=resolver.within)


@pytest.fixture
def model() -> Model:
    return generate(8 * MIB)


@pytest.fixture
def name(registry: FaultRegistry, model: Model) -> str:
    registry.add(model, "library/model")
    registry.fail(blob(model.weights), Stall(after=2 * MIB), times=None)
    return f"{NAME}:{registry.port}/library/model"


def lose(stream: PullStream, resolver: Resolver, registry: FaultRegistry) -> None:
    """In the middle of the pull the name goes, and every connection with it."""
    stream.until_completed(2 * MIB)
    resolver.gone()
    registry.stop()
    registry.heal()
    registry.start()


def test_a_pull_goes_on_when_the_name_is_there_again(
    daemon: Daemon, resolver: Resolver, registry: FaultRegistry, model: Model, name: str
) -> None:
    with daemon.pulling(name) as stream:
        lose(stream, resolver, registry)
        time.sleep(1)  # so that some tries are in vain
        resolver.back()
        stream.finish(model=model)


def test_a_name_that_stays_gone_is_named_and_what_arrived_is_kept(
    daemon: Daemon, resolver: Resolver, registry: FaultRegistry, model: Model, name: str
) -> None:
    with daemon.pulling(name) as stream:
        lose(stream, resolver, registry)
        error = stream.finish(success=False, model=model).error
    assert error is not None
    assert f"the name {NAME}:{registry.port} cannot be resolved" in error
    registry.reset()
    resolver.back()
    daemon.pull(name, model=model)
    assert registry.bytes_sent(model.weights) <= 6 * MIB
