"""Fixtures of the registry client's tests."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

import pytest

from tests.support.certificates import Authority
from tests.support.components import require
from tests.support.registry import FaultRegistry
from towline.model.name import ModelName
from towline.registry.client import Registry, Resolved
from towline.settings import Settings

Resolve = Callable[..., Resolved]


@pytest.fixture(scope="session")
def strangers(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    """Another authority than the one that the servers of the tests have their certificates from."""
    require("openssl")
    return Authority.create(tmp_path_factory.mktemp("strangers"))


@pytest.fixture(autouse=True)
def trust(strangers: Authority, monkeypatch: pytest.MonkeyPatch) -> None:
    """One authority to trust instead of the system's hundred and fifty, which take 30 ms to read."""
    monkeypatch.setenv("SSL_CERT_FILE", str(strangers.ca))


@pytest.fixture
def client_factory() -> Iterator[Callable[..., Registry]]:
    """Makes registry clients; `changes` are fields of `Settings`. Bounds are short where nothing says otherwise."""
    with ExitStack() as clients:

        def make(**changes: object) -> Registry:
            settings = Settings(models=Path("/nowhere"), stall_timeout=10.0, refused_timeout=0.3)
            client = Registry(replace(settings, **changes))  # type: ignore[arg-type]
            clients.callback(client.close)
            return client

        yield make


@pytest.fixture
def resolve(client_factory: Callable[..., Registry], registry: FaultRegistry) -> Resolve:
    """Asks what a name means: `resolve("library/tiny")` at the registry of the test, or `resolve(name, mirrors=…)`."""

    def ask(name: str, **changes: object) -> Resolved:
        client = client_factory(**changes)
        with client.call() as call:
            return client.resolve(call, ModelName.parse(f"{registry.host}/{name}" if name.count("/") == 1 else name))

    return ask
