"""A pull always ends: by its patience where nothing moves, and not before."""

from __future__ import annotations

import json
import logging
import socket
import threading
from pathlib import Path

import pytest

from tests.support import faults
from tests.support.exchanges import Match, blob, manifest, path
from tests.support.models import Blob, Model, crowd, generate, tiny
from tests.support.pulling import Following, Pulling, eventually
from tests.support.registry import FaultRegistry
from towline import patience
from towline import pulling as pulling_module
from towline.errors import NotFound, Starved
from towline.model.events import REASON, SUCCESS, WAITING, Status
from towline.model.manifest import OCI_INDEX, OCI_MANIFEST
from towline.model.name import ModelName
from towline.patience import Pulse
from towline.registry import race
from towline.settings import Mirror
from towline.store.publication import Publication
from towline.transfer.pool import Pool

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


def test_a_web_page_in_chunks_in_place_of_a_blob_is_given_up_after_a_few_requests(
    registry: FaultRegistry, store_path: Path, model: Model
) -> None:
    name = registry.add(model, "library/tiny")
    for fault in (faults.web_page(), faults.Chunked()):
        registry.fail(blob(model.weights), fault, times=None)
    with Pulling(store_path, stall_timeout=20.0, connections_per_blob=1) as pulling:
        assert "it sends a web page" in str(pulling.fail(name))
    assert len(registry.blob_requests(model.weights)) <= 3


def test_a_connection_that_never_answers_is_overtaken_by_a_second_one(
    registry: FaultRegistry, store_path: Path, model: Model
) -> None:
    name = registry.add(model, "library/tiny")
    registry.fail(blob(model.weights), faults.Stall(), times=1)
    with Pulling(store_path, stall_timeout=25.0, connections_per_blob=1) as pulling:
        pulling.pull(name, model)
    assert len(registry.blob_requests(model.weights)) == 2


def test_a_name_server_that_never_answers_ends_no_pull_later(store_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing can wake the thread that asks it."""
    answers = threading.Event()

    def hangs(*_: object) -> None:
        answers.wait(90)
        raise socket.gaierror(socket.EAI_AGAIN, "no answer")

    monkeypatch.setattr(socket, "getaddrinfo", hangs)
    monkeypatch.setattr(pulling_module, "_LAST_WAIT", 0.3)
    with Pulling(store_path, stall_timeout=0.5) as pulling:
        try:
            assert "no data for 0.5 s" in str(pulling.fail("models.example/library/tiny"))
            assert not answers.is_set()
        finally:
            answers.set()


def test_a_pull_that_keeps_trying_outlasts_a_registry_that_is_down_and_says_so(
    registry: FaultRegistry, store_path: Path, model: Model
) -> None:
    name = ModelName.parse(registry.add(model, "library/tiny"))
    registry.stop()
    with Pulling(store_path, stall_timeout=0.5, refused_timeout=0.5) as pulling:
        watcher = pulling.puller.join(name, keep_trying=True)
        pull = next(iter(pulling.puller._running.values()))
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
        for _ in range(2):  # without a thread for the clock, then for the pull
            with monkeypatch.context() as starved:
                starved.setattr(threading.Thread, "start", none)
                with pytest.raises(Starved, match=f"cannot pull {name}: .* no thread"):
                    pulling.puller.join(ModelName.parse(name))
            pulling.pull(name, model)
    assert len(registry.exchanges(manifest())) == 2  # what was refused does not run later


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


def test_a_registry_that_is_as_slow_to_begin_with_the_manifest_as_with_the_blobs_has_the_whole_patience_for_each(
    registry: FaultRegistry, store_path: Path, model: Model
) -> None:
    name = registry.add(model, "library/tiny")
    registry.fail(manifest(), faults.Delay(1.5), times=1)
    registry.fail(blob(), faults.Delay(1.5), times=None)
    with Pulling(store_path, stall_timeout=2.2) as pulling:
        pulling.pull(name, model)


class TestRangesIgnored:
    """What is here already is sent again, from the first byte on."""

    @pytest.fixture
    def begun(self, registry: FaultRegistry, store_path: Path, model: Model) -> str:
        """A model of which two thirds are here."""
        name = registry.add(model, "library/model")
        registry.fail(blob(model.weights), faults.Stall(after=2 << 20), times=1)
        with Pulling(store_path, connections_per_blob=1) as pulling:
            pulling.start(name).until_completed(model.weights, 2 << 20).close()
        registry.heal()
        registry.fail(blob(model.weights), faults.IgnoreRange(), times=None)
        return name

    def test_to_pass_over_it_takes_as_long_as_it_takes(
        self, registry: FaultRegistry, store_path: Path, model: Model, begun: str
    ) -> None:
        registry.fail(blob(model.weights), faults.Slow(0.7 * (1 << 20)), times=None)
        with Pulling(store_path, stall_timeout=PATIENCE) as pulling:
            pulling.pull(begun, model)

    def test_a_source_that_always_ends_there_is_given_up(
        self, registry: FaultRegistry, store_path: Path, model: Model, begun: str
    ) -> None:
        registry.fail(blob(model.weights), faults.Close(after=2 << 20), times=None)
        with Pulling(store_path, stall_timeout=PATIENCE) as pulling:
            assert registry.host in str(pulling.fail(begun))


def test_a_pull_that_waits_for_its_turn_while_another_is_limited_to_a_rate_is_not_given_up(
    registry: FaultRegistry, store_path: Path, model: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(patience, "LASTING", 0.3)  # a byte comes far more rarely
    limited, name = Model.of([Blob.of("x", bytes(8 << 20))]), registry.add(model, "library/tiny")
    with Pulling(store_path, stall_timeout=PATIENCE, connections_per_host=1, connections=2) as pulling:
        other = ModelName.parse(registry.add(limited, "library/limited"))
        slow = Following(pulling.puller.join(other, max_rate=500.0), other)
        eventually(lambda: any(pulse.received for pulse in pulses(pulling)), "its first bytes")
        queued = pulling.start(name)
        for _ in range(20):
            assert not queued.watcher.finished, queued.watcher.error
            threading.Event().wait(2 * PATIENCE / 20)
        slow.close()
        queued.finish(model)


def pulses(pulling: Pulling) -> list[Pulse]:
    """What its blobs do."""
    return [transfer.pulse() for transfer in list(pulling.puller._pool.active)]


class TestKeepTrying:
    def test_whoever_did_not_ask_for_it_is_not_held_to_it_when_the_other_leaves(
        self, registry: FaultRegistry, store_path: Path, model: Model
    ) -> None:
        name = ModelName.parse(registry.add(model, "library/tiny"))
        registry.fail(manifest(), faults.Stall(), times=None)
        with Pulling(store_path, stall_timeout=0.5) as pulling:
            other = Following(pulling.puller.join(name), name)
            patient = pulling.puller.join(name, keep_trying=True)
            threading.Event().wait(1.5)
            assert not other.watcher.finished
            patient.close()
            assert "no data for 0.5 s" in str(other.fail())

    @pytest.mark.parametrize("asked", [manifest(), blob()], ids=["manifest", "blob"])
    def test_the_lines_that_say_why_it_waits_are_lines_of_a_pull(
        self,
        registry: FaultRegistry,
        store_path: Path,
        model: Model,
        monkeypatch: pytest.MonkeyPatch,
        asked: object,
    ) -> None:
        monkeypatch.setattr(pulling_module, "SAID_AFTER", 0.3)
        name = registry.add(model, "library/tiny")
        registry.fail(asked, faults.Status(503), times=None)  # type: ignore[arg-type]
        with Pulling(store_path, stall_timeout=0.5, keep_trying=True) as pulling:
            pull = pulling.start(name).until_said(REASON + WAITING)
            registry.heal()
            pull.finish(model)

    def test_nothing_is_said_to_wait_while_the_model_is_published(
        self, registry: FaultRegistry, store_path: Path, model: Model, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(pulling_module, "SAID_AFTER", 0.3)
        publishes, goes_on, real = threading.Event(), threading.Event(), Publication.publish

        def publish(publication: Publication) -> object:
            publishes.set()
            assert goes_on.wait(30)
            return real(publication)

        monkeypatch.setattr(Publication, "publish", publish)
        name = registry.add(tiny(), "library/tiny")
        registry.fail(blob(), faults.Status(503), times=None)
        with Pulling(store_path, stall_timeout=0.5, keep_trying=True) as pulling:
            pull = pulling.start(name).until_said(REASON + WAITING)
            course = next(iter(pulling.puller._running.values())).course
            registry.heal()
            assert publishes.wait(30)
            eventually(lambda: not course.waiting, "the reason to go")
            goes_on.set()
            pull.finish(tiny())


class TestFaults:
    """Whatever goes wrong within towline, whoever watches is told the end."""

    @pytest.mark.parametrize("line", ["pull begins", "pull ended"])
    def test_a_line_that_cannot_be_logged_costs_no_pull(
        self, registry: FaultRegistry, store_path: Path, model: Model, line: str
    ) -> None:
        def refuse(record: logging.LogRecord) -> bool:
            assert record.msg != line
            return True

        log = logging.getLogger("towline")
        log.addFilter(refuse)
        level = log.level
        log.setLevel(logging.INFO)
        try:
            with Pulling(store_path) as pulling:
                pulling.pull(registry.add(model, "library/tiny"), model)
        finally:
            log.setLevel(level)
            log.removeFilter(refuse)

    def test_the_clock_survives_what_it_does_between_two_looks(
        self, registry: FaultRegistry, store_path: Path, model: Model, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        fails, real = iter([True]), Pool.nudge
        monkeypatch.setattr(Pool, "nudge", lambda pool: 1 // 0 if next(fails, False) else real(pool))
        name = registry.add(model, "library/tiny")
        registry.fail(manifest(), faults.Stall(), times=None)
        with Pulling(store_path, stall_timeout=PATIENCE) as pulling:
            assert registry.host in str(pulling.fail(name))

    def test_a_blob_that_cannot_be_held_fast_ends_the_pull(
        self, registry: FaultRegistry, store_path: Path, model: Model, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(Publication, "fetched", lambda *_: 1 // 0)
        with Pulling(store_path) as pulling:
            assert "by a fault in towline" in str(pulling.fail(registry.add(model, "library/tiny")))
