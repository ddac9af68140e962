"""Bad input to a real daemon: each kind has its status and its sentence, leaves nothing behind, and harms nobody."""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from tests.conftest import DaemonFactory
from tests.real.stores import check_stored, published
from tests.support.daemon import Daemon
from tests.support.events import check_pull, check_sentence
from tests.support.exchanges import blob
from tests.support.faults import Fault, Flip, Longer, Replace, Shorter, Status, web_page
from tests.support.models import Model, generate, tiny
from tests.support.registry import FaultRegistry
from towline.model.manifest import MAX_MANIFEST_BYTES

MODEL = generate(3 << 20)
SEEDS = itertools.count(1)
EMPTY = "sha256:" + "e" * 64


@pytest.fixture
def daemon(lasting_daemon: Daemon) -> Iterator[Daemon]:
    """The daemon; whatever a test asked of it, it lives and has stored nothing."""
    yield lasting_daemon
    assert lasting_daemon.running
    assert lasting_daemon.request("GET", "/api/tags").json == {"models": []}
    assert not published(lasting_daemon.store)


@pytest.fixture
def model() -> Model:
    """One that no other test has: what arrived of it in vain is not there for the next."""
    return generate(3 << 20, seed=next(SEEDS))


def refusal(daemon: Daemon, body: bytes | dict[str, object]) -> tuple[int, str]:
    """Status and sentence of a pull that fails before anything is streamed."""
    answer = daemon.request("POST", "/api/pull", body)
    assert list(answer.json) == ["error"], answer
    check_sentence(answer.json["error"])
    return answer.status, answer.json["error"]


def failure(daemon: Daemon, name: str) -> list[str]:
    """The sentences of a pull that fails, streamed and at once; either has its status."""
    streamed = daemon.request("POST", "/api/pull", {"model": name})
    error = check_pull(streamed.lines, success=False).error
    assert streamed.status == (500 if len(streamed.lines) == 1 else 200)
    at_once = refusal(daemon, {"model": name, "stream": False})
    assert at_once[0] == 500
    assert error is not None
    return [error, at_once[1]]


class TestBodies:
    @pytest.mark.parametrize(
        ("body", "says"),
        [
            (b"", "missing request body"),
            (b"model=tiny", "not JSON"),
            (b"{\xff}", "not"),
            (b"[]", "not a JSON object"),
            (b"null", "not a JSON object"),
            (b"{}", "names no model"),
            (b'{"model":["tiny"]}', "model must be a string"),
            (b'{"model":17}', "model must be a string"),
            (b'{"model":"tiny","stream":"yes"}', "stream must be a boolean"),
            (b'{"model":"\xff"}', "UTF-8"),
            (b"[" * 1_000_000, "not a JSON object"),
            (b'{"insecure":' + b"[" * 1_000_000, "nested too deeply"),
            (b'{"a":' * 200_000 + b"1" + b"}" * 48_000, "nested too deeply"),
            (b'{"model":"' + b"a" * (1 << 20) + b'"}', "larger than 1 MiB"),
        ],
        ids=lambda value: repr(value)[:40],
    )
    def test_what_is_no_request_is_a_400(self, daemon: Daemon, body: bytes, says: str) -> None:
        status, sentence = refusal(daemon, body)
        assert status == 400
        assert says in sentence


class TestNames:
    @pytest.mark.parametrize("stream", [True, False], ids=["streamed", "at once"])
    @pytest.mark.parametrize(
        ("name", "says"),
        [
            ("../../etc", "the host '..'"),
            ("../etc", "the namespace '..'"),
            ("..", "the model '..'"),
            ("/etc/passwd", "the host is empty"),
            ("a/b/c/d", "too many parts"),
            ("//tiny", "the host is empty"),
            ("library//tiny", "the namespace is empty"),
            ("library/", "the model is empty"),
            ("tiny:", "the tag is empty"),
            (":latest", "the model is empty"),
            ("https://", "it is empty"),
            ("a" * 81, "the model is longer than 80"),
            ("tiny:" + "a" * 81, "the tag is longer than 80"),
            ("a" * 81 + "/tiny", "the namespace is longer than 80"),
            ("a" * 351 + "/library/tiny", "the host is longer than 350"),
            ("tiny\0", r"'tiny\x00'"),
            ("tiny\n", r"'tiny\n'"),
            ("ti ny", "'ti ny'"),
            ("ti\\ny", "the model"),
            ("tiny:..\\x", "the tag"),
            ("%2e%2e/tiny", "the namespace '%2e%2e'"),
            ("tіny", r"'t\u0456ny'"),
            ("ｔｉｎｙ", r"'\uff54"),
            ("tiny：latest", r"\uff1alatest"),
            ("library∕tiny", r"\u2215tiny"),
            ("tiny:１", r"\uff11"),
            ("tiny\u202e", r"\u202e"),
            ("-tiny", "the model '-tiny'"),
            (".tiny", "the model '.tiny'"),
            ("a.b/tiny", "the namespace 'a.b'"),
            ("127.0.0.1:5000/tiny", "127.0.0.1:5000/library/tiny"),
            ("host:0/library/tiny", "no valid port"),
            ("host:65536/library/tiny", "no valid port"),
            ("user@host/library/tiny", "after '@' comes sha256:"),
            ("tiny@sha256:abc", "after '@' comes sha256:"),
            ("tiny@sha512:" + "a" * 64, "after '@' comes sha256:"),
        ],
        ids=lambda value: ascii(value)[:40],
    )
    def test_one_that_breaks_a_rule_is_a_400_that_tells_which(
        self, daemon: Daemon, name: str, says: str, stream: bool
    ) -> None:
        status, sentence = refusal(daemon, {"model": name, "stream": stream})
        assert status == 400
        assert sentence.startswith("invalid model name")
        assert says in sentence

    def test_one_that_nobody_has_is_a_404(self, daemon: Daemon, registry: FaultRegistry) -> None:
        for stream in (True, False):
            assert refusal(daemon, {"model": f"{registry.host}/library/none", "stream": stream})[0] == 404
        assert not registry.blob_requests()


def layers(*changed: dict[str, Any], of: Model = MODEL) -> bytes:
    """The model's manifest with other fields in its first layer, and more layers after the last."""
    manifest = json.loads(of.manifest)
    manifest["layers"][0] |= changed[0]
    manifest["layers"] += changed[1:]
    return json.dumps(manifest).encode()


class TestManifests:
    @pytest.mark.parametrize(
        ("raw", "says"),
        [
            (web_page().body, "it sends a web page"),
            (b"", "did not send a manifest"),
            (b"\xff\xfe\x00", "did not send a manifest"),
            (b"[]", "did not send a manifest"),
            (MODEL.manifest + b" " * MAX_MANIFEST_BYTES, "larger than 4 MiB"),
            (b"[" * 1_000_000, "did not send a manifest"),
            (b'{"layers":' * 100_000, "did not send a manifest"),
            (b'{"annotations":' * 200_000 + b"1" + b"}" * 200_000, "did not send a manifest"),
            (layers({"digest": "sha256:" + "0" * 63}), "invalid digest"),
            (layers({"digest": "sha256:" + "A" * 64}), "invalid digest"),
            (layers({"digest": "md5:" + "0" * 32}), "invalid digest"),
            (layers({"digest": 17}), "did not send a manifest"),
            (layers({"digest": "sha256:../../../../../../etc/passwd"}), "invalid digest"),
            (layers({"digest": "../" * 23 + "ab"}), "invalid digest"),
            (layers({"digest": "sha256:" + "/" * 64}), "invalid digest"),
            (layers({"size": -1}), "impossible layer size"),
            (layers({"size": 1 << 62}), "impossible layer size"),
            (layers({"size": 1e999}), "did not send a manifest"),
            (layers({"size": str(MODEL.weights.size)}), "did not send a manifest"),
            (layers({}, {**MODEL.weights.descriptor, "size": 1}), "gives two sizes"),
            (MODEL.with_manifest(config=None).manifest, "without a config"),
            (MODEL.with_manifest(layers=None, manifests=[]).manifest, "index of"),
        ],
        ids=lambda value: repr(value)[-40:],
    )
    def test_one_that_cannot_be_is_a_500_and_no_blob_is_asked_for(
        self, daemon: Daemon, registry: FaultRegistry, raw: bytes, says: str
    ) -> None:
        registry.add(MODEL, "library/bad")
        registry.put_manifest("library/bad", "latest", raw)
        for stream in (True, False):
            status, sentence = refusal(daemon, {"model": f"{registry.host}/library/bad", "stream": stream})
            assert status == 500
            assert says in sentence
        assert not registry.blob_requests()

    @pytest.mark.parametrize(
        ("lie", "says"),
        [
            (lambda model: layers({"size": model.weights.size - 1}, of=model), "where the manifest promises"),
            (lambda model: layers({"size": model.weights.size + 1}, of=model), "where the manifest promises"),
            (lambda model: layers({"size": 0}, of=model), "digest mismatch"),
            (lambda model: layers({}, {"digest": EMPTY, "size": 0}, of=model), "digest mismatch"),
            (lambda model: layers({}, {"digest": EMPTY, "size": 5}, of=model), "does not have blob"),
        ],
        ids=["a byte less", "a byte more", "nothing", "an empty layer that is none", "a layer that is nowhere"],
    )
    def test_one_that_lies_is_found_out(
        self, daemon: Daemon, registry: FaultRegistry, model: Model, lie: Callable[[Model], bytes], says: str
    ) -> None:
        name = registry.add(model, "library/lies")
        registry.put_manifest("library/lies", "latest", lie(model))
        for sentence in failure(daemon, name):
            assert says in sentence

    def test_one_of_more_than_any_disk_holds_is_refused_before_the_first_byte(
        self, daemon: Daemon, registry: FaultRegistry
    ) -> None:
        registry.put_manifest("library/huge", "latest", layers({"size": 1 << 45}))
        for stream in (True, False):
            status, sentence = refusal(daemon, {"model": f"{registry.host}/library/huge", "stream": stream})
            assert status == 500
            assert "35.2 TB" in sentence
        assert not registry.blob_requests()


def test_a_layer_named_twice_is_pulled_once(daemon_factory: DaemonFactory, registry: FaultRegistry) -> None:
    model = Model.of([*tiny().layers, tiny().layers[0]])
    name = registry.add(model, "library/twice")
    daemon = daemon_factory()
    daemon.pull(name, model=model)
    check_stored(daemon.store, name, model)
    assert len(registry.blob_requests(model.weights)) == 1


class TestBlobs:
    @pytest.mark.parametrize("which", ["weights", "config"])
    @pytest.mark.parametrize(
        ("fault", "says"),
        [
            (Shorter(1), "bytes where"),
            (Longer(1), "bytes where"),
            (Longer(5 << 20), "bytes where"),
            (Flip(100), "digest mismatch"),
            (web_page(), "bytes where"),
            (Replace(b""), "bytes where"),
            (Status(404), "does not have blob"),
            (Status(400), "answers 400"),
        ],
        ids=["shorter", "longer", "much longer", "other bytes", "a web page", "nothing", "a 404", "a 400"],
    )
    def test_one_that_is_not_what_was_promised_fails_the_pull(
        self, daemon: Daemon, registry: FaultRegistry, model: Model, which: str, fault: Fault, says: str
    ) -> None:
        bad = model.weights if which == "weights" else model.config
        name = registry.add(model, "library/bad")
        registry.fail(blob(bad), fault, times=None)
        for sentence in failure(daemon, name):
            assert says in sentence
            assert str(bad.digest) in sentence
