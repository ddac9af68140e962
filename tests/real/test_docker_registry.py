"""Pulls from Debian's `docker-registry`, the reference implementation, by a real daemon."""

from __future__ import annotations

import os
import time
from pathlib import Path

import gguf
import pytest

from tests.conftest import DaemonFactory
from tests.real.stores import check_stored, published
from tests.support.components import require
from tests.support.daemon import Daemon
from tests.support.docker_registry import DockerRegistry, Login
from tests.support.events import check_sentence
from tests.support.models import SYSTEM_LAYER, Blob, Model, crowd, generate, tiny
from towline.demo.seed import blob_path, manifest_path


def test_every_byte_comes(docker_registry: DockerRegistry, daemon: Daemon) -> None:
    model = generate(24 << 20, layers=2, seed=1)
    name = docker_registry.push(model, "library/every-byte")
    daemon.pull(name, model=model)
    check_stored(daemon.store, name, model)
    assert len(published(daemon.store)) == len(model.blobs) + 1


def test_a_second_pull_asks_for_the_manifest_and_for_no_blob(docker_registry: DockerRegistry, daemon: Daemon) -> None:
    model = generate(2 << 20, seed=2)
    name = docker_registry.push(model, "library/second-pull")
    daemon.pull(name, model=model)
    assert {each.digest for each in model.blobs if docker_registry.blob_requests(each)} == {
        each.digest for each in model.blobs
    }
    docker_registry.reset()
    assert not daemon.pull(name, model=model).fetched
    daemon.pull_quietly(name)
    assert docker_registry.requests("GET", "/library/second-pull/manifests/latest")
    assert not docker_registry.blob_requests()


def test_a_new_version_costs_what_changed(docker_registry: DockerRegistry, daemon: Daemon) -> None:
    model = generate(2 << 20, seed=3)
    newer = model.with_layer(Blob.of(SYSTEM_LAYER, "You are the next version."))
    name = docker_registry.push(model, "library/new-version")
    daemon.pull(name, model=model)
    for replaced in {blob.digest for blob in model.blobs} - {blob.digest for blob in newer.blobs}:
        os.utime(blob_path(daemon.store, replaced), (time.time() - 7200,) * 2)  # what is younger than an hour stays
    assert docker_registry.push(newer, "library/new-version") == name
    docker_registry.reset()
    pull = daemon.pull(name, model=newer)
    assert "removing unused layers" in pull.steps
    assert pull.fetched == {blob.digest for blob in newer.blobs} - {blob.digest for blob in model.blobs}
    assert len(docker_registry.blob_requests()) == len(pull.fetched)
    check_stored(daemon.store, name, newer)
    assert len(published(daemon.store)) == len(newer.blobs) + 1


def test_a_real_model_comes_and_opens(docker_registry: DockerRegistry, daemon: Daemon, smollm: Model) -> None:
    name = docker_registry.push(smollm, "library/smollm2", "135m")
    daemon.pull(name, model=smollm)
    check_stored(daemon.store, name, smollm)
    reader = gguf.GGUFReader(blob_path(daemon.store, smollm.weights.digest))
    assert reader.get_field("general.architecture").contents() == "llama"
    assert reader.get_field("llama.context_length").contents() == 8192
    assert len(reader.tensors) == 272
    (listed,) = daemon.request("GET", "/api/tags").json["models"]
    assert (listed["name"], listed["digest"]) == (name, smollm.digest.hex)
    assert listed["details"]["family"] == "llama"


def test_a_mirror_gives_the_model_under_its_own_name(
    docker_registry: DockerRegistry, daemon_factory: DaemonFactory
) -> None:
    docker_registry.push(tiny(5), "library/mirrored", "1b")
    daemon = daemon_factory(environment={"TOWLINE_MIRRORS": f"registry.ollama.ai={docker_registry.url}"})
    daemon.pull("mirrored:1b", model=tiny(5))
    check_stored(daemon.store, "registry.ollama.ai/library/mirrored:1b", tiny(5))


def test_a_pinned_manifest_comes(docker_registry: DockerRegistry, lasting_daemon: Daemon) -> None:
    name = docker_registry.push(tiny(6), "library/pinned")
    docker_registry.push(tiny(7), "library/pinned")
    lasting_daemon.pull(f"{name}@{tiny(6).digest}", model=tiny(6))
    check_stored(lasting_daemon.store, name, tiny(6))


@pytest.mark.parametrize("stream", [True, False], ids=["streamed", "at once"])
@pytest.mark.parametrize(
    "name",
    ["library/nobody-has-this", "library/there:nobody-has-this-tag", "library/Not-A-Name-For-It", "library/a..b"],
)
def test_what_the_registry_does_not_have_or_calls_no_name_is_not_found(
    docker_registry: DockerRegistry, lasting_daemon: Daemon, name: str, stream: bool
) -> None:
    docker_registry.push(tiny(), "library/there")
    whole = f"{docker_registry.host}/{name}"
    answer = lasting_daemon.request("POST", "/api/pull", {"model": whole, "stream": stream})
    assert answer.status == 404, answer
    assert list(answer.json) == ["error"]
    check_sentence(answer.json["error"])
    assert name.partition(":")[0] in answer.json["error"]
    assert not manifest_path(lasting_daemon.store, whole).exists()


def test_a_registry_that_wants_a_login_says_so(daemon: Daemon, tmp_path: Path) -> None:
    require("docker-registry")
    require("htpasswd")
    with DockerRegistry(tmp_path / "closed", login=Login("somebody", "secret")) as registry:
        answer = daemon.request("POST", "/api/pull", {"model": registry.push(tiny(), "library/tiny")})
        assert answer.status == 500
        check_sentence(answer.json["error"])
        assert "login" in answer.json["error"]
        assert not registry.blob_requests()


def test_a_hundred_small_layers_come(docker_registry: DockerRegistry, daemon: Daemon) -> None:
    model = crowd(100, seed=13)
    name = docker_registry.push(model, "library/crowd")
    daemon.pull(name, model=model)
    check_stored(daemon.store, name, model)
