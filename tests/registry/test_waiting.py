"""How long an answer is waited for: as long as it is allowed to take, and no longer for noise that comes meanwhile."""

from __future__ import annotations

import contextlib
import socket
import threading
from collections import deque
from collections.abc import Callable

import pytest

from tests.registry.conftest import Resolve
from tests.support import faults
from tests.support.certificates import Authority
from tests.support.challenges import Bearer
from tests.support.exchanges import Match, blob, manifest, path, token
from tests.support.models import tiny
from tests.support.registry import FaultRegistry
from tests.support.wire import Answer
from towline.errors import Cancelled, RegistryError, SourceBusy
from towline.model.name import ModelName
from towline.registry.client import Registry, Resolved
from towline.registry.http import HttpClient
from towline.registry.wire import Allowance, Garbled, Wire
from towline.settings import Mirror

MODEL = tiny()
BLOB = MODEL.weights
CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"
HINTS = b"HTTP/1.1 103 Early Hints\r\nLink: </style.css>; rel=preload\r\n\r\n"

NOISE = [
    faults.Before(CONTINUE, times=None),
    faults.Before(CONTINUE, times=None, pause=0.05),
    faults.Before(HINTS, times=None, pause=0.05),
    faults.Before(b"HTTP/1.1 200 OK\r\n" + b"X-Noise: and more\r\n" * 100, times=None),
    faults.Before(b"x", times=None, pause=0.05),
    faults.Before(b"HTTP/1.1 200 " + b"x" * 1000, times=None),
    faults.Before(b"\r\n", times=None, pause=0.05),
]
"""What goes on for ever before an answer, fast and slow."""


class Dripped:
    """The body comes a byte at a time, for ever."""

    def __repr__(self) -> str:
        return "Dripped()"

    def apply(self, answer: Answer) -> None:
        faults.Slow(20.0).apply(answer)
        answer.put(bytes(answer.body) + b" " * 60_000)


@pytest.fixture(autouse=True)
def held(registry: FaultRegistry, blob_host: FaultRegistry) -> None:
    registry.add(MODEL, "library/tiny")
    blob_host.hold(BLOB)


@pytest.fixture
def received(client_factory: Callable[..., Registry], registry: FaultRegistry) -> Callable[..., bytes]:
    """Receives the blob from the registry of the test."""

    def receive(**changes: object) -> bytes:
        client = client_factory(**changes)
        with client.call() as call:
            resolved: Resolved = client.resolve(call, ModelName.parse(f"{registry.host}/library/tiny"))
        wanted = next(each for each in resolved.manifest.blobs if each.digest == BLOB.digest)
        buffer, found = memoryview(bytearray(1 << 20)), bytearray()
        with client.source(resolved.endpoints[0], resolved.name, wanted).open(0, BLOB.size) as stream:
            while (count := stream.readinto(buffer)) != 0:
                found += buffer[: count or 0]
        return bytes(found)

    return receive


class TestNoise:
    """Each of these ended never, or only when the server tired of it."""

    @pytest.fixture
    def passed_over(
        self, client_factory: Callable[..., Registry], registry: FaultRegistry, blob_host: FaultRegistry
    ) -> Callable[[], None]:
        """Asks the registry of the test, which makes noise, and another one that answers."""

        def resolve() -> None:
            blob_host.add(MODEL, "library/tiny")
            mirrors = (Mirror("models.example", registry.url), Mirror("models.example", blob_host.url))
            client = client_factory(mirrors=mirrors, stall_timeout=1.6)
            with client.call() as call:
                resolved = client.resolve(call, ModelName.parse("models.example/library/tiny"))
            assert resolved.endpoints[0].base == blob_host.url
            assert registry.exchanges()

        return resolve

    @pytest.mark.parametrize("noise", NOISE, ids=str)
    @pytest.mark.parametrize("match", [manifest(), token()], ids=["manifest", "token"])
    def test_before_an_answer_it_does_not_renew_the_wait(
        self, passed_over: Callable[[], None], registry: FaultRegistry, noise: faults.Fault, match: Match
    ) -> None:
        registry.require(Bearer())
        registry.fail(match, noise, times=None)
        passed_over()

    @pytest.mark.parametrize("match", [manifest(), token()], ids=["manifest", "token"])
    @pytest.mark.parametrize(
        "noise", [Dripped(), faults.EndlessTrailers(), faults.EndlessTrailers(pause=0.05)], ids=str
    )
    def test_after_an_answer_it_does_not_renew_the_wait(
        self, passed_over: Callable[[], None], registry: FaultRegistry, noise: faults.Fault, match: Match
    ) -> None:
        registry.require(Bearer())
        registry.fail(match, noise, times=None)
        passed_over()

    @pytest.mark.parametrize("noise", NOISE, ids=str)
    def test_before_a_blob_it_does_not_renew_the_wait(
        self, received: Callable[..., bytes], registry: FaultRegistry, noise: faults.Fault
    ) -> None:
        registry.fail(blob(), noise, times=None)
        with pytest.raises(SourceBusy, match=registry.host):
            received(stall_timeout=1.0)

    @pytest.mark.parametrize("noise", NOISE[:3], ids=str)
    def test_over_tls_it_does_not_renew_the_wait(
        self, authority: Authority, monkeypatch: pytest.MonkeyPatch, noise: faults.Fault
    ) -> None:
        monkeypatch.setenv("SSL_CERT_FILE", str(authority.ca))
        client = HttpClient(connections=1, connect_timeout=20.0)
        with FaultRegistry(authority=authority) as secure, client.call() as call:
            secure.fail(path("/v2/"), noise, times=None)
            with pytest.raises(SourceBusy):
                call.send("GET", f"{secure.url}/v2/", {}, allowance=Allowance(2.0))
        client.close()

    @pytest.mark.parametrize("pause", [0.0, 0.05])
    def test_trailers_without_end_after_a_blob_that_came_harm_nobody(
        self, received: Callable[..., bytes], registry: FaultRegistry, pause: float
    ) -> None:
        registry.fail(blob(), faults.EndlessTrailers(pause), times=None)
        assert received(stall_timeout=600.0) == BLOB.data

    @pytest.mark.parametrize("match", [manifest(), token(), blob()], ids=["manifest", "token", "blob"])
    def test_the_body_of_a_redirect_is_not_waited_for(
        self, received: Callable[..., bytes], registry: FaultRegistry, match: Match
    ) -> None:
        class Slow:
            """A redirect to the same path, with a body that takes a quarter of an hour."""

            def apply(self, answer: Answer) -> None:
                faults.Redirect("?service=registry.test&scope=repository:library/tiny:pull", body=b"x" * 10_000).apply(
                    answer
                )
                faults.Slow(10.0).apply(answer)

        registry.require(Bearer())
        registry.fail(match, Slow())
        assert received() == BLOB.data

    @pytest.mark.parametrize("late", [faults.Stall(after=0), Dripped()], ids=str)
    def test_the_words_of_a_refusal_are_not_waited_for(
        self, resolve: Resolve, registry: FaultRegistry, late: faults.Fault
    ) -> None:
        registry.fail(manifest(), faults.Status(403), times=None)
        registry.fail(manifest(), late, times=None)
        with pytest.raises(RegistryError, match="status 403"):
            resolve("library/tiny", stall_timeout=600.0)


@pytest.mark.parametrize("piece", [b"x", b"X: y\r\n"], ids=["in one line", "in lines"])
def test_a_head_without_end_is_left_after_so_many_bytes(piece: bytes) -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        sending = threading.Thread(target=send_all, args=[theirs, piece * (1 << 20)])
        sending.start()
        wire = Wire(ours, Allowance(5.0))
        with pytest.raises(Garbled):
            deque(iter(wire.line, b"an end"), maxlen=0)
        ours.shutdown(socket.SHUT_RDWR)
        sending.join()


def send_all(sock: socket.socket, data: bytes) -> None:
    with contextlib.suppress(OSError):
        sock.sendall(data)


class TestInformational:
    @pytest.mark.parametrize("times", [1, 10])
    @pytest.mark.parametrize("answer", [CONTINUE, HINTS, b"HTTP/1.1 102 Processing\r\n\r\n"])
    def test_they_are_read_past(
        self, received: Callable[..., bytes], registry: FaultRegistry, answer: bytes, times: int
    ) -> None:
        registry.fail(lambda exchange: True, faults.Before(answer, times=times), times=None)
        assert received() == BLOB.data

    def test_an_eleventh_is_one_too_many(self, received: Callable[..., bytes], registry: FaultRegistry) -> None:
        registry.fail(blob(), faults.Before(HINTS, times=11), times=None)
        with pytest.raises(SourceBusy, match="does not answer as HTTP servers do"):
            received()


class TestSlow:
    @pytest.mark.parametrize(
        ("match", "after", "asks_for_login"),
        [
            (manifest(), -1, False),
            (manifest(), 0, False),
            (blob(), -1, False),
            (blob(), 0, False),
            (token(), -1, True),
        ],
        ids=["manifest", "manifest's body", "blob", "blob's body", "token"],
    )
    def test_an_answer_that_takes_most_of_the_patience_to_begin_is_left_alone(
        self, received: Callable[..., bytes], registry: FaultRegistry, match: Match, after: int, asks_for_login: bool
    ) -> None:
        """Such as a cache's that fetches first and answers then: half of the patience ended it."""

        class Late:
            def apply(self, answer: Answer) -> None:
                answer.turns.append((after, lambda wire: wire.pause(5.5)))

        if asks_for_login:
            registry.require(Bearer())
        rule = registry.fail(match, Late(), times=None)
        assert received(stall_timeout=9.0) == BLOB.data
        assert rule.hits == 1

    def test_one_hanging_mirror_of_several_is_waited_for_alone_for_its_share(
        self, client_factory: Callable[..., Registry], registry: FaultRegistry, blob_host: FaultRegistry
    ) -> None:
        blob_host.add(MODEL, "library/tiny")
        registry.fail(manifest(), faults.Before(CONTINUE, times=None, pause=0.05), times=None)
        mirrors = (Mirror("models.example", registry.url), Mirror("models.example", blob_host.url))
        client = client_factory(mirrors=mirrors, stall_timeout=4.0)
        with client.call() as call:
            resolved = client.resolve(call, ModelName.parse("models.example/library/tiny"))
        assert resolved.manifest.raw == MODEL.manifest

    def test_time_in_which_this_process_was_stopped_counts_against_nobody(self) -> None:
        allowance = Allowance(2.0)
        allowance.spend(3600.0)
        allowance.check()


class TestSilence:
    @pytest.mark.parametrize("encoding", [faults.Header("X", "y"), faults.Chunked(), faults.Undelimited()], ids=str)
    @pytest.mark.parametrize("after", [0, 1, 500, 9000])
    def test_it_is_told_in_a_body_of_any_form_and_nothing_is_lost(
        self,
        client_factory: Callable[..., Registry],
        registry: FaultRegistry,
        encoding: faults.Fault,
        after: int,
    ) -> None:
        stall = faults.Stall(after=after)
        registry.fail(blob(), encoding)
        registry.fail(blob(), stall)
        client = client_factory()
        with client.call() as call:
            resolved = client.resolve(call, ModelName.parse(f"{registry.host}/library/tiny"))
        wanted = next(each for each in resolved.manifest.blobs if each.digest == BLOB.digest)
        buffer, found, told = memoryview(bytearray(1 << 20)), bytearray(), 0
        with client.source(resolved.endpoints[0], resolved.name, wanted).open(0, BLOB.size) as stream:
            while (count := stream.readinto(buffer)) != 0:
                if count is None:
                    told += 1
                    assert bytes(found) == BLOB.data[:after]
                    stall.release()
                found += buffer[: count or 0]
        assert bytes(found) == BLOB.data
        assert told

    @pytest.mark.parametrize("encoding", [faults.Header("X", "y"), faults.Chunked(), faults.Undelimited()], ids=str)
    def test_for_long_it_is_the_end(
        self, received: Callable[..., bytes], registry: FaultRegistry, encoding: faults.Fault
    ) -> None:
        registry.fail(blob(), encoding)
        registry.fail(blob(), faults.Stall(after=500))
        with pytest.raises(SourceBusy, match="in time"):
            received(stall_timeout=1.0)


class TestCancelling:
    @pytest.mark.parametrize("noise", [NOISE[1], NOISE[4]], ids=str)
    def test_a_head_that_drips_is_ended(
        self, client_factory: Callable[..., Registry], registry: FaultRegistry, noise: faults.Fault
    ) -> None:
        registry.fail(manifest(), noise, times=None)
        client = client_factory(stall_timeout=600.0)
        call = client.call()

        def cancel() -> None:
            registry.wait_for(manifest())
            call.cancel()

        canceller = threading.Thread(target=cancel)
        canceller.start()
        with call, pytest.raises(Cancelled):
            client.resolve(call, ModelName.parse(f"{registry.host}/library/tiny"))
        canceller.join()
