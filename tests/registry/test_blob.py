"""One blob as one endpoint has it, over redirects to a blob host whose addresses expire."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Iterator

import pytest

from tests.support import faults
from tests.support.certificates import Authority
from tests.support.challenges import Bearer
from tests.support.events import check_sentence
from tests.support.exchanges import Exchange, blob, path, token
from tests.support.models import Blob, weights
from tests.support.registry import FaultRegistry
from towline._version import __version__
from towline.errors import Cancelled, SourceBusy, SourceError, SourceGone, SourceLied
from towline.model.manifest import Descriptor
from towline.model.name import ModelName
from towline.registry import blob as blob_module
from towline.registry.blob import RangeStream, RegistryBlob
from towline.registry.client import Registry
from towline.registry.endpoints import endpoints
from towline.settings import Mirror, Settings

BLOB = weights(1 << 20)
SIGNED = path("^/data/")

Source = Callable[..., RegistryBlob]


@pytest.fixture
def source(registry: FaultRegistry, client_factory: Callable[..., Registry]) -> Iterator[Source]:
    """The blob at the registry of the test; `changes` are fields of `Settings`."""
    registry.hold(BLOB)

    def make(**changes: object) -> RegistryBlob:
        settings = Settings(**changes)  # type: ignore[arg-type]
        client = client_factory(**changes)
        name = ModelName.parse(f"{registry.host}/library/tiny")
        return client.source(endpoints(name.host, settings)[0], name, descriptor(BLOB))

    yield make
    assert not registry.violations


def descriptor(blob: Blob) -> Descriptor:
    return Descriptor(blob.media_type, blob.digest, blob.size)


def read(source: RegistryBlob, start: int = 0, stop: int = BLOB.size, *, step: int = 100_000) -> bytes:
    """The bytes of a range."""
    received = bytearray()
    with source.open(start, stop) as stream:
        drain(stream, received, step=step)
    return bytes(received)


def drain(stream: RangeStream, received: bytearray | None = None, *, step: int = 100_000) -> None:
    """Reads to the end; what came before an error is in `received`."""
    buffer = memoryview(bytearray(step))
    while (count := stream.readinto(buffer)) != 0:
        if received is not None and count is not None:
            received += buffer[:count]


def lulled(stream: RangeStream, received: bytearray, stall: faults.Stall) -> None:
    """Reads until the stream tells of a silence, which is over then."""
    buffer = memoryview(bytearray(100_000))
    while (count := stream.readinto(buffer)) is not None:
        received += buffer[:count]
    assert stall.reached.is_set()
    stall.release()


@contextlib.contextmanager
def cancelled_at(stall: faults.Stall, stream: RangeStream) -> Iterator[None]:
    """Cancels the stream from another thread once the server has come to its stop."""

    def cancel() -> None:
        stall.reached.wait(20)
        stream.cancel()

    canceller = threading.Thread(target=cancel)
    canceller.start()
    yield
    canceller.join()


@contextlib.contextmanager
def hanging(source: RegistryBlob, stall: faults.Stall) -> Iterator[None]:
    """A request of the source waits for an answer for longer than is usual."""
    stream = source.open(0, 100)
    received = bytearray()
    asking = threading.Thread(target=drain, args=(stream, received))
    asking.start()
    assert stall.reached.wait(20)
    with pytest.MonkeyPatch.context() as hurried:
        hurried.setattr(blob_module, "SUSPICIOUS", 0.1)
        time.sleep(0.2)
        yield
    stall.release()
    asking.join()
    stream.call.close()
    assert received == BLOB.data[:100]


def refused(source: RegistryBlob, kind: type[SourceError], start: int = 0, stop: int = BLOB.size) -> str:
    with pytest.raises(kind) as caught:
        read(source, start, stop)
    check_sentence(str(caught.value))
    return str(caught.value)


class TestRanges:
    @pytest.mark.parametrize(
        ("start", "stop"), [(0, BLOB.size), (0, 1), (1, 2), (BLOB.size - 1, BLOB.size), (12345, 654321)]
    )
    def test_the_bytes_of_a_range_come_and_no_others(self, source: Source, start: int, stop: int) -> None:
        assert read(source(), start, stop) == BLOB.data[start:stop]

    @pytest.mark.parametrize("step", [1000, 65536, 2 << 20])
    @pytest.mark.parametrize("encoding", [faults.Header("X", "y"), faults.Chunked(), faults.Undelimited()], ids=str)
    def test_they_come_into_a_buffer_of_any_size_from_an_answer_of_any_form(
        self, source: Source, registry: FaultRegistry, step: int, encoding: faults.Fault
    ) -> None:
        registry.fail(blob(), encoding)
        assert read(source(), step=step) == BLOB.data

    def test_connections_are_kept_for_the_next_range(self, source: Source, registry: FaultRegistry) -> None:
        blob_source = source()
        for start in range(0, 1000, 100):
            read(blob_source, start, start + 100)
        assert registry.connections() == 1

    def test_nothing_is_asked_before_the_first_byte_is_wanted(self, source: Source, registry: FaultRegistry) -> None:
        with source().open(0, 10):
            pass
        assert not registry.exchanges()

    def test_a_request_names_the_range_and_who_asks(self, source: Source, registry: FaultRegistry) -> None:
        read(source(), 5, 10)
        (exchange,) = registry.exchanges()
        assert exchange.range == (5, 9)
        assert exchange.headers["user-agent"] == f"towline/{__version__}"
        assert exchange.headers["accept-encoding"] == "identity"

    def test_a_mirror_is_told_for_whom_it_answers(self, source: Source, registry: FaultRegistry) -> None:
        read(source(mirrors=(Mirror(registry.host, f"http://localhost:{registry.port}"),)))
        assert [exchange.query for exchange in registry.exchanges()] == [{"ns": registry.host}]

    @pytest.mark.parametrize(
        "value",
        [
            "BYTES 10-1009/1048576",
            "Bytes 10-1009/1048576",
            "bytes=10-1009/1048576",
            "bytes  10 - 1009 / 1048576",
            "bytes 10-1009/*",
            "bytes 10-1009/",
            "bytes 10-1009",
        ],
    )
    @pytest.mark.parametrize("name", ["Content-Range", "CONTENT-RANGE", "content-range"])
    def test_a_range_is_understood_however_it_is_spelled(
        self, source: Source, registry: FaultRegistry, name: str, value: str
    ) -> None:
        registry.fail(blob(), faults.Header("Content-Range", None))
        registry.fail(blob(), faults.Header(name, value))
        assert read(source(), 10, 1010) == BLOB.data[10:1010]

    def test_a_source_that_refuses_every_range_is_asked_for_the_whole(
        self, source: Source, registry: FaultRegistry
    ) -> None:
        registry.fail(lambda exchange: exchange.range is not None, faults.Status(416), times=None)
        blob_source = source()
        assert "ignores ranges" in refused(blob_source, SourceBusy, 10, 1010)
        assert not blob_source.ranged
        assert read(blob_source) == BLOB.data
        assert registry.exchanges()[-1].range is None

    def test_one_that_refuses_the_first_range_is_asked_for_the_whole_at_once(
        self, source: Source, registry: FaultRegistry
    ) -> None:
        registry.fail(lambda exchange: exchange.range is not None, faults.Status(416), times=None)
        assert read(source(), 0, 1000) == BLOB.data[:1000]

    @pytest.mark.parametrize("start", [0, 10])
    def test_another_range_that_is_under_way_meanwhile_is_refused_in_the_same_way(
        self, source: Source, registry: FaultRegistry, start: int
    ) -> None:
        late = faults.Stall()
        registry.fail(lambda exchange: exchange.range == (start, 1009), late)
        registry.fail(lambda exchange: exchange.range is not None, faults.Status(416), times=None)
        blob_source = source()
        received: list[bytes | str] = []

        def ask() -> None:
            received.append(
                read(blob_source, start, 1010) if not start else refused(blob_source, SourceBusy, start, 1010)
            )

        asking = threading.Thread(target=ask)
        asking.start()
        assert late.reached.wait(20)
        refused(blob_source, SourceBusy, 5, 1005)
        late.release()
        asking.join()
        assert received == [BLOB.data[:1010]] if not start else "ignores ranges" in str(received)

    def test_a_whole_answer_to_the_first_range_is_used(self, source: Source, registry: FaultRegistry) -> None:
        registry.fail(blob(), faults.IgnoreRange())
        assert read(source(), 0, 1000) == BLOB.data[:1000]

    def test_a_whole_answer_to_a_later_range_tells_that_the_source_ignores_ranges(
        self, source: Source, registry: FaultRegistry
    ) -> None:
        registry.fail(blob(), faults.IgnoreRange())
        blob_source = source()
        assert "ignores ranges" in refused(blob_source, SourceBusy, 1, 1000)
        assert not blob_source.ranged

    def test_the_end_comes_once_all_bytes_did_and_stays(self, source: Source) -> None:
        buffer = memoryview(bytearray(10))
        with source().open(0, 10) as stream:
            while stream.readinto(buffer) != 0:
                pass
            assert stream.readinto(buffer) == 0


class TestLies:
    @pytest.mark.parametrize(
        ("fault", "kind"),
        [
            (faults.WrongRange(shift=1), SourceLied),
            (faults.WrongRange(shift=-1), SourceLied),
            (faults.WrongRange(grow=1), SourceLied),
            (faults.Header("Content-Range", None), SourceLied),
            (faults.Header("Content-Range", "bytes */1048576"), SourceLied),
            (faults.Header("Content-Range", "bytes 10-5/1048576"), SourceLied),
            (faults.Header("Content-Range", "bytes 10-1010/1048576"), SourceLied),
            (faults.Header("Content-Range", "bytes " + "9" * 400 + "-9/1"), SourceLied),
            (faults.Header("Content-Range", "bytes ٣-٤/٥".encode().decode("latin-1")), SourceLied),
            (faults.WrongLength(1), SourceLied),
            (faults.WrongLength(-1), SourceLied),
            (faults.Header("Content-Length", "x"), SourceLied),
            (faults.Header("Content-Length", "-1"), SourceLied),
            (faults.Longer(1), SourceLied),
            (faults.Shorter(1), SourceLied),
            (faults.Compressed(), SourceLied),
            (faults.Header("Content-Encoding", "br"), SourceLied),
            (faults.web_page(), SourceLied),
            (faults.Close(after=500), SourceBusy),
            (faults.Close(after=0), SourceBusy),
            (faults.Close(), SourceBusy),
            (faults.Reset(after=500), SourceBusy),
            (faults.Reset(), SourceBusy),
            (faults.Status(500), SourceBusy),
            (faults.Status(404), SourceGone),
            (faults.Status(206), SourceLied),
        ],
        ids=str,
    )
    def test_every_kind_of_failure_is_told_as_what_it_is(
        self, source: Source, registry: FaultRegistry, fault: faults.Fault, kind: type[SourceError]
    ) -> None:
        registry.fail(blob(), fault, times=None)
        refused(source(), kind, 10, 1010)

    def test_a_length_that_is_no_number_is_not_repeated(self, source: Source, registry: FaultRegistry) -> None:
        registry.fail(blob(), faults.Header("Content-Length", "pl4nted"), times=None)
        sentence = refused(source(), SourceLied, 10, 1010)
        assert "does not say in a number" in sentence
        assert "pl4nted" not in sentence

    @pytest.mark.parametrize(
        ("encoding", "end"),
        [
            (faults.Chunked(), faults.Close(after=500)),
            (faults.Chunked(), faults.Reset(after=500)),
            (faults.Undelimited(), faults.Reset(after=500)),
        ],
        ids=str,
    )
    def test_a_body_without_a_length_that_breaks_off_is_no_end(
        self, source: Source, registry: FaultRegistry, encoding: faults.Fault, end: faults.Fault
    ) -> None:
        registry.fail(blob(), encoding)
        registry.fail(blob(), end)
        refused(source(), SourceBusy, 10, 1010)

    @pytest.mark.parametrize("encoding", [faults.Chunked(), faults.Undelimited()], ids=str)
    @pytest.mark.parametrize("by", [faults.Shorter(10), faults.Longer(10)], ids=str)
    def test_a_body_without_a_length_that_ends_in_good_order_at_another_length_is_a_lie(
        self, source: Source, registry: FaultRegistry, encoding: faults.Fault, by: faults.Fault
    ) -> None:
        registry.fail(blob(), by)
        registry.fail(blob(), encoding)
        refused(source(), SourceLied, 10, 1010)

    @pytest.mark.parametrize("encoding", [faults.Chunked(), faults.Undelimited()], ids=str)
    def test_a_page_without_a_length_is_told_as_one(
        self, source: Source, registry: FaultRegistry, encoding: faults.Fault
    ) -> None:
        registry.fail(blob(), faults.web_page())
        registry.fail(blob(), encoding)
        assert "it sends a web page" in refused(source(), SourceLied)

    @pytest.mark.parametrize("step", [7, 100_000])
    def test_more_bytes_in_chunks_than_a_smaller_range_promises_are_a_lie(
        self, source: Source, registry: FaultRegistry, step: int
    ) -> None:
        registry.fail(blob(), faults.Header("Content-Range", f"bytes 10-19/{BLOB.size}"))
        registry.fail(blob(), faults.Chunked())
        received = bytearray()
        with source().open(10, 1010) as stream, pytest.raises(SourceLied, match="more bytes than it promised"):
            drain(stream, received, step=step)
        assert BLOB.data[10:20].startswith(bytes(received))

    @pytest.mark.parametrize("retry_after", [0, 7])
    def test_when_to_come_back_is_passed_on(self, source: Source, registry: FaultRegistry, retry_after: int) -> None:
        registry.fail(blob(), faults.Status(429, retry_after=retry_after))
        with pytest.raises(SourceBusy) as caught:
            read(source())
        assert caught.value.retry_after == retry_after

    def test_a_refused_connection_is_told_from_other_failures(self, source: Source, registry: FaultRegistry) -> None:
        registry.stop()
        with pytest.raises(SourceBusy) as caught:
            read(source())
        assert caught.value.refused

    def test_silence_is_a_failure_after_the_bound(self, source: Source, registry: FaultRegistry) -> None:
        registry.fail(blob(), faults.Stall(after=500))
        assert "in time" in refused(source(stall_timeout=1.0), SourceBusy)

    @pytest.mark.parametrize("after", [0, 1, 500, 9000, 300_000])
    def test_a_shorter_silence_is_told_and_nothing_is_lost(
        self, source: Source, registry: FaultRegistry, after: int
    ) -> None:
        stall = faults.Stall(after=after)
        registry.fail(blob(), stall)
        received = bytearray()
        with source().open(0, BLOB.size) as stream:
            lulled(stream, received, stall)
            assert bytes(received) == BLOB.data[:after]
            drain(stream, received)
        assert bytes(received) == BLOB.data


class TestCancelling:
    @pytest.mark.parametrize("after", [-1, 0, 500])
    @pytest.mark.parametrize("encoding", [faults.Header("X", "y"), faults.Chunked(), faults.Undelimited()], ids=str)
    def test_a_read_that_waits_is_ended(
        self, source: Source, registry: FaultRegistry, after: int, encoding: faults.Fault
    ) -> None:
        stall = faults.Stall(after=after)
        registry.fail(blob(), encoding)
        registry.fail(blob(), stall)
        stream = source(stall_timeout=600.0).open(0, BLOB.size)
        with stream, cancelled_at(stall, stream), pytest.raises(Cancelled):
            drain(stream)

    def test_a_later_read_is_ended_too(self, source: Source, registry: FaultRegistry) -> None:
        with source().open(0, 10) as stream:
            stream.cancel()
            with pytest.raises(Cancelled):
                stream.readinto(memoryview(bytearray(10)))
        assert not registry.exchanges()

    def test_cancelling_what_is_closed_harms_nobody_who_uses_the_connection_now(
        self, source: Source, registry: FaultRegistry
    ) -> None:
        blob_source = source()
        stream = blob_source.open(0, 1000)
        with stream:
            stream.readinto(memoryview(bytearray(1000)))
        with blob_source.open(1000, 2000) as other:
            first = other.readinto(memoryview(bytearray(10)))
            stream.cancel()
            rest = other.readinto(memoryview(bytearray(990)))
        assert (first, rest) == (10, 990)
        assert registry.connections() == 1


class TestBlobHost:
    @pytest.fixture(autouse=True)
    def redirected(self, registry: FaultRegistry, blob_host: FaultRegistry) -> Iterator[None]:
        registry.hold(BLOB)
        registry.redirect_blobs_to(blob_host)
        yield
        assert not blob_host.violations

    def test_bytes_come_from_where_the_registry_points(self, source: Source, blob_host: FaultRegistry) -> None:
        assert read(source()) == BLOB.data
        assert blob_host.bytes_sent(BLOB) == BLOB.size

    def test_the_address_is_asked_for_once(self, source: Source, registry: FaultRegistry) -> None:
        blob_source = source()
        for start in range(0, 1000, 100):
            read(blob_source, start, start + 100)
        assert len(registry.exchanges()) == 1

    def test_an_address_that_has_expired_is_asked_for_again(
        self, source: Source, registry: FaultRegistry, blob_host: FaultRegistry
    ) -> None:
        blob_source = source()
        read(blob_source, 0, 100)
        blob_host.expire_addresses()
        assert read(blob_source, 100, 200) == BLOB.data[100:200]
        assert len(registry.exchanges()) == 2

    @pytest.mark.parametrize(
        "fault",
        [
            *(faults.Status(status) for status in (400, 401, 403, 404, 408, 410, 418, 429, 500, 503)),
            faults.Status(503, retry_after=3600),
            faults.Reset(),
            faults.Close(),
            faults.Before(b"nonsense\r\n\r\n"),
            faults.Stall(),
            faults.WrongRange(shift=5),
            faults.WrongRange(grow=5),
            faults.Longer(),
            faults.Compressed(),
            faults.web_page(),
            faults.Replace(b"", status=204),
        ],
        ids=str,
    )
    def test_a_known_address_that_fails_in_whatever_way_is_asked_for_again_in_the_same_try(
        self, source: Source, registry: FaultRegistry, blob_host: FaultRegistry, fault: faults.Fault
    ) -> None:
        blob_source = source(stall_timeout=20.0)
        read(blob_source, 0, 100)
        with FaultRegistry() as healthy:
            registry.redirect_blobs_to(healthy)
            blob_host.fail(SIGNED, fault, times=None)
            with contextlib.ExitStack() as waiting:
                if isinstance(fault, faults.Stall):  # it is not left, but others do not follow it there
                    waiting.enter_context(hanging(blob_source, fault))
                assert read(blob_source, 100, 200) == BLOB.data[100:200]
            assert healthy.bytes_sent(BLOB) == 100

    def test_a_known_address_that_refuses_connections_is_asked_for_again_in_the_same_try(
        self, source: Source, registry: FaultRegistry, blob_host: FaultRegistry
    ) -> None:
        blob_source = source()
        read(blob_source, 0, 100)
        blob_host.stop()
        with FaultRegistry() as healthy:
            registry.redirect_blobs_to(healthy)
            assert read(blob_source, 100, 200) == BLOB.data[100:200]
            registry.reset()
            assert read(blob_source, 200, 300) == BLOB.data[200:300]
        assert not registry.exchanges()

    @pytest.mark.parametrize(
        "fault", [faults.Close(after=100), faults.Reset(after=100), faults.Stall(after=100)], ids=str
    )
    def test_one_that_fails_in_the_middle_of_a_body_is_asked_for_again_the_next_time(
        self, source: Source, registry: FaultRegistry, blob_host: FaultRegistry, fault: faults.Fault
    ) -> None:
        blob_source = source(stall_timeout=1.0)
        read(blob_source, 0, 100)
        blob_host.fail(SIGNED, fault, times=None)
        refused(blob_source, SourceBusy, 100, 1000)
        with FaultRegistry() as healthy:
            registry.redirect_blobs_to(healthy)
            assert read(blob_source, 100, 1000) == BLOB.data[100:1000]

    def test_one_that_falls_silent_in_the_middle_of_a_body_is_asked_for_again_by_whoever_comes_next(
        self, source: Source, registry: FaultRegistry, blob_host: FaultRegistry, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(blob_module, "SUSPICIOUS", 0.1)
        blob_source, silent, received = source(stall_timeout=60.0), faults.Stall(after=100), bytearray()
        read(blob_source, 0, 100)
        blob_host.fail(SIGNED, silent, times=1)
        with FaultRegistry() as healthy, blob_source.open(0, 1000) as stream:
            registry.redirect_blobs_to(healthy)
            silences = 0
            while silences < 2:
                count = stream.readinto(memoryview(bytearray(100)))
                silences += count is None
                received += BLOB.data[len(received) : len(received) + (count or 0)]
            assert read(blob_source, 100, 200) == BLOB.data[100:200]
            assert healthy.bytes_sent(BLOB) == 100
            silent.release()
            drain(stream, received)
        assert received == BLOB.data[:1000]

    @pytest.mark.parametrize("encoding", [faults.Chunked(), faults.Undelimited()], ids=str)
    def test_one_that_ends_in_good_order_and_too_early_is_asked_for_again_the_next_time(
        self, source: Source, registry: FaultRegistry, blob_host: FaultRegistry, encoding: faults.Fault
    ) -> None:
        blob_source = source()
        read(blob_source, 0, 100)
        blob_host.fail(SIGNED, faults.Shorter(10), times=None)
        blob_host.fail(SIGNED, encoding, times=None)
        refused(blob_source, SourceLied, 100, 1000)
        with FaultRegistry() as healthy:
            registry.redirect_blobs_to(healthy)
            assert read(blob_source, 100, 1000) == BLOB.data[100:1000]

    def test_a_host_that_has_sent_something_and_refuses_connections_is_restarting(
        self, source: Source, registry: FaultRegistry, blob_host: FaultRegistry
    ) -> None:
        blob_source = source()
        blob_host.stop()
        with pytest.raises(SourceBusy) as never_answered:
            read(blob_source, 0, 100)
        blob_host.start()
        read(blob_source, 0, 100)
        blob_host.stop()
        with pytest.raises(SourceBusy) as restarting:
            read(blob_source, 100, 200)
        assert (never_answered.value.refused, restarting.value.refused) == (True, False)

    @pytest.mark.parametrize("status", [204, 400, 401, 402, 403, 404, 405, 410, 421, 425, 429, 451, 503])
    def test_a_refusal_of_a_fresh_address_is_asked_again_once(
        self, source: Source, registry: FaultRegistry, blob_host: FaultRegistry, status: int
    ) -> None:
        blob_host.fail(SIGNED, faults.Status(status, retry_after=3600))
        assert read(source(), 0, 100) == BLOB.data[:100]
        assert len(registry.exchanges()) == 2

    @pytest.mark.parametrize("location", ["https://127.0.0.1:{}/x", "http://blobs.example/x", "http://[bad", "?x=1"])
    def test_a_fresh_address_that_cannot_be_asked_is_asked_for_again_once(
        self, source: Source, registry: FaultRegistry, authority: Authority, location: str
    ) -> None:
        """One whose certificate nobody knows, one without HTTPS, one that is none, and one that leads in circles."""
        with FaultRegistry(authority=authority) as unknown, FaultRegistry() as healthy:
            registry.redirect_blobs_to(healthy)
            registry.fail(blob(), faults.Redirect(location.format(unknown.port)), times=6 if location == "?x=1" else 1)
            assert read(source(), 0, 100) == BLOB.data[:100]

    @pytest.mark.parametrize("status", [403, 404])
    def test_what_is_refused_again_is_gone(
        self, source: Source, registry: FaultRegistry, blob_host: FaultRegistry, status: int
    ) -> None:
        blob_host.fail(SIGNED, faults.Status(status), times=None)
        assert blob_host.host in refused(source(), SourceGone)
        assert len(registry.exchanges()) == 2

    @pytest.mark.parametrize("fault", [faults.Status(500), faults.Reset(), faults.Close(after=10)], ids=str)
    def test_a_failure_of_the_blob_host_is_told_with_its_name_and_without_the_address(
        self, source: Source, blob_host: FaultRegistry, fault: faults.Fault
    ) -> None:
        blob_host.fail(SIGNED, fault, times=None)
        assert blob_host.host in refused(source(), SourceBusy)

    @pytest.mark.parametrize("said", ["short+one", "short%2Bone"])
    def test_a_signature_that_the_blob_host_repeats_is_not_repeated(
        self, source: Source, registry: FaultRegistry, blob_host: FaultRegistry, said: str
    ) -> None:
        signed = f"{blob_host.url}/data/{BLOB.digest.hex}?sig=short%2Bone"
        registry.fail(blob(), faults.Redirect(signed), times=None)
        blob_host.fail(SIGNED, faults.Replace(f"{said} is none of ours".encode(), status=403), times=None)
        assert "it says: *** is none of ours" in refused(source(), SourceGone)

    def test_no_token_ever_goes_to_the_blob_host(
        self, source: Source, registry: FaultRegistry, blob_host: FaultRegistry
    ) -> None:
        registry.require(Bearer(uses=1))
        blob_source = source()
        for start in range(0, 300, 100):
            read(blob_source, start, start + 100)
            blob_host.expire_addresses()
        assert len(registry.exchanges(token())) >= 3
        assert ["authorization" in exchange.headers for exchange in blob_host.exchanges()].count(True) == 0

    def test_a_blob_host_that_redirects_further_is_followed(
        self, source: Source, registry: FaultRegistry, blob_host: FaultRegistry
    ) -> None:
        with FaultRegistry() as further:
            further.hold(BLOB)
            blob_host.fail(SIGNED, faults.Redirect(further.signed_url(BLOB.digest)))
            assert read(source()) == BLOB.data
            assert not further.violations

    def test_a_known_address_that_redirects_is_asked_for_again(self, source: Source, blob_host: FaultRegistry) -> None:
        blob_source = source()
        read(blob_source, 0, 100)
        blob_host.fail(SIGNED, faults.Redirect("/elsewhere"))
        assert read(blob_source, 100, 200) == BLOB.data[100:200]

    def test_a_token_goes_to_the_registry_again_where_it_redirects_to_itself(
        self, source: Source, registry: FaultRegistry
    ) -> None:
        registry.require(Bearer())
        registry.fail(
            unauthorized_no_more, faults.Redirect(f"/v2/library/other/blobs/{BLOB.digest}?sig=secret"), times=1
        )
        assert read(source(), 0, 10) == BLOB.data[:10]


def unauthorized_no_more(exchange: Exchange) -> bool:
    return exchange.kind == "blob" and "authorization" in exchange.headers and exchange.repository == "library/tiny"


class TestTls:
    @pytest.fixture
    def secure(self, authority: Authority, monkeypatch: pytest.MonkeyPatch) -> Iterator[FaultRegistry]:
        monkeypatch.setenv("SSL_CERT_FILE", str(authority.ca))
        with FaultRegistry(authority=authority) as secure:
            secure.hold(BLOB)
            yield secure
            assert not secure.violations

    def over_tls(self, source: Source, registry: FaultRegistry, secure: FaultRegistry) -> RegistryBlob:
        return source(mirrors=(Mirror(registry.host, secure.url),))

    @pytest.mark.parametrize("step", [1000, 65536, 2 << 20])
    @pytest.mark.parametrize("encoding", [faults.Header("X", "y"), faults.Chunked(), faults.Undelimited()], ids=str)
    def test_bytes_come_over_tls_into_a_buffer_of_any_size(
        self, source: Source, registry: FaultRegistry, secure: FaultRegistry, step: int, encoding: faults.Fault
    ) -> None:
        secure.fail(blob(), encoding)
        assert read(self.over_tls(source, registry, secure), step=step) == BLOB.data

    @pytest.mark.parametrize("after", [0, 1, 500, 9000, 300_000])
    def test_a_silence_over_tls_is_told_and_nothing_is_lost(
        self, source: Source, registry: FaultRegistry, secure: FaultRegistry, after: int
    ) -> None:
        stall = faults.Stall(after=after)
        secure.fail(blob(), stall)
        received = bytearray()
        with self.over_tls(source, registry, secure).open(0, BLOB.size) as stream:
            lulled(stream, received, stall)
            drain(stream, received)
        assert bytes(received) == BLOB.data

    @pytest.mark.parametrize("first", [1, 1000, 8192, 8193])
    def test_a_small_first_read_over_tls_loses_nothing(
        self, source: Source, registry: FaultRegistry, secure: FaultRegistry, first: int
    ) -> None:
        received = bytearray()
        with self.over_tls(source, registry, secure).open(0, BLOB.size) as stream:
            head = memoryview(bytearray(first))
            received += head[: stream.readinto(head)]
            drain(stream, received)
        assert bytes(received) == BLOB.data

    def test_a_redirect_from_https_to_http_is_refused(
        self, source: Source, registry: FaultRegistry, blob_host: FaultRegistry, secure: FaultRegistry
    ) -> None:
        secure.redirect_blobs_to(blob_host)
        assert "without HTTPS" in refused(self.over_tls(source, registry, secure), SourceGone)
        assert not blob_host.exchanges()

    def test_http_on_loopback_may_go_on_to_https(
        self, source: Source, registry: FaultRegistry, secure: FaultRegistry
    ) -> None:
        registry.redirect_blobs_to(secure)
        assert read(source()) == BLOB.data

    @pytest.mark.parametrize("fault", [faults.Close(after=500), faults.Reset(after=500)], ids=str)
    def test_a_body_that_ends_early_is_no_end(
        self, source: Source, registry: FaultRegistry, secure: FaultRegistry, fault: faults.Fault
    ) -> None:
        secure.fail(blob(), fault)
        refused(self.over_tls(source, registry, secure), SourceBusy)

    @pytest.mark.parametrize("after", [-1, 0, 500])
    def test_a_read_that_waits_is_ended_by_cancelling(
        self, source: Source, registry: FaultRegistry, secure: FaultRegistry, after: int
    ) -> None:
        stall = faults.Stall(after=after)
        secure.fail(blob(), stall)
        stream = self.over_tls(source, registry, secure).open(0, BLOB.size)
        received = bytearray()
        with stream, cancelled_at(stall, stream), pytest.raises(Cancelled):
            drain(stream, received)
        assert bytes(received) == BLOB.data[: len(received)]
