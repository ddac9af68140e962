"""What a name means, asked of registries that answer in every way they can."""

from __future__ import annotations

import contextlib
import functools
import json
import socket
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from tests.registry.conftest import Resolve
from tests.support import faults
from tests.support.certificates import Authority
from tests.support.challenges import Basic, Bearer
from tests.support.events import check_sentence
from tests.support.exchanges import manifest, token
from tests.support.listener import unused_port
from tests.support.models import Model, tiny
from tests.support.registry import FaultRegistry
from towline import threads
from towline._version import __version__
from towline.errors import Cancelled, InvalidManifest, NotFound, RegistryError, Starved
from towline.model.digest import Digest
from towline.model.manifest import DOCKER_INDEX, DOCKER_MANIFEST, MAX_MANIFEST_BYTES, OCI_INDEX, OCI_MANIFEST
from towline.model.name import ModelName
from towline.registry.client import Registry
from towline.registry.http import Call
from towline.settings import Mirror

MODEL = tiny()
OTHER = tiny(seed=1)


@pytest.fixture(autouse=True)
def held(registry: FaultRegistry) -> None:
    registry.add(MODEL, "library/tiny")


def index(*manifests: bytes, architecture: str = "amd64") -> bytes:
    entries = [
        {
            "mediaType": OCI_MANIFEST,
            "digest": str(Digest.of(raw)),
            "size": len(raw),
            "platform": {"architecture": architecture, "os": "linux"},
        }
        for raw in manifests
    ]
    return json.dumps({"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": entries}).encode()


@contextlib.contextmanager
def cancelled_after(call: Call, wait: Callable[[], object]) -> Iterator[None]:
    """Cancels the conversation from another thread once `wait` returns."""

    def cancel() -> None:
        wait()
        call.cancel()

    canceller = threading.Thread(target=cancel)
    canceller.start()
    yield
    canceller.join()


def refused(resolve: Resolve, name: str = "library/tiny", kind: type[Exception] = RegistryError, **changes: Any) -> str:
    """The sentence with which resolving fails."""
    with pytest.raises(kind) as caught:
        resolve(name, **changes)
    check_sentence(str(caught.value))
    return str(caught.value)


class TestAsking:
    def test_the_manifest_comes_byte_for_byte(self, resolve: Resolve) -> None:
        assert resolve("library/tiny").manifest.raw == MODEL.manifest

    def test_a_request_says_who_asks_and_what_it_accepts(self, resolve: Resolve, registry: FaultRegistry) -> None:
        resolve("library/tiny")
        (exchange,) = registry.exchanges()
        assert exchange.path == "/v2/library/tiny/manifests/latest"
        assert exchange.headers["user-agent"] == f"towline/{__version__}"
        assert {DOCKER_MANIFEST, OCI_MANIFEST} <= set(exchange.headers["accept"].split(", "))
        assert "authorization" not in exchange.headers

    def test_a_name_that_the_registry_does_not_have_is_not_found(self, resolve: Resolve) -> None:
        assert "check its name and tag" in refused(resolve, "library/none", NotFound)

    def test_a_tag_that_the_registry_does_not_have_is_not_found(self, resolve: Resolve) -> None:
        refused(resolve, "library/tiny:none", NotFound)

    def test_name_invalid_counts_as_not_found(self, resolve: Resolve, registry: FaultRegistry) -> None:
        registry.fail(manifest(), faults.Status(400, code="NAME_INVALID"))
        refused(resolve, kind=NotFound)

    def test_another_400_does_not(self, resolve: Resolve, registry: FaultRegistry) -> None:
        registry.fail(manifest(), faults.Status(400), times=None)
        assert "answers 400" in refused(resolve)

    @pytest.mark.parametrize("body", [b"", b"<html>", b"[]", b"[" * 100_000, b'{"errors":null}', b"\xff"])
    def test_a_400_with_any_body_is_an_error_and_nothing_worse(
        self, resolve: Resolve, registry: FaultRegistry, body: bytes
    ) -> None:
        registry.fail(manifest(), faults.Replace(body, status=400), times=None)
        assert "answers 400" in refused(resolve)

    @pytest.mark.parametrize("status", [401, 403, 405, 418, 451, 204, 304])
    def test_a_status_that_waiting_does_not_change_is_final_at_once(
        self, resolve: Resolve, registry: FaultRegistry, status: int
    ) -> None:
        registry.fail(manifest(), faults.Status(status), times=None)
        refused(resolve)
        assert len(registry.exchanges()) == 1

    @pytest.mark.parametrize(
        "fault",
        [
            faults.Status(500),
            faults.Status(503),
            faults.Status(429),
            faults.Status(408),
            faults.Status(429, retry_after=0),
            faults.Reset(),
            faults.Reset(after=10),
            faults.Close(),
            faults.Close(after=10),
            faults.WrongLength(3),
        ],
        ids=str,
    )
    def test_a_failure_that_may_pass_is_tried_again(
        self, resolve: Resolve, registry: FaultRegistry, fault: faults.Fault
    ) -> None:
        registry.fail(manifest(), fault, times=1)
        assert resolve("library/tiny").manifest.raw == MODEL.manifest
        assert len(registry.exchanges()) == 2

    def test_a_registry_that_refuses_connections_is_named(self, resolve: Resolve, registry: FaultRegistry) -> None:
        registry.stop()
        assert f"{registry.host} refuses connections" in refused(resolve)

    def test_a_host_without_an_address_is_named(self, resolve: Resolve) -> None:
        assert "none.invalid cannot be resolved" in refused(resolve, "none.invalid/library/tiny")

    @pytest.mark.parametrize("host", ["a" * 350, "a..b", "a.b.", "_"])
    def test_an_odd_host_is_an_error_and_nothing_worse(self, resolve: Resolve, host: str) -> None:
        refused(resolve, f"{host}/library/tiny")

    @pytest.mark.parametrize("encoding", [faults.Chunked(), faults.Undelimited()], ids=str)
    def test_a_manifest_without_a_length_is_read(
        self, resolve: Resolve, registry: FaultRegistry, encoding: faults.Fault
    ) -> None:
        registry.fail(manifest(), encoding)
        assert resolve("library/tiny").manifest.raw == MODEL.manifest

    def test_cancelling_ends_a_wait_for_an_answer(
        self, client_factory: Callable[..., Registry], registry: FaultRegistry
    ) -> None:
        stall = faults.Stall()
        registry.fail(manifest(), stall, times=None)
        client = client_factory(stall_timeout=600.0)
        with client.call() as call, cancelled_after(call, stall.reached.wait), pytest.raises(Cancelled):
            client.resolve(call, ModelName.parse(f"{registry.host}/library/tiny"))

    def test_cancelling_ends_a_wait_for_the_body_of_an_answer_that_is_not_wanted(
        self, client_factory: Callable[..., Registry], registry: FaultRegistry
    ) -> None:
        stall = faults.Stall(after=0)
        registry.require(Bearer())
        registry.fail(manifest(), stall, times=1)
        client = client_factory(stall_timeout=600.0)
        with client.call() as call, cancelled_after(call, stall.reached.wait), pytest.raises(Cancelled):
            client.resolve(call, ModelName.parse(f"{registry.host}/library/tiny"))

    def test_cancelling_ends_a_pause_between_two_tries(
        self, client_factory: Callable[..., Registry], registry: FaultRegistry
    ) -> None:
        registry.fail(manifest(), faults.Status(503, retry_after=600), times=None)
        client = client_factory(stall_timeout=600.0)
        asked = functools.partial(registry.wait_for, manifest())
        with client.call() as call, cancelled_after(call, asked), pytest.raises(Cancelled):
            client.resolve(call, ModelName.parse(f"{registry.host}/library/tiny"))


class TestManifests:
    @pytest.mark.parametrize(
        "raw",
        [
            b"nonsense",
            MODEL.with_manifest(config=None).manifest,
            MODEL.with_manifest(config={"digest": "sha256:x", "size": 1}).manifest,
            index(MODEL.manifest, OTHER.manifest),
            b'{"detail":' * 900 + b"1" + b"}" * 900,
            b"{}" + b" " * MAX_MANIFEST_BYTES,
        ],
        ids=lambda raw: repr(raw)[:30],
    )
    def test_what_is_none_is_told_with_the_model_and_who_sent_it(
        self, resolve: Resolve, registry: FaultRegistry, raw: bytes
    ) -> None:
        registry.put_manifest("library/tiny", "latest", raw)
        sentence = refused(resolve, kind=InvalidManifest)
        assert sentence.startswith(f"cannot pull {registry.host}/library/tiny:latest: {registry.host} ")

    def test_a_web_page_is_told_as_one(self, resolve: Resolve, registry: FaultRegistry) -> None:
        registry.fail(manifest(), faults.web_page())
        assert "web page" in refused(resolve, kind=InvalidManifest)

    @pytest.mark.parametrize("encoding", [faults.Header("X", "y"), faults.Chunked(), faults.Undelimited()], ids=str)
    def test_a_manifest_that_is_too_large_is_refused(
        self, resolve: Resolve, registry: FaultRegistry, encoding: faults.Fault
    ) -> None:
        registry.fail(manifest(), faults.Replace(b"{}" + b" " * MAX_MANIFEST_BYTES), times=None)
        registry.fail(manifest(), encoding, times=None)
        assert "larger than 4 MiB" in refused(resolve, kind=InvalidManifest)

    def test_a_compressed_manifest_is_refused(self, resolve: Resolve, registry: FaultRegistry) -> None:
        registry.fail(manifest(), faults.Compressed())
        assert "compressed" in refused(resolve, kind=InvalidManifest)

    @pytest.mark.parametrize(
        "raw",
        [
            b"[" * (1 << 20),
            b'{"a":' * 100_000,
            b"\xff\xfe",
            MODEL.with_manifest(config=None).manifest,
            MODEL.with_manifest(config={"digest": "sha256:../../etc/passwd", "size": 1}).manifest,
            MODEL.with_manifest(config={"digest": str(MODEL.digest), "size": -1}).manifest,
        ],
        ids=lambda raw: repr(raw)[:30],
    )
    def test_hostile_bytes_are_refused_at_once(self, resolve: Resolve, registry: FaultRegistry, raw: bytes) -> None:
        registry.put_manifest("library/tiny", "latest", raw)
        refused(resolve, kind=InvalidManifest)
        assert len(registry.exchanges()) == 1

    def test_an_index_with_one_entry_is_the_model(self, resolve: Resolve, registry: FaultRegistry) -> None:
        registry.put_manifest("library/index", "latest", index(MODEL.manifest), OCI_INDEX)
        registry.put_manifest("library/index", "hidden", MODEL.manifest)
        assert resolve("library/index").manifest.raw == MODEL.manifest

    def test_an_index_with_several_entries_is_refused(self, resolve: Resolve, registry: FaultRegistry) -> None:
        registry.put_manifest("library/index", "latest", index(MODEL.manifest, OTHER.manifest), DOCKER_INDEX)
        assert "index of 2 platforms" in refused(resolve, "library/index", InvalidManifest)

    def test_an_index_of_an_index_is_refused(self, resolve: Resolve, registry: FaultRegistry) -> None:
        inner = index(MODEL.manifest)
        registry.put_manifest("library/index", "latest", index(inner), OCI_INDEX)
        registry.put_manifest("library/index", "inner", inner, OCI_INDEX)
        assert "index" in refused(resolve, "library/index", InvalidManifest)

    def test_an_entry_that_comes_with_other_bytes_is_refused(self, resolve: Resolve, registry: FaultRegistry) -> None:
        registry.put_manifest("library/index", "latest", index(MODEL.manifest), OCI_INDEX)
        registry.put_manifest("library/index", "hidden", MODEL.manifest)
        registry.fail(manifest(), faults.Replace(OTHER.manifest), skip=1)
        assert "another manifest for digest" in refused(resolve, "library/index", InvalidManifest)


class TestPins:
    def test_a_pinned_digest_is_asked_for(self, resolve: Resolve, registry: FaultRegistry) -> None:
        assert resolve(f"library/tiny@{MODEL.digest}").manifest.raw == MODEL.manifest
        assert [exchange.reference for exchange in registry.exchanges()] == [str(MODEL.digest)]

    def test_a_pinned_digest_that_the_tag_does_not_have_any_more_is_found(
        self, resolve: Resolve, registry: FaultRegistry
    ) -> None:
        registry.add(OTHER, "library/tiny")
        assert resolve(f"library/tiny@{MODEL.digest}").manifest.raw == MODEL.manifest

    def test_a_registry_without_manifests_by_digest_is_asked_for_the_tag(
        self, resolve: Resolve, registry: FaultRegistry
    ) -> None:
        registry.fail(lambda exchange: exchange.reference.startswith("sha256:"), faults.Status(404), times=None)
        assert resolve(f"library/tiny@{MODEL.digest}").manifest.raw == MODEL.manifest

    def test_another_digest_is_refused_with_both(self, resolve: Resolve) -> None:
        sentence = refused(resolve, f"library/tiny@{OTHER.digest}", InvalidManifest)
        assert str(MODEL.digest) in sentence
        assert "not the pinned one" in sentence

    def test_other_bytes_under_the_pinned_digest_are_refused(self, resolve: Resolve, registry: FaultRegistry) -> None:
        registry.fail(manifest(), faults.Replace(OTHER.manifest), times=None)
        refused(resolve, f"library/tiny@{MODEL.digest}", InvalidManifest)

    def test_a_name_that_nobody_has_is_not_found_with_a_pin_too(self, resolve: Resolve) -> None:
        refused(resolve, f"library/none@{MODEL.digest}", NotFound)


class TestTokens:
    def test_an_anonymous_token_is_fetched_and_used(self, resolve: Resolve, registry: FaultRegistry) -> None:
        registry.require(Bearer())
        assert resolve("library/tiny").manifest.raw == MODEL.manifest
        (asked,) = registry.exchanges(token())
        assert asked.query == {"scope": "repository:library/tiny:pull", "service": "registry.test"}
        assert "authorization" not in asked.headers

    def test_a_token_is_used_until_it_is_refused(
        self, client_factory: Callable[..., Registry], registry: FaultRegistry
    ) -> None:
        registry.require(Bearer(uses=3))
        client = client_factory()
        for _ in range(7):
            with client.call() as call:
                client.resolve(call, ModelName.parse(f"{registry.host}/library/tiny"))
        assert len(registry.exchanges(token())) == 3

    def test_a_token_that_was_refused_costs_no_fresh_one_that_somebody_else_got(
        self, client_factory: Callable[..., Registry], registry: FaultRegistry
    ) -> None:
        """Two conversations find the same token refused; the slower one must not take the quicker one's from it."""
        bearer = Bearer()
        registry.require(bearer)
        client = client_factory()
        name = ModelName.parse(f"{registry.host}/library/tiny")

        def ask() -> None:
            with client.call() as call:
                client.resolve(call, name)

        ask()
        bearer.expire()
        late = faults.Stall()
        registry.fail(token(), late, times=1)
        slow = threading.Thread(target=ask)
        slow.start()
        assert late.reached.wait(20)
        ask()
        late.release()
        slow.join()
        registry.reset()
        ask()
        assert not registry.exchanges(token())

    @pytest.mark.parametrize(
        "refusal",
        [
            [faults.Status(401)],
            [faults.Status(403, code="DENIED")],
            [faults.Status(401), faults.Header("WWW-Authenticate", 'Basic realm="harbor"')],
        ],
        ids=["without a challenge", "denied", "with another challenge"],
    )
    def test_a_token_that_is_refused_in_whatever_way_is_forgotten(
        self, client_factory: Callable[..., Registry], registry: FaultRegistry, refusal: list[faults.Fault]
    ) -> None:
        """Real registries answer an expired token in all of these ways, and an empty hand with a challenge."""
        bearer = Bearer()
        registry.require(bearer)
        client = client_factory()
        name = ModelName.parse(f"{registry.host}/library/tiny")
        with client.call() as call:
            client.resolve(call, name)
            bearer.expire()
            for fault in refusal:
                registry.fail(lambda exchange: "authorization" in exchange.headers, fault)
            assert client.resolve(call, name).manifest.raw == MODEL.manifest
        assert len(registry.exchanges(token())) == 2

    def test_a_realm_on_another_host_is_asked_without_credentials(
        self, resolve: Resolve, registry: FaultRegistry, blob_host: FaultRegistry
    ) -> None:
        bearer = Bearer()
        blob_host.issue_tokens_for(bearer)
        registry.require(bearer)
        assert resolve("library/tiny").manifest.raw == MODEL.manifest
        assert [exchange.headers.get("authorization") for exchange in blob_host.exchanges()] == [None]

    def test_a_relative_realm_is_on_the_registry(self, resolve: Resolve, registry: FaultRegistry) -> None:
        registry.require(Bearer())
        registry.fail(manifest(), faults.Header("WWW-Authenticate", 'Bearer realm="/token",service="registry.test"'))
        assert resolve("library/tiny").manifest.raw == MODEL.manifest

    @pytest.mark.parametrize(
        ("realm", "why"),
        [
            ("http://auth.example/token", "without HTTPS; name that host"),
            ("ftp://127.0.0.1/token", "without HTTPS"),
            ("https://user:word@127.0.0.1/", "with a user's name"),
        ],
    )
    def test_a_realm_that_must_not_be_asked_is_refused(
        self, resolve: Resolve, registry: FaultRegistry, realm: str, why: str
    ) -> None:
        registry.require(Bearer(realm=realm))
        assert f"sends its logins to an address {why}" in refused(resolve)

    @pytest.mark.parametrize("realm", ["http://[bad/token", "http://127.0.0.1:99999/token", "\\\\", "%00"])
    def test_a_realm_that_is_no_address_is_an_error_and_nothing_worse(
        self, resolve: Resolve, registry: FaultRegistry, realm: str
    ) -> None:
        registry.require(Bearer(realm=realm))
        refused(resolve)

    def test_a_realm_that_redirects_away_from_https_is_refused(self, resolve: Resolve, registry: FaultRegistry) -> None:
        registry.require(Bearer())
        registry.fail(token(), faults.Redirect("http://auth.example/token"))
        assert "without HTTPS" in refused(resolve)

    def test_a_realm_that_redirects_in_circles_is_an_error(self, resolve: Resolve, registry: FaultRegistry) -> None:
        registry.require(Bearer())
        registry.fail(token(), faults.Redirect("/token"), times=None)
        refused(resolve)

    def test_a_token_service_with_a_problem_is_asked_again(self, resolve: Resolve, registry: FaultRegistry) -> None:
        registry.require(Bearer())
        registry.fail(token(), faults.Status(503), times=1)
        assert resolve("library/tiny").manifest.raw == MODEL.manifest

    def test_a_token_service_that_wants_a_login_is_told(self, resolve: Resolve, registry: FaultRegistry) -> None:
        registry.require(Bearer(username="someone", password="secret"))
        assert "wants a login" in refused(resolve)

    @pytest.mark.parametrize(
        "answer",
        [
            b"",
            b"{}",
            b"null",
            b'{"token":""}',
            b'{"token":"a\\nb"}',
            b'{"token":"\\u00e9"}',
            b'{"token":5}',
            b"[" * 100_000,
            b"\xff",
            b" " * (2 << 20),
        ],
        ids=lambda answer: repr(answer)[:30],
    )
    def test_a_token_service_that_sends_something_else_is_an_error_and_nothing_worse(
        self, resolve: Resolve, registry: FaultRegistry, answer: bytes
    ) -> None:
        registry.require(Bearer())
        registry.fail(token(), faults.Replace(answer), times=None)
        assert "does not send a token" in refused(resolve)

    def test_a_token_that_does_not_help_is_final(self, resolve: Resolve, registry: FaultRegistry) -> None:
        registry.require(Bearer(uses=0))
        assert "wants a login" in refused(resolve)
        assert len(registry.exchanges(manifest())) == 2

    @pytest.mark.parametrize("expires", ["-1", "0", "1e9", "0.5", "null"])
    def test_an_odd_lifetime_is_no_matter(self, resolve: Resolve, registry: FaultRegistry, expires: str) -> None:
        bearer = Bearer()
        registry.require(bearer)
        real = bearer.issue

        def odd(exchange: Any) -> Any:
            answer = real(exchange)
            answer.put(bytes(answer.body).replace(b"300", expires.encode()))
            return answer

        bearer.issue = odd  # type: ignore[method-assign]
        assert resolve("library/tiny").manifest.raw == MODEL.manifest

    def test_basic_is_told_as_what_it_is(self, resolve: Resolve, registry: FaultRegistry) -> None:
        registry.require(Basic("someone", "secret"))
        assert "wants a login" in refused(resolve)

    def test_bearer_is_taken_where_basic_is_offered_too(self, resolve: Resolve, registry: FaultRegistry) -> None:
        registry.require(Bearer())
        header = f'Basic realm="x", Bearer realm="{registry.url}/token",service="registry.test"'
        registry.fail(manifest(), faults.Header("WWW-Authenticate", header))
        assert resolve("library/tiny").manifest.raw == MODEL.manifest

    @pytest.mark.parametrize("header", [None, "", "Bearer", "nonsense", 'Bearer realm=""', "=,=,"])
    def test_a_401_without_a_challenge_that_can_be_met_is_final(
        self, resolve: Resolve, registry: FaultRegistry, header: str | None
    ) -> None:
        registry.require(Bearer())
        registry.fail(manifest(), faults.Header("WWW-Authenticate", header), times=None)
        assert "wants a login" in refused(resolve)


class TestRedirects:
    def test_a_redirect_of_the_manifest_is_followed(
        self, resolve: Resolve, registry: FaultRegistry, blob_host: FaultRegistry
    ) -> None:
        blob_host.add(MODEL, "library/tiny")
        registry.fail(manifest(), faults.Redirect(f"{blob_host.url}/v2/library/tiny/manifests/latest"))
        assert resolve("library/tiny").manifest.raw == MODEL.manifest

    def test_the_token_of_a_registry_does_not_go_where_it_redirects(
        self, resolve: Resolve, registry: FaultRegistry, blob_host: FaultRegistry
    ) -> None:
        blob_host.add(MODEL, "library/tiny")
        registry.require(Bearer())
        registry.fail(manifest(), faults.Redirect(f"{blob_host.url}/v2/library/tiny/manifests/latest"), skip=1)
        resolve("library/tiny")
        assert ["authorization" in exchange.headers for exchange in blob_host.exchanges()] == [False]

    def test_redirects_in_circles_are_an_error(self, resolve: Resolve, registry: FaultRegistry) -> None:
        registry.fail(manifest(), faults.Redirect("?again=1"), times=None)
        assert "circles" in refused(resolve)

    def test_the_fifth_target_is_not_one_too_many(self, resolve: Resolve, registry: FaultRegistry) -> None:
        registry.fail(manifest(), faults.Redirect("?again=1"), times=5)
        assert resolve("library/tiny").manifest.raw == MODEL.manifest
        assert len(registry.exchanges()) == 6

    def test_a_token_service_may_lead_as_far(self, resolve: Resolve, registry: FaultRegistry) -> None:
        registry.require(Bearer())
        again = "/token?service=registry.test&scope=repository:library/tiny:pull"
        registry.fail(token(), faults.Redirect(again), times=5)
        assert resolve("library/tiny").manifest.raw == MODEL.manifest

    def test_an_address_with_a_password_is_refused_as_what_it_is(
        self, resolve: Resolve, registry: FaultRegistry
    ) -> None:
        registry.fail(manifest(), faults.Redirect("https://user:word@blobs.example/x"), times=None)
        assert "redirects to blobs.example with a user's name in it" in refused(resolve)

    def test_an_address_that_fails_is_asked_for_once_more(
        self, resolve: Resolve, registry: FaultRegistry, blob_host: FaultRegistry
    ) -> None:
        registry.fail(manifest(), faults.Redirect(f"{blob_host.url}/gone"), times=1)
        assert resolve("library/tiny").manifest.raw == MODEL.manifest

    @pytest.mark.parametrize("location", ["http://nowhere.example/x?sig=secret", "http://[bad", "http://127.0.0.1:x/"])
    def test_a_redirect_that_must_not_be_followed_is_an_error(
        self, resolve: Resolve, registry: FaultRegistry, location: str
    ) -> None:
        registry.fail(manifest(), faults.Redirect(location), times=None)
        assert "redirects to" in refused(resolve)

    def test_a_redirect_without_an_address_is_an_error(self, resolve: Resolve, registry: FaultRegistry) -> None:
        registry.fail(manifest(), faults.Status(307), times=None)
        assert "answers 307" in refused(resolve)


class TestMirrors:
    @pytest.fixture
    def mirrors(self, registry: FaultRegistry, blob_host: FaultRegistry) -> tuple[Mirror, ...]:
        blob_host.add(MODEL, "library/tiny")
        return (Mirror("models.example", registry.url), Mirror("models.example", blob_host.url))

    def test_the_first_is_asked_with_the_name_of_the_host_that_it_stands_for(
        self, resolve: Resolve, registry: FaultRegistry, blob_host: FaultRegistry, mirrors: tuple[Mirror, ...]
    ) -> None:
        resolved = resolve("models.example/library/tiny", mirrors=mirrors)
        assert [exchange.query for exchange in registry.exchanges()] == [{"ns": "models.example"}]
        assert not blob_host.exchanges()
        assert [endpoint.base for endpoint in resolved.endpoints] == [registry.url, blob_host.url]

    @pytest.mark.parametrize(
        "fault",
        [
            faults.Status(404),
            faults.Status(500),
            faults.Status(403),
            faults.Status(429, retry_after=3600),
            faults.Reset(),
            faults.Close(after=5),
            faults.web_page(),
            faults.Replace(b"[" * 1000),
            faults.Redirect("http://nowhere.example/"),
        ],
        ids=str,
    )
    def test_one_that_fails_is_passed_over_and_stays_a_source_of_blobs(
        self,
        resolve: Resolve,
        registry: FaultRegistry,
        blob_host: FaultRegistry,
        mirrors: tuple[Mirror, ...],
        fault: faults.Fault,
    ) -> None:
        registry.fail(manifest(), fault, times=None)
        resolved = resolve("models.example/library/tiny", mirrors=mirrors)
        assert [endpoint.base for endpoint in resolved.endpoints] == [blob_host.url, registry.url]

    def test_one_that_is_down_is_passed_over(
        self, resolve: Resolve, registry: FaultRegistry, mirrors: tuple[Mirror, ...]
    ) -> None:
        registry.stop()
        assert resolve("models.example/library/tiny", mirrors=mirrors).manifest.raw == MODEL.manifest

    def test_one_that_thinks_is_left_alone_while_the_next_is_asked_beside_it(
        self, resolve: Resolve, registry: FaultRegistry, blob_host: FaultRegistry, mirrors: tuple[Mirror, ...]
    ) -> None:
        thinks = faults.Stall()
        rule = registry.fail(manifest(), thinks, times=None)
        blob_host.fail(manifest(), faults.Status(503, retry_after=3600), times=None)

        def release() -> None:
            blob_host.wait_for(manifest())
            thinks.release()

        releasing = threading.Thread(target=release)
        releasing.start()
        resolved = resolve("models.example/library/tiny", mirrors=mirrors, stall_timeout=4.0)
        releasing.join()
        assert resolved.endpoints[0].base == registry.url
        assert rule.hits == 1

    def test_whoever_thinks_is_left_once_another_one_has_answered(
        self, resolve: Resolve, registry: FaultRegistry, mirrors: tuple[Mirror, ...]
    ) -> None:
        registry.fail(manifest(), faults.Stall(), times=None)
        assert resolve("models.example/library/tiny", mirrors=mirrors, stall_timeout=2.0).manifest.raw == MODEL.manifest
        registry.wait_idle()
        assert not [thread.name for thread in threading.enumerate() if thread.name == "towline-ask"]

    def test_cancelling_ends_all_requests_that_are_under_way(
        self, client_factory: Callable[..., Registry], registry: FaultRegistry, blob_host: FaultRegistry, mirrors: Any
    ) -> None:
        for each in (registry, blob_host):
            each.fail(manifest(), faults.Stall(), times=None)
        client = client_factory(mirrors=mirrors, stall_timeout=2.0)
        asked = functools.partial(blob_host.wait_for, manifest())
        with client.call() as call, cancelled_after(call, asked), pytest.raises(Cancelled):
            client.resolve(call, ModelName.parse("models.example/library/tiny"))
        for each in (registry, blob_host):
            each.wait_idle()

    def test_one_that_asks_to_wait_holds_up_no_other(
        self, resolve: Resolve, registry: FaultRegistry, blob_host: FaultRegistry, mirrors: tuple[Mirror, ...]
    ) -> None:
        registry.fail(manifest(), faults.Status(429, retry_after=3600), times=None)
        blob_host.fail(manifest(), faults.Close(), times=1)
        resolved = resolve("models.example/library/tiny", mirrors=mirrors)
        assert resolved.endpoints[0].base == blob_host.url
        assert len(registry.exchanges()) == 1

    def test_without_a_thread_to_spare_whoever_thinks_may_still_answer(
        self,
        resolve: Resolve,
        registry: FaultRegistry,
        mirrors: tuple[Mirror, ...],
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        thinks = faults.Stall()
        registry.fail(manifest(), thinks, times=None)
        real, asked = threads.start, threading.Event()

        def start_one(target: Callable[[], None], name: str) -> threading.Thread:
            if not asked.is_set():
                asked.set()
                return real(target, name)
            thinks.release()
            raise Starved("none")

        monkeypatch.setattr(threads, "start", start_one)
        resolved = resolve("models.example/library/tiny", mirrors=mirrors, stall_timeout=4.0)
        assert resolved.endpoints[0].base == registry.url

    def test_without_a_thread_for_the_first_it_is_told(
        self, resolve: Resolve, mirrors: tuple[Mirror, ...], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def start(target: Callable[[], None], name: str) -> threading.Thread:
            raise Starved("none")

        monkeypatch.setattr(threads, "start", start)
        with pytest.raises(Starved):
            resolve("models.example/library/tiny", mirrors=mirrors)

    def test_where_none_has_it_and_one_said_so_it_is_not_found(
        self, resolve: Resolve, registry: FaultRegistry, blob_host: FaultRegistry, mirrors: tuple[Mirror, ...]
    ) -> None:
        registry.fail(manifest(), faults.Status(500), times=None)
        blob_host.fail(manifest(), faults.Status(404), times=None)
        sentence = refused(resolve, "models.example/library/tiny", NotFound, mirrors=mirrors)
        assert f"not found at {blob_host.host}" in sentence
        assert f"elsewhere it cannot be looked for: {registry.host} has a problem of its own (status 500)" in sentence

    def test_the_host_itself_is_not_asked_unless_it_is_listed(self, resolve: Resolve, registry: FaultRegistry) -> None:
        mirrors = (Mirror(registry.host, f"http://127.0.0.1:{unused_port()}"),)
        assert "refuses connections" in refused(resolve, mirrors=mirrors)
        assert not registry.exchanges()

    def test_the_host_itself_is_the_last_resort_where_it_is_listed_last(
        self, resolve: Resolve, registry: FaultRegistry
    ) -> None:
        mirrors = (Mirror(registry.host, f"http://127.0.0.1:{unused_port()}"), Mirror(registry.host, registry.url))
        assert resolve("library/tiny", mirrors=mirrors).manifest.raw == MODEL.manifest
        assert [exchange.query for exchange in registry.exchanges()] == [{}]


class TestTls:
    @pytest.fixture
    def secure(self, authority: Authority) -> Any:
        with FaultRegistry(authority=authority) as secure:
            secure.add(MODEL, "library/tiny")
            yield secure

    def over_tls(self, secure: FaultRegistry, **changes: Any) -> dict[str, Any]:
        return {"mirrors": (Mirror("models.example", secure.url),), **changes}

    def test_a_certificate_that_the_system_trusts_is_good(
        self, resolve: Resolve, secure: FaultRegistry, authority: Authority, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("SSL_CERT_FILE", str(authority.ca))
        resolved = resolve("models.example/library/tiny", **self.over_tls(secure))
        assert resolved.manifest.raw == MODEL.manifest

    def test_one_that_it_does_not_is_final_at_once_and_says_why(self, resolve: Resolve, secure: FaultRegistry) -> None:
        sentence = refused(
            resolve, "models.example/library/tiny", **self.over_tls(secure, stall_timeout=600.0, refused_timeout=600.0)
        )
        assert "certificate" in sentence
        assert "cannot be trusted" in sentence

    def test_one_for_another_name_is_final_at_once(
        self, resolve: Resolve, secure: FaultRegistry, authority: Authority, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("SSL_CERT_FILE", str(authority.ca))
        real = socket.getaddrinfo
        monkeypatch.setattr(socket, "getaddrinfo", lambda host, *rest: real("127.0.0.1", *rest))
        mirrors = (Mirror("models.example", f"https://other.example:{secure.port}"),)
        sentence = refused(resolve, "models.example/library/tiny", mirrors=mirrors, stall_timeout=600.0)
        assert "certificate of other.example" in sentence
        assert not secure.exchanges()

    def test_a_registry_that_redirects_from_https_to_http_is_refused(
        self,
        resolve: Resolve,
        secure: FaultRegistry,
        registry: FaultRegistry,
        authority: Authority,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        monkeypatch.setenv("SSL_CERT_FILE", str(authority.ca))
        secure.fail(manifest(), faults.Redirect(f"{registry.url}/v2/library/tiny/manifests/latest"), times=None)
        sentence = refused(resolve, "models.example/library/tiny", **self.over_tls(secure))
        assert "without HTTPS" in sentence
        assert "TOWLINE_PLAIN_HTTP" not in sentence  # which would change nothing
        assert not registry.exchanges()

    def test_a_token_service_over_plain_http_behind_https_is_refused(
        self,
        resolve: Resolve,
        secure: FaultRegistry,
        registry: FaultRegistry,
        authority: Authority,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        monkeypatch.setenv("SSL_CERT_FILE", str(authority.ca))
        bearer = Bearer()
        registry.issue_tokens_for(bearer)
        secure.require(bearer)
        assert "without HTTPS" in refused(resolve, "models.example/library/tiny", **self.over_tls(secure))
        assert not registry.exchanges()

    def test_https_to_a_plain_server_is_final_and_names_the_setting(
        self, resolve: Resolve, registry: FaultRegistry
    ) -> None:
        mirrors = (Mirror("models.example", f"https://{registry.host}"),)
        assert "TOWLINE_PLAIN_HTTP" in refused(resolve, "models.example/library/tiny", mirrors=mirrors)


def test_the_models_of_these_tests_differ() -> None:
    assert isinstance(MODEL, Model)
    assert MODEL.digest != OTHER.digest
