"""A pull always ends: by its patience where nothing moves, and not before."""

from __future__ import annotations

import json
import threading
from pathlib import Path

import pytest

from tests.support import faults
from tests.support.exchanges import Match, blob, manifest, path
from tests.support.models import Model, crowd, generate
from tests.support.pulling import Pulling
from tests.support.registry import FaultRegistry
from towline.errors import NotFound, Starved
from towline.model.events import SUCCESS, Status
from towline.model.manifest import OCI_INDEX, OCI_MANIFEST
from towline.model.name import ModelName
from towline.registry import race
from towline.settings import Mirror

PATIENCE = 1.5


@pytest.fixture(scope="module")
def model() -> Model:
    return generate(3 << 20)


@pytest.mark.parametrize(
    "fault",
    [faults.Status(500), faults.Status(429, retry_after=3600), faults.Stall(), faults.Stall(after=0)],
    ids=str,
)
@pytest.mark.parametrize("asked", [manifest(), blob()], ids=["manifest", "blob"])
def test_whatever_a_registry_does_not_answer_the_pull_ends_and_names_it(
    registry: FaultRegistry, store_path: Path, model: Model, fault: faults.Fault, asked: object
) -> None:
    name = registry.add(model, "library/tiny")
    registry.fail(asked, fault, times=None)  # type: ignore[arg-type]
    with Pulling(store_path, stall_timeout=PATIENCE) as pulling:
        sentence = str(pulling.fail(name))
    assert registry.host in sentence
    assert f"no data for {PATIENCE:g} s" in sentence


def test_a_source_that_is_slower_to_begin_than_to_send_is_not_asked_twice_for_what_it_answers(
    registry: FaultRegistry, store_path: Path
) -> None:
    model = generate(40 << 20)
    name = registry.add(model, "library/large")
    registry.fail(blob(model.weights), faults.Delay(3.0), times=None)
    with Pulling(store_path, stall_timeout=20.0) as pulling:
        pulling.pull(name, model)
    answered = [each for each in registry.blob_requests(model.weights) if each.sent]
    assert len(answered) <= 4  # a second connection that asks meanwhile is ended before it is answered
    assert registry.bytes_sent(model.weights) < model.weights.size + (4 << 20)


def test_a_connection_that_never_answers_is_overtaken_by_a_second_one(
    registry: FaultRegistry, store_path: Path, model: Model
) -> None:
    name = registry.add(model, "library/tiny")
    registry.fail(blob(model.weights), faults.Stall(), times=1)
    with Pulling(store_path, stall_timeout=25.0, connections_per_blob=1) as pulling:
        pulling.pull(name, model)
    assert len(registry.blob_requests(model.weights)) == 2


def test_a_pull_that_keeps_trying_outlasts_a_registry_that_is_down_and_says_so(
    registry: FaultRegistry, store_path: Path, model: Model
) -> None:
    name = ModelName.parse(registry.add(model, "library/tiny"))
    registry.stop()
    with Pulling(store_path, stall_timeout=0.5, refused_timeout=0.5) as pulling:
        watcher = pulling.puller.join(name, keep_trying=True)
        pull = pulling.puller._running[name.key, None]
        said = threading.Event()
        with watcher:
            for _ in range(400):
                watcher.wait(0.05)
                watcher.poll()
                if pull.course.waiting:
                    said.set()
                    break
            assert said.is_set()
            assert registry.host in pull.course.waiting
            registry.start()
            assert list(watcher.events())[-1] == Status(SUCCESS)


def test_without_a_thread_to_spare_a_pull_is_refused_with_a_sentence_and_well_a_moment_later(
    registry: FaultRegistry, store_path: Path, model: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = registry.add(model, "library/tiny")

    def none(_: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    with Pulling(store_path) as pulling:
        with monkeypatch.context() as starved:
            starved.setattr(threading.Thread, "start", none)
            with pytest.raises(Starved, match="no thread"):
                pulling.puller.join(ModelName.parse(name))
        pulling.pull(name, model)


def test_a_registry_that_restarts_in_the_middle_gets_the_whole_patience(
    registry: FaultRegistry, store_path: Path
) -> None:
    model = generate(40 << 20)
    name = registry.add(model, "library/large")
    held = faults.Stall(after=1 << 20)
    registry.fail(blob(model.weights), held, times=1)
    with Pulling(store_path, stall_timeout=20.0, refused_timeout=0.5) as pulling:
        pull = pulling.start(name)
        assert held.reached.wait(20)
        registry.stop()
        held.release()
        threading.Event().wait(2.0)  # four times what is given to a source that has sent nothing
        registry.heal()
        registry.start()
        pull.finish(model)


def test_a_manifest_that_takes_longer_than_the_patience_comes_as_long_as_it_flows(
    registry: FaultRegistry, store_path: Path
) -> None:
    model = crowd(300)
    name = registry.add(model, "library/many")
    registry.fail(manifest(), faults.Slow(len(model.manifest) / 4), times=1)
    with Pulling(store_path, stall_timeout=2.0) as pulling:
        pulling.pull(name, model)


def test_a_manifest_that_drips_is_given_up(registry: FaultRegistry, store_path: Path, model: Model) -> None:
    name = registry.add(model, "library/tiny")
    registry.fail(manifest(), faults.Slow(10.0), times=None)
    with Pulling(store_path, stall_timeout=PATIENCE) as pulling:
        assert registry.host in str(pulling.fail(name))


@pytest.fixture
def mirrors(registry: FaultRegistry, blob_host: FaultRegistry) -> tuple[Mirror, ...]:
    return (Mirror("models.example", registry.url), Mirror("models.example", blob_host.url))


NAMED = "models.example/library/tiny"


def test_a_mirror_may_think_for_most_of_the_patience_though_there_are_others(
    registry: FaultRegistry, blob_host: FaultRegistry, store_path: Path, model: Model, mirrors: tuple[Mirror, ...]
) -> None:
    registry.add(model, "library/tiny")
    blob_host.stop()
    rule = registry.fail(manifest(), faults.Delay(2.5), times=None)
    with Pulling(store_path, stall_timeout=4.0, mirrors=mirrors) as pulling:
        pulling.pull(NAMED, model)
    assert rule.hits == 1


def test_what_a_mirror_does_not_have_is_not_found_though_another_never_answers(
    registry: FaultRegistry, store_path: Path, model: Model, mirrors: tuple[Mirror, ...]
) -> None:
    registry.fail(manifest(), faults.Stall(), times=None)
    with Pulling(store_path, stall_timeout=PATIENCE, mirrors=mirrors) as pulling:
        assert isinstance(pulling.fail(NAMED), NotFound)


@pytest.mark.parametrize("asked", [manifest(), path("/blobs/"), path("^/data/")], ids=["manifest", "blob", "blob host"])
def test_a_pull_that_keeps_trying_leaves_alone_who_thinks_for_longer_than_the_patience(
    registry: FaultRegistry, blob_host: FaultRegistry, store_path: Path, model: Model, asked: Match
) -> None:
    name = registry.add(model, "library/tiny")
    registry.redirect_blobs_to(blob_host)
    rules = [each.fail(asked, faults.Delay(2.5), times=None) for each in (registry, blob_host)]
    with Pulling(store_path, stall_timeout=1.0, keep_trying=True, connections_per_blob=1) as pulling:
        pulling.pull(name, model)
    assert all(rule.hits <= len(model.blobs) for rule in rules)


@pytest.mark.parametrize("kind", ["index", "pin"])
def test_two_questions_may_each_think_for_most_of_the_patience(
    registry: FaultRegistry, store_path: Path, model: Model, kind: str
) -> None:
    name = registry.add(model, "library/tiny")
    if kind == "index":
        registry.put_manifest("library/tiny", "latest", index_of(model), OCI_INDEX)
    else:
        registry.fail(lambda exchange: exchange.reference.startswith("sha256:"), faults.Status(404), times=None)
        name = f"{name}@{model.digest}"
    registry.fail(manifest(), faults.Delay(1.6), times=None)
    with Pulling(store_path, stall_timeout=2.6) as pulling:
        pulling.pull(name)
    assert len(registry.exchanges(manifest())) == 2


def test_an_index_that_comes_again_and_again_renews_no_patience(
    registry: FaultRegistry, store_path: Path, model: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(race, "_LONGEST_PAUSE", 0.2)
    name = registry.add(model, "library/tiny")
    registry.put_manifest("library/tiny", "latest", index_of(model) + b" " * 5000, OCI_INDEX)
    registry.fail(lambda exchange: exchange.reference.startswith("sha256:"), faults.Status(503), times=None)
    with Pulling(store_path, stall_timeout=PATIENCE) as pulling:
        assert "status 503" in str(pulling.fail(name))


def test_who_has_not_answered_a_second_question_is_named(
    registry: FaultRegistry, store_path: Path, model: Model
) -> None:
    name = registry.add(model, "library/tiny")
    registry.put_manifest("library/tiny", "latest", index_of(model), OCI_INDEX)
    registry.fail(manifest(), faults.Stall(), times=None, skip=1)
    with Pulling(store_path, stall_timeout=PATIENCE) as pulling:
        assert f"{registry.host} does not answer" in str(pulling.fail(name))


def index_of(model: Model) -> bytes:
    entry = {"mediaType": OCI_MANIFEST, "digest": str(model.digest), "size": len(model.manifest)}
    return json.dumps({"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": [entry]}).encode()
