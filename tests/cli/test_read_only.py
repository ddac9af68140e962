"""A store on a file system that cannot be written: what needs no writing works, and the rest says why it does not."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.cli.support import Command
from tests.conftest import DaemonFactory
from tests.support import models
from tests.support.models import Model
from tests.support.mounts import make_read_only, small_disk
from tests.support.registry import FaultRegistry

MODEL = models.tiny()


@pytest.fixture
def name(towline: Command, registry: FaultRegistry, store_path: Path) -> Iterator[str]:
    """A model that was pulled into the store before that became read-only."""
    with small_disk(store_path, 64_000_000):
        name = registry.add(MODEL, "library/tiny")
        assert towline.run("pull", name).code == 0
        make_read_only(store_path)
        registry.reset()
        yield name


@pytest.fixture(params=["embedded", "daemon"])
def pulling(request: pytest.FixtureRequest, name: str, towline: Command, daemon_factory: DaemonFactory) -> Command:
    """The command with nothing beside it, and with a daemon over the same store."""
    if request.param == "daemon":
        towline.environment["OLLAMA_HOST"] = daemon_factory().host
    return towline


def test_a_model_that_is_up_to_date_is_pulled(pulling: Command, name: str, registry: FaultRegistry) -> None:
    result = pulling.run("pull", "--json", name)
    assert (result.code, result.said) == (0, [])
    result.pull(model=MODEL)
    assert pulling.run("pull", name).lines[-1] == f"{name} is up to date"
    assert not registry.blob_requests()


@pytest.mark.parametrize(
    "other", [("library/other", models.tiny(2)), ("library/tiny", models.tiny(3))], ids=["new", "newer"]
)
def test_what_would_have_to_be_written_is_refused_with_the_reason(
    pulling: Command, name: str, registry: FaultRegistry, other: tuple[str, Model]
) -> None:
    repository, model = other
    assert "read-only" in pulling.run("pull", registry.add(model, repository)).failed()
    assert not registry.blob_requests()


def test_a_model_whose_weights_are_gone_is_not_up_to_date(
    towline: Command, name: str, store_path: Path, tmp_path: Path
) -> None:
    weights = store_path / "blobs" / MODEL.weights.digest.file_name
    with small_disk(weights.parent, 1_000_000):
        assert "read-only" in towline.run("pull", name).failed()


def test_it_is_listed(towline: Command, name: str) -> None:
    result = towline.run("list")
    assert (result.code, result.err, len(result.lines)) == (0, "", 2)
    assert towline.run("path", name).code == 0


def test_it_is_served_and_that_pulls_will_fail_is_said(daemon_factory: DaemonFactory, name: str) -> None:
    daemon = daemon_factory()
    assert "the store can only be read" in daemon.output
    assert [model["name"] for model in daemon.request("GET", "/api/tags").json["models"]] == [name]
    host, _, repository = name.partition("/")
    manifest = daemon.request("GET", f"/v2/{repository.partition(':')[0]}/manifests/latest?ns={host}")
    assert (manifest.status, manifest.body) == (200, MODEL.manifest)
    weights = daemon.request("GET", f"/v2/{repository.partition(':')[0]}/blobs/{MODEL.weights.digest}?ns={host}")
    assert (weights.status, weights.body) == (200, MODEL.weights.data)
