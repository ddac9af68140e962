"""The one module that knows the HTTP client: what it makes of addresses, and that it gives everything back."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.support import faults
from tests.support.certificates import Authority
from tests.support.challenges import Bearer
from tests.support.exchanges import manifest, path
from tests.support.models import tiny
from tests.support.pulling import eventually, open_descriptors
from tests.support.registry import FaultRegistry
from towline.errors import SourceBusy
from towline.model.name import ModelName
from towline.registry.client import Registry
from towline.registry.failures import host_of
from towline.registry.http import HttpClient
from towline.registry.wire import Allowance
from towline.settings import Settings


@pytest.fixture
def client() -> Iterator[HttpClient]:
    client = HttpClient(connections=4, connect_timeout=5.0)
    yield client
    client.close()


@pytest.mark.parametrize(
    ("url", "target"),
    [
        ("https://a", "/"),
        ("https://a/", "/"),
        ("https://a?b=c", "/?b=c"),
        ("https://a/b/c?d=e%2Ff&g", "/b/c?d=e%2Ff&g"),
        ("https://a//b", "//b"),
        ("https://a/b#c", "/b"),
        ("https://a:444/sha256:x", "/sha256:x"),
    ],
)
def test_the_path_and_the_query_of_an_address_go_out_as_they_are(client: HttpClient, url: str, target: str) -> None:
    assert client._server(url)[1] == target


def test_a_signature_arrives_as_it_was_written(client: HttpClient, registry: FaultRegistry) -> None:
    with client.call() as call:
        call.send("GET", f"{registry.url}/data/x?sig=a%2Bb%3D&X-Amz=c+d", {}, allowance=Allowance(5.0))
    (exchange,) = registry.exchanges(path("/data/x"))
    assert exchange.query == {"sig": "a+b=", "X-Amz": "c d"}


def test_more_servers_than_are_kept_can_be_asked(client: HttpClient, registry: FaultRegistry) -> None:
    for number in range(2, 200):
        client._server(f"http://127.0.0.{number}/")
    with client.call() as call:
        assert call.send("GET", f"{registry.url}/v2/", {}, allowance=Allowance(5.0)).status == 200


@pytest.mark.parametrize(
    ("url", "host"),
    [
        ("https://user:secret@host.example:5000/path?sig=secret", "host.example:5000"),
        ("http://[bad", "an invalid address"),
        ("https://h\u00e9/", "h\\xe9"),
        ("nonsense", ""),
    ],
)
def test_the_host_of_an_address_is_safe_to_show(url: str, host: str) -> None:
    assert host_of(url) == host


def test_an_answer_that_is_not_wanted_costs_no_connection(registry: FaultRegistry) -> None:
    name = registry.add(tiny(), "library/tiny")
    registry.require(Bearer())
    registry.fail(manifest(), faults.Redirect("/v2/library/tiny/manifests/latest?again=1"), skip=1)
    client = Registry(Settings())
    with client.call() as call:
        client.resolve(call, ModelName.parse(name))
    client.close()
    assert registry.connections() == 1


def test_closing_ends_every_connection_also_of_answers_that_somebody_still_holds(registry: FaultRegistry) -> None:
    registry.add(tiny(), "library/tiny")
    before = len(open_descriptors())
    client = HttpClient(connections=4, connect_timeout=5.0)
    call = client.call()
    response = call.send("GET", f"{registry.url}/v2/library/tiny/manifests/latest", {}, allowance=Allowance(5.0))
    response.read(1 << 20)
    client.close()
    eventually(lambda: len(open_descriptors()) <= before, "the connection to end")
    assert response.status == 200


def test_cancelling_after_an_answer_without_a_length_harms_nobody_who_asks_now(
    client: HttpClient, registry: FaultRegistry
) -> None:
    model = tiny()
    address = f"{registry.url}/v2/library/model/manifests/latest"
    registry.add(model, "library/model")
    registry.fail(manifest(), faults.Chunked(), times=1)
    with client.call() as one, client.call() as other:
        assert one.send("GET", address, {}, allowance=Allowance(5.0)).read(1 << 20) == model.manifest
        stall = faults.Stall(after=10)
        registry.fail(manifest(), stall)
        response = other.send("GET", address, {}, allowance=Allowance(20.0))
        assert stall.reached.wait(20)
        one.cancel()
        stall.release()
        assert response.read(1 << 20) == model.manifest


@pytest.mark.parametrize("fault", [faults.Close(), faults.Reset()], ids=str)
@pytest.mark.parametrize("secure", [False, True], ids=["plain", "TLS"])
def test_a_kept_connection_that_closes_as_it_is_used_again_costs_nothing(
    authority: Authority, monkeypatch: pytest.MonkeyPatch, fault: faults.Fault, secure: bool
) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", str(authority.ca))
    client = HttpClient(connections=1, connect_timeout=5.0)
    with FaultRegistry(authority=authority if secure else None) as registry, client.call() as call:
        registry.fail(path("/v2/"), fault, skip=1)
        for _ in range(2):
            assert call.send("GET", f"{registry.url}/v2/", {}, allowance=Allowance(5.0)).status == 200
        first, again, once_more = registry.exchanges()
        assert first.client == again.client != once_more.client
    client.close()


@pytest.mark.parametrize(
    ("kept", "lost", "before"),
    [(False, 1, b""), (True, 2, b""), (True, 1, b"HTTP/1.1 100 Continue\r\n\r\n")],
    ids=["one that is fresh", "the second in a row", "one over which something came"],
)
def test_any_other_that_closes_is_a_failure(
    client: HttpClient, registry: FaultRegistry, kept: bool, lost: int, before: bytes
) -> None:
    with client.call() as call:
        if kept:
            call.send("GET", f"{registry.url}/v2/", {}, allowance=Allowance(5.0))
        registry.reset()
        registry.fail(path("/v2/"), faults.Before(before), times=None)
        registry.fail(path("/v2/"), faults.Close(), times=None)
        with pytest.raises(SourceBusy, match="was lost"):
            call.send("GET", f"{registry.url}/v2/", {}, allowance=Allowance(5.0))
    assert len(registry.exchanges()) == lost
