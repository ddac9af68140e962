"""Fixtures for every test; what they give is in `tests/support/`."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from hypothesis import settings

from tests.support.certificates import Authority
from tests.support.components import require
from tests.support.daemon import TOWLINE, Daemon
from tests.support.docker_registry import DockerRegistry
from tests.support.nginx import Nginx
from tests.support.registry import FaultRegistry

DaemonFactory = Callable[..., Daemon]

settings.register_profile("towline", deadline=None)  # a busy machine is no failure
settings.load_profile("towline")


@pytest.fixture
def registry() -> Iterator[FaultRegistry]:
    """A registry that counts and fails on request."""
    with FaultRegistry() as registry:
        yield registry


@pytest.fixture
def blob_host() -> Iterator[FaultRegistry]:
    """A second one, for `registry.redirect_blobs_to(blob_host)`."""
    with FaultRegistry() as registry:
        yield registry


@pytest.fixture(scope="session")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    """Certificates for servers that speak TLS."""
    require("openssl")
    return Authority.create(tmp_path_factory.mktemp("authority"))


@pytest.fixture(scope="session")
def docker_registry(tmp_path_factory: pytest.TempPathFactory) -> Iterator[DockerRegistry]:
    """Debian's registry, one for the whole run: push to a repository named after the test."""
    require("docker-registry")
    with DockerRegistry(tmp_path_factory.mktemp("docker-registry")) as registry:
        yield registry


@pytest.fixture
def nginx(tmp_path: Path) -> Iterator[Nginx]:
    """A blob host that serves with sendfile under signed addresses."""
    require("nginx")
    with Nginx(tmp_path / "nginx") as nginx:
        yield nginx


@pytest.fixture
def store_path(tmp_path: Path) -> Path:
    """Where a store can be; nothing is there yet."""
    return tmp_path / "models"


@pytest.fixture
def daemon_factory(tmp_path: Path, store_path: Path) -> Iterator[DaemonFactory]:
    """Starts `towline serve`: `daemon_factory()`, `daemon_factory(store, environment={…})`; ends what still runs."""
    assert TOWLINE.exists(), f"{TOWLINE} is missing: run `make setup`"
    with ExitStack() as daemons:

        def start(store: Path = store_path, **options: object) -> Daemon:
            return daemons.enter_context(Daemon(store, tmp_path / "daemons", **options))  # type: ignore[arg-type]

        yield start


@pytest.fixture
def daemon(daemon_factory: DaemonFactory) -> Daemon:
    """A running `towline serve` over `store_path`."""
    return daemon_factory()
