"""`POST /api/pull`, over a pull that the test plays."""

from __future__ import annotations

import contextlib
import gc
import http.client
import json
import socket
import struct
import time
import tracemalloc
from collections.abc import Iterator

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.server.support import FakePuller, FakeWatcher, Served, until
from towline.errors import Cancelled, NoSpace, NotFound, RegistryError, TransferError
from towline.model.digest import Digest
from towline.model.events import Progress, Status
from towline.server import body as body_module
from towline.server import connection as connection_module

LAYER = Digest.of(b"layer")


def succeed(watcher: FakeWatcher) -> None:
    watcher.happen(Status("pulling manifest"), commit=True)
    watcher.happen(Progress(LAYER, 10, 0))
    watcher.happen(Progress(LAYER, 10, 10), Status("success"))
    watcher.finish()


@contextlib.contextmanager
def pulling(served: Served, body: object = None) -> Iterator[http.client.HTTPResponse]:
    connection = http.client.HTTPConnection("127.0.0.1", served.port, timeout=20)
    with contextlib.closing(connection):
        connection.request("POST", "/api/pull", json.dumps(body or {"model": "tiny"}))
        yield connection.getresponse()


def test_streams_one_json_object_a_line(puller: FakePuller, served: Served) -> None:
    puller.script = succeed
    answer = served.pull({"model": "tiny"})
    assert answer.status == 200
    assert answer.headers["content-type"] == "application/x-ndjson"
    assert answer.lines == [
        {"status": "pulling manifest"},
        {"status": f"pulling {LAYER.short}", "digest": str(LAYER), "total": 10, "completed": 0},
        {"status": f"pulling {LAYER.short}", "digest": str(LAYER), "total": 10, "completed": 10},
        {"status": "success"},
    ]


def test_closes_the_watcher_once_when_done(puller: FakePuller, served: Served) -> None:
    puller.script = succeed
    served.pull({"model": "tiny"})
    assert puller.watchers[0].left.wait(2)
    assert puller.watchers[0].closed == 1


def test_an_event_goes_out_when_it_happens(puller: FakePuller, served: Served) -> None:
    puller.script = lambda watcher: watcher.happen(Status("pulling manifest"), commit=True)
    with pulling(served) as response:
        assert json.loads(response.readline()) == {"status": "pulling manifest"}
        started = time.monotonic()
        puller.watchers[0].happen(Status("writing manifest"))
        assert json.loads(response.readline()) == {"status": "writing manifest"}
        assert time.monotonic() - started < 0.09


def test_byte_counts_are_sampled_without_a_change(puller: FakePuller, served: Served) -> None:
    def script(watcher: FakeWatcher) -> None:
        watcher.on_poll = lambda: [Progress(LAYER, 1000, watcher.polls)]
        watcher.happen(Status("pulling manifest"), commit=True)

    puller.script = script
    with pulling(served) as response:
        started = time.monotonic()
        lines = [json.loads(response.readline()) for _ in range(6)]
        assert lines[-1]["completed"] > lines[1]["completed"]
        assert 0.3 < time.monotonic() - started < 2


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (NotFound("the registry has no model tiny"), 404),
        (RegistryError("the registry refuses connections"), 500),
        (NoSpace("the disk is full"), 500),
        (Cancelled("towline stops"), 500),
    ],
)
@pytest.mark.parametrize("stream", [True, False])
def test_an_early_failure_has_its_real_status(
    puller: FakePuller, served: Served, error: RegistryError, status: int, stream: bool
) -> None:
    puller.script = lambda watcher: watcher.finish(error)
    answer = served.pull({"model": "tiny", "stream": stream})
    assert (answer.status, answer.error) == (status, str(error))
    assert answer.headers["content-type"] == "application/json; charset=utf-8"
    until(lambda: puller.watchers[0].closed == 1)


def test_the_status_line_waits_for_the_manifest(puller: FakePuller, served: Served) -> None:
    def script(watcher: FakeWatcher) -> None:
        watcher.happen(Status("pulling manifest"))
        time.sleep(0.5)
        watcher.finish(NotFound("the registry has no model tiny"))

    puller.script = script
    assert served.pull({"model": "tiny"}).status == 404


def test_the_status_line_waits_four_seconds_at_most(puller: FakePuller, served: Served) -> None:
    puller.script = lambda watcher: watcher.happen(Status("pulling manifest"))
    started = time.monotonic()
    with pulling(served) as response:
        assert response.status == 200
        assert 3.8 < time.monotonic() - started < 4.5
        puller.watchers[0].finish(NotFound("the registry has no model tiny"))
        lines = [json.loads(line) for line in response]
    assert lines == [{"status": "pulling manifest"}, {"error": "the registry has no model tiny"}]


def test_a_late_failure_is_the_last_line_and_the_connection_closes_cleanly(puller: FakePuller, served: Served) -> None:
    def script(watcher: FakeWatcher) -> None:
        watcher.happen(Status("pulling manifest"), commit=True)
        until(lambda: watcher.polls > 0)
        watcher.finish(TransferError("the registry stopped sending"))

    puller.script = script
    with served.raw(_post(b'{"model":"tiny"}')) as connection:
        received = b"".join(iter(lambda: connection.recv(65536), b""))  # to the end of the connection
    head, _, body = received.partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 200 ")
    assert body.endswith(b'{"error":"the registry stopped sending"}\n\r\n0\r\n\r\n')
    assert b"success" not in body


def test_a_bug_ends_the_stream_with_an_error(puller: FakePuller, served: Served) -> None:
    def fail() -> list[Progress]:
        raise ZeroDivisionError

    def script(watcher: FakeWatcher) -> None:
        watcher.on_poll = fail  # type: ignore[assignment]
        watcher.happen(commit=True)

    puller.script = script
    answer = served.pull({"model": "tiny"})
    assert answer.lines[-1]["error"].startswith("internal error;")
    assert puller.watchers[0].left.wait(2)
    assert puller.watchers[0].closed == 1


def test_without_a_stream_one_object_comes_at_the_end(puller: FakePuller, served: Served) -> None:
    puller.script = succeed
    answer = served.pull({"model": "tiny", "stream": False})
    assert (answer.status, answer.json) == (200, {"status": "success"})
    assert answer.headers["content-type"] == "application/json"


@pytest.mark.parametrize("stream", [True, False])
def test_a_client_that_leaves_lets_go_of_the_pull(puller: FakePuller, served: Served, stream: bool) -> None:
    puller.script = lambda watcher: watcher.happen(Status("pulling manifest"), commit=True)
    body = json.dumps({"model": "tiny", "stream": stream}).encode()
    with served.raw(_post(body)):
        until(lambda: bool(puller.watchers))
        assert not puller.watchers[0].left.wait(0.2)
    assert puller.watchers[0].left.wait(2)
    time.sleep(0.1)
    assert puller.watchers[0].closed == 1


def test_a_client_that_resets_lets_go_of_the_pull(puller: FakePuller, served: Served) -> None:
    puller.script = lambda watcher: watcher.happen(Status("pulling manifest"), commit=True)
    with served.raw(_post(b'{"model":"tiny"}')) as connection:
        assert connection.recv(100)
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    assert puller.watchers[0].left.wait(2)


def test_a_client_that_leaves_while_the_status_is_held_back_lets_go_too(puller: FakePuller, served: Served) -> None:
    with served.raw(_post(b'{"model":"tiny"}')):
        until(lambda: bool(puller.watchers))
    assert puller.watchers[0].left.wait(2)


def test_a_slow_reader_is_polled_less_and_gets_newest_events(puller: FakePuller, served: Served) -> None:
    def script(watcher: FakeWatcher) -> None:
        wide = [Progress(Digest.of(str(number).encode()), 10**9, 0) for number in range(20_000)]

        def poll() -> list[Progress]:
            return [Progress(wide[0].digest, 10**9, watcher.polls), *wide[1:]]

        watcher.on_poll = poll  # type: ignore[assignment]
        watcher.happen(commit=True)

    puller.script = script
    with pulling(served) as response:
        time.sleep(1.5)
        polled = puller.watchers[0].polls
        time.sleep(0.5)
        assert puller.watchers[0].polls == polled  # it waits for the reader
        assert polled < 10
        response.read(1 << 20)
        puller.watchers[0].on_poll = None
        puller.watchers[0].finish()
        assert json.loads(response.read().splitlines()[-1])["completed"] == 0


def test_a_client_that_reads_nothing_lets_go_of_the_pull_in_the_end(
    puller: FakePuller, served: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connection_module, "STUCK_READER", 0.3)

    def script(watcher: FakeWatcher) -> None:
        many = [Progress(Digest.of(str(number).encode()), 10**9, 0) for number in range(60_000)]
        watcher.happen(Status("pulling manifest"), *many, commit=True)

    puller.script = script
    with served.raw(_post(b'{"model":"tiny"}')):
        until(lambda: bool(puller.watchers))
        assert puller.watchers[0].left.wait(20)


def test_each_line_is_a_chunk_of_its_own(puller: FakePuller, served: Served) -> None:
    def script(watcher: FakeWatcher) -> None:
        many = [Progress(Digest.of(str(number).encode()), 10, 10) for number in range(1000)]
        watcher.happen(Status("pulling manifest"), *many, Status("success"), commit=True)
        watcher.finish()

    puller.script = script
    with served.raw(_post(b'{"model":"tiny"}', "Connection: close")) as connection:
        received = b"".join(iter(lambda: connection.recv(65536), b""))
    chunks = list(_chunks(received.partition(b"\r\n\r\n")[2]))
    assert len(chunks) == 1002
    for chunk in chunks:
        assert chunk.count(b"\n") == 1, chunk
        assert isinstance(json.loads(chunk), dict)


def test_proxies_are_told_to_hold_nothing_back(puller: FakePuller, served: Served) -> None:
    puller.script = succeed
    headers = served.pull({"model": "tiny"}).headers
    assert headers["x-accel-buffering"] == "no"
    assert headers["cache-control"] == "no-store"


def test_a_connection_serves_the_next_request_after_a_stream(puller: FakePuller, served: Served) -> None:
    puller.script = succeed
    with contextlib.closing(http.client.HTTPConnection("127.0.0.1", served.port, timeout=20)) as connection:
        for _ in range(2):
            connection.request("POST", "/api/pull", b'{"model":"tiny"}')
            assert connection.getresponse().read().endswith(b'{"status":"success"}\n')


@pytest.mark.parametrize(
    ("given", "interleave"),
    [({}, False), ({"interleave": True}, True), ({"interleave": False}, False), ({"interleave": "yes"}, False)],
)
def test_layers_are_interleaved_where_that_is_asked_for(
    puller: FakePuller, served: Served, given: dict[str, object], interleave: bool
) -> None:
    puller.script = succeed
    assert served.pull({"model": "tiny", **given}).status == 200
    assert puller.watchers[0].interleave is interleave


def test_http_1_0_gets_the_stream_without_chunks(puller: FakePuller, served: Served) -> None:
    puller.script = succeed
    request = b'POST /api/pull HTTP/1.0\r\nConnection: keep-alive\r\nContent-Length: 16\r\n\r\n{"model":"tiny"}'
    with served.raw(request) as connection:
        received = b"".join(iter(lambda: connection.recv(65536), b""))
    head, _, body = received.partition(b"\r\n\r\n")
    assert b"chunked" not in head.lower()
    assert [json.loads(line) for line in body.splitlines()][-1] == {"status": "success"}


@pytest.mark.parametrize(
    ("body", "told"),
    [
        (b"", "missing request body"),
        (b" \n", "missing request body"),
        (b"not json", "not JSON"),
        (b"\xef\xbb\xbf{}", "byte order mark"),
        ('{"model":"tiny"}'.encode("utf-16"), "byte order mark"),
        (b'{"model":"tiny"', "not JSON"),
        (b'{"model":"tiny"} x', "not JSON"),
        (b'{"model":NaN}', "not JSON"),
        (b"[]", "not a JSON object"),
        (b'"tiny"', "not a JSON object"),
        (b"null", "not a JSON object"),
        (b"17", "not a JSON object"),
        (b"{}", "names no model"),
        (b'{"model":null}', "names no model"),
        (b'{"model":""}', "names no model"),
        (b'{"model":"tiny","model":null}', "names no model"),
        (b'{"model":42}', "model must be a string"),
        (b'{"model":{"a":1}}', "model must be a string"),
        (b'{"name":[]}', "name must be a string"),
        (b'{"model":"tiny","stream":"true"}', "stream must be a boolean"),
        (b'{"model":"tiny","stream":1}', "stream must be a boolean"),
        (b'{"model":"tiny","stream":' + b"9" * 10_000 + b"}", "stream"),
        (b'{"model":"\xff"}', "not UTF-8"),
        (b'{"model":"\\ud800"}', "not JSON"),
        (b'{"model":"a\x00b"}', "not JSON"),
        (b'{"model":"a\\u0000b"}', "invalid model name"),
        (b'{"model":"../../etc"}', "invalid model name"),
        (b'{"model":"tiny\\n"}', "invalid model name"),
        ('{"model":"t\u0456ny"}'.encode(), "invalid model name"),
        (b"[" * 1_000_000, "not a JSON object"),
        (b'{"x":' + b"[" * 1_000_000, "nested too deeply"),
        (b'{"x":' * 200_000, "nested too deeply"),
        (b'{"x":"' + b"a" * (1 << 20) + b'"}', "larger than 1 MiB"),
    ],
)
def test_a_bad_body_is_refused_with_a_sentence(puller: FakePuller, served: Served, body: bytes, told: str) -> None:
    started = time.monotonic()
    answer = served.pull(body)
    assert answer.status == 400
    assert told in answer.error
    assert time.monotonic() - started < 1
    assert not puller.joined


def test_a_request_without_any_body_is_refused(served: Served) -> None:
    answer = served.ask("POST", "/api/pull")
    assert (answer.status, "missing request body" in answer.error) == (400, True)


def test_a_body_of_exactly_one_mebibyte_is_read(puller: FakePuller, served: Served) -> None:
    puller.script = succeed
    body = b'{"model":"tiny","x":"'
    assert served.pull(body + b"a" * ((1 << 20) - len(body) - 2) + b'"}').status == 200


def test_large_bodies_have_a_bound_together_that_small_ones_do_not_meet(
    puller: FakePuller, served: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(body_module, "MOST_BYTES", 512 << 10)
    puller.script = succeed
    large = b'{"model":"tiny","x":"' + b"a" * (1000 << 10) + b'"}'
    begun = _post(large)[: 200 << 10]
    with contextlib.ExitStack() as stack:
        for number in range(1, 4):
            stack.enter_context(served.raw(begun))
            until(lambda number=number: body_module._beyond_small > number * (128 << 10))  # type: ignore[misc]
        answer = served.pull(large)
        assert answer.status == 503
        assert "large requests" in answer.error
        assert served.pull(b'{"model":"tiny"}').status == 200
    until(lambda: not body_module._beyond_small)
    monkeypatch.undo()
    assert served.pull(large).status == 200
    assert not body_module._beyond_small


def test_what_a_request_holds_beside_its_fields_is_not_kept(puller: FakePuller, served: Served) -> None:
    def filled() -> int:
        gc.collect()
        return sum(len(each) == 12345 for each in gc.get_objects() if isinstance(each, list))

    with served.raw(_post(b'{"model":"tiny","max_rate":[%s]}' % b",".join([b"[]"] * 12345))):
        until(lambda: bool(puller.watchers))
        until(lambda: not filled())


def test_a_body_that_is_refused_is_not_kept_until_garbage_is_collected(
    served: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    """That is seldom in a daemon: a thousand such requests would have it hold 600 MB until then."""
    monkeypatch.setattr(body_module, "MOST_BYTES", 0)
    head = b"POST /api/pull HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1000000\r\n\r\n"
    requests = 10
    gc.collect()
    gc.disable()
    tracemalloc.start()
    try:
        for _ in range(requests):
            with served.raw(head + b" " * 300_000) as connection:
                assert connection.recv(1000).startswith(b"HTTP/1.1 503 ")
        until(lambda: tracemalloc.get_traced_memory()[0] < requests * 50_000)
    finally:
        tracemalloc.stop()
        gc.enable()


def test_a_broken_chunked_body_is_refused(served: Served) -> None:
    head = b"POST /api/pull HTTP/1.1\r\nHost: localhost\r\nContent-Encoding: gzip\r\nContent-Length: 16\r\n\r\n"
    with served.raw(head + b'{"model":"tiny"}') as connection:
        assert connection.recv(4096).startswith(b"HTTP/1.1 400 ")


@pytest.mark.parametrize(
    ("body", "joined"),
    [
        ({"model": "tiny"}, "tiny:latest"),
        ({"name": "tiny:1b"}, "tiny:1b"),
        ({"model": "tiny", "name": "other"}, "tiny:latest"),
        ({"model": "", "name": "other"}, "other:latest"),
        ({"model": None, "name": "other", "stream": None}, "other:latest"),
        ({"model": "127.0.0.1:5000/library/tiny"}, "127.0.0.1:5000/library/tiny:latest"),
        ({"model": "tiny", "insecure": "yes", "username": {"a": [1]}, "password": 1e300, "else": None}, "tiny:latest"),
    ],
)
def test_a_good_body_names_its_model(puller: FakePuller, served: Served, body: object, joined: str) -> None:
    puller.script = succeed
    assert served.pull(body).status == 200
    assert [str(name) for name in puller.joined] == [joined]


@pytest.mark.parametrize("kind", ["application/x-www-form-urlencoded", "text/plain", "multipart/form-data", ""])
def test_the_content_type_does_not_matter(puller: FakePuller, served: Served, kind: str) -> None:
    puller.script = succeed
    assert served.ask("POST", "/api/pull", {"model": "tiny"}, {"Content-Type": kind}).status == 200


_VALUES = st.recursive(
    st.none() | st.booleans() | st.text() | st.integers() | st.floats(allow_nan=False, allow_infinity=False),
    lambda inner: st.lists(inner) | st.dictionaries(st.sampled_from(["model", "name", "stream", "x"]), inner),
)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=100)
@given(body=st.binary(max_size=64) | _VALUES.map(lambda value: json.dumps(value).encode()))
def test_no_body_whatever_makes_an_internal_error(puller: FakePuller, served: Served, body: bytes) -> None:
    puller.script = succeed
    assert served.pull(body).status in (200, 400)


def _post(body: bytes, *headers: str) -> bytes:
    head = ["POST /api/pull HTTP/1.1", "Host: localhost", f"Content-Length: {len(body)}", *headers]
    return "\r\n".join([*head, "\r\n"]).encode() + body


def _chunks(body: bytes) -> Iterator[bytes]:
    """The chunks of a whole chunked body, without the last, which is empty."""
    while body:
        size, _, body = body.partition(b"\r\n")
        length = int(size, 16)
        assert body[length : length + 2] == b"\r\n"
        if length:
            yield body[:length]
        body = body[length + 2 :]
