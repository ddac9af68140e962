"""Fixtures of the registry client's tests."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

import pytest

from tests.support.pauses import short_pauses
from tests.support.registry import FaultRegistry
from tests.support.trust import strangers, trust
from towline.model.name import ModelName
from towline.registry.client import Registry, Resolved
from towline.settings import Settings

Resolve = Callable[..., Resolved]


__all__ = ["short_pauses", "strangers", "trust"]


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
