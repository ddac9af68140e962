"""A daemon with more connections than it can hold: whoever asks properly is served, and the log stays readable."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import http.client
import os
import resource
import socket
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from aiohttp import web

from tests.conftest import DaemonFactory
from tests.server.support import FakePuller, FakeWatcher, Served, keep, serving, until
from tests.server.test_malformed import HOST, everything, one_answer
from tests.support.daemon import Daemon
from tests.support.exchanges import blob
from tests.support.faults import Slow
from tests.support.models import generate
from tests.support.registry import FaultRegistry
from towline.server import connection as connection_module
from towline.server import listener, shortage
from towline.server.connection import Awaited, Connection
from towline.server.listener import Connections

FILES = 1024
CROWD = 1100
BOUND = 30.0
"""Seconds for one answer beside the crowd: a guard for a busy machine, it takes milliseconds."""


@pytest.fixture
def crowded(daemon_factory: DaemonFactory, request: pytest.FixtureRequest) -> Iterator[Daemon]:
    """A daemon that may have 1,024 files open, and no more, run by the parameter if there is one; this process may have
    a crowd's.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, min(4096, hard)), hard))
    yield daemon_factory(within=("prlimit", f"--nofile={FILES}:{FILES}", *getattr(request, "param", ())))
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


IMPATIENT = """
import runpy, sys
from towline.server import listener

listener.PATIENCE_WITH_READERS = float(sys.argv[1])
sys.argv = sys.argv[2:]
runpy.run_path(sys.argv[0], run_name="__main__")
"""
"""Runs towline with so many seconds of patience with readers."""

PATIENCE = 1.0


@contextlib.contextmanager
def crowd(port: int, data: bytes, count: int = CROWD) -> Iterator[list[socket.socket]]:
    """So many clients that have sent this, and read nothing."""
    with contextlib.ExitStack() as stack:
        clients = []
        for _ in range(count):
            client = stack.enter_context(contextlib.closing(socket.create_connection(("127.0.0.1", port), timeout=20)))
            with contextlib.suppress(ConnectionError):
                client.sendall(data)
            clients.append(client)
        yield clients


def look_at(daemon: Daemon) -> None:
    """It serves, within the bound, with few lines in its log, bounded memory, and files to spare."""
    for path in ("/api/tags", "/api/version", "/v2/"):
        started = time.monotonic()
        assert daemon.request("GET", path, timeout=BOUND).status == 200
        assert time.monotonic() - started < BOUND
    usage = daemon.usage()
    assert usage.descriptors < FILES * 3 // 4
    assert usage.peak_rss < 250 << 20
    assert len(daemon.output.splitlines()) < 10


STUCK = {
    "that say nothing": b"",
    "that stop in the head": b"POST /api/pull HTTP/1.1\r\nHost: localh",
    "that stop after line ends": b"\r\n\r\n",
    "that keep their connection": b"GET /api/version HTTP/1.1\r\n" + HOST + b"\r\n",
    "that stop in the body": b"POST /api/pull HTTP/1.1\r\n" + HOST + b"Content-Length: 100\r\n\r\n{",
    "that stop in the body of no route": b"POST /nothing HTTP/1.1\r\n" + HOST + b"Content-Length: 100\r\n\r\n{",
    "that stop in a chunk": b"POST /api/pull HTTP/1.1\r\n" + HOST + b"Transfer-Encoding: chunked\r\n\r\n50\r\n{",
    "that are not HTTP": b"\x16\x03\x01\x02\x00\x01\x00",
}


@pytest.mark.parametrize("data", STUCK.values(), ids=STUCK)
def test_a_crowd_of_clients_locks_nobody_out(crowded: Daemon, data: bytes) -> None:
    with crowd(crowded.port, data):
        look_at(crowded)
    look_at(crowded)


def test_a_crowd_that_comes_again_and_again_locks_nobody_out(crowded: Daemon) -> None:
    for _ in range(3):
        with crowd(crowded.port, b"GET / HT"):
            look_at(crowded)


def test_a_pull_goes_on_beside_a_crowd(crowded: Daemon, registry: FaultRegistry) -> None:
    model = generate(8 << 20)
    registry.add(model, "library/tiny")
    with crowd(crowded.port, b"GET / HT"):
        crowded.pull(f"{registry.host}/library/tiny", model=model)


def test_what_is_answered_keeps_its_place(crowded: Daemon, registry: FaultRegistry) -> None:
    model = generate(8 << 20)
    registry.add(model, "library/tiny")
    registry.fail(blob(), Slow(4 << 20, after=1 << 20))
    with crowded.pulling(f"{registry.host}/library/tiny") as stream:
        stream.until_completed(1)
        with crowd(crowded.port, b"GET / HT"):
            stream.finish(model=model)


@pytest.mark.parametrize("crowded", [(sys.executable, "-c", IMPATIENT, str(PATIENCE))], indirect=True, ids=["readers"])
def test_clients_that_read_nothing_have_their_files_taken_back(store_path: Path, crowded: Daemon) -> None:
    model = generate(16 << 20)
    keep(store_path, "large", model)
    ask = f"GET /v2/library/large/blobs/{model.weights.digest} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode()
    with crowd(crowded.port, ask, FILES // 2):
        started = time.monotonic()
        while not is_served(crowded):
            assert time.monotonic() - started < BOUND
            time.sleep(0.2)
    assert len(crowded.output.splitlines()) < 10
    look_at(crowded)


def test_out_of_files_is_a_line_a_minute_and_no_work(crowded: Daemon) -> None:
    resource.prlimit(crowded.pid, resource.RLIMIT_NOFILE, (crowded.usage().descriptors + 20, FILES))
    ask = b"POST /api/pull HTTP/1.1\r\n" + HOST + b"Content-Length: 100\r\n\r\n{"
    with crowd(crowded.port, ask, 100):
        until(lambda: "out of files" in crowded.output)
        before = cpu_seconds(crowded.pid)
        time.sleep(3)
        assert cpu_seconds(crowded.pid) - before < 1
        assert len(crowded.output.splitlines()) == 2
        assert is_served(crowded)
    resource.prlimit(crowded.pid, resource.RLIMIT_NOFILE, (FILES, FILES))
    look_at(crowded)


def test_the_limit_of_files_is_raised_at_the_start(daemon_factory: DaemonFactory) -> None:
    daemon = daemon_factory(within=("prlimit", "--nofile=256:2000"))
    assert resource.prlimit(daemon.pid, resource.RLIMIT_NOFILE) == (2000, 2000)


def is_served(daemon: Daemon) -> bool:
    with contextlib.suppress(OSError, http.client.HTTPException):
        return daemon.request("GET", "/api/version", timeout=BOUND).status == 200
    return False


def cpu_seconds(pid: int) -> float:
    """What a process has used so far."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def test_who_has_no_place_is_told_so(puller: FakePuller, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(listener, "MAX_CONNECTIONS", 4)
    body = b'{"model": "tiny"}'
    pull = b"POST /api/pull HTTP/1.1\r\n" + HOST + b"Content-Length: %d\r\n\r\n" % len(body) + body
    with serving(puller) as served, contextlib.ExitStack() as stack:
        for number in range(1, 4):  # three of four are what one address may have
            stack.enter_context(served.raw(pull))
            until(lambda number=number: len(puller.watchers) == number)  # type: ignore[misc]
        answers = []
        for path in (b"/api/tags", b"/v2/"):
            with served.raw(b"GET " + path + b" HTTP/1.1\r\n" + HOST + b"\r\n") as connection:
                answers.append(one_answer(everything(connection)))
        stack.close()
        for watcher in puller.watchers:
            assert watcher.left.wait(5)
        assert served.get("/").status == 200
    assert [answer.status for answer in answers] == [503, 503]
    assert "connections" in answers[0].error
    assert answers[1].code == "TOOMANYREQUESTS"


def test_the_one_that_was_silent_longest_goes_first(puller: FakePuller, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(listener, "MAX_CONNECTIONS", 4)
    with serving(puller) as served, contextlib.ExitStack() as stack:
        first, second, third, _ = (stack.enter_context(served.raw(b"GET / HT")) for _ in range(4))
        assert one_answer(everything(first)).status == 503
        for connection in (second, third):
            connection.sendall(b"TP/1.1\r\n" + HOST + b"\r\n")
            assert connection.recv(1000).startswith(b"HTTP/1.1 200 ")


def test_clients_at_many_addresses_have_no_more_places_together(
    puller: FakePuller, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(listener, "MAX_CONNECTIONS", 4)
    with serving(puller) as served, contextlib.ExitStack() as stack:
        first, *_ = (stack.enter_context(served.raw(b"GET / HT", client=f"127.0.0.{n}")) for n in range(2, 7))
        assert one_answer(everything(first)).status == 503


@pytest.mark.parametrize(
    ("data", "status"), [(b"", None), (b"GET / HTTP/1.1\r\nHo", 408), (b"GET /v2/ HTTP/1.1\r\nHo", 408)]
)
def test_a_head_that_does_not_come_ends_its_connection(
    served: Served, monkeypatch: pytest.MonkeyPatch, data: bytes, status: int | None
) -> None:
    monkeypatch.setattr(connection_module, "HEAD_TIMEOUT", 0.3)
    with served.raw(data) as connection:
        told = everything(connection)
    assert (one_answer(told).status if told else None) == status


def test_a_head_that_drips_ends_its_connection(served: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connection_module, "HEAD_TIMEOUT", 0.5)
    with served.raw(b"GET / HTTP/1.1\r\n" + HOST + b"X: ") as connection:
        connection.setblocking(False)
        started = time.monotonic()
        told = b""
        while not told:
            assert time.monotonic() - started < 10
            time.sleep(0.02)
            with contextlib.suppress(BlockingIOError, ConnectionError):
                connection.send(b"a")
            with contextlib.suppress(BlockingIOError):
                told = connection.recv(1000)
    assert one_answer(told).status == 408


def test_the_second_head_of_a_connection_has_its_time_too(served: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connection_module, "HEAD_TIMEOUT", 0.3)
    with served.raw(b"GET / HTTP/1.1\r\n" + HOST + b"\r\n") as connection:
        assert connection.recv(1000).startswith(b"HTTP/1.1 200 ")
        connection.sendall(b"GET")
        assert one_answer(everything(connection)).status == 408


def test_an_answer_may_take_longer_than_a_head(
    puller: FakePuller, served: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connection_module, "HEAD_TIMEOUT", 0.1)

    def last(watcher: FakeWatcher) -> None:
        time.sleep(0.5)
        watcher.finish()

    puller.script = last
    assert served.pull({"model": "tiny", "stream": False}).status == 200


def test_requests_without_end_that_are_never_read_take_no_memory(crowded: Daemon) -> None:
    ask = (b"GET /api/version HTTP/1.1\r\n" + HOST + b"\r\n") * 1000
    with contextlib.closing(socket.create_connection(("127.0.0.1", crowded.port))) as client:
        client.settimeout(0.5)
        with contextlib.suppress(TimeoutError):
            for _ in range(2000):
                client.sendall(ask)
            pytest.fail("a client that reads nothing was never held back")
        look_at(crowded)


def once(error: Exception, then: Callable[..., object]) -> Callable[..., object]:
    """What raises this the first time that it is called, and does as it should after that."""
    errors = [error]

    def call(*arguments: object) -> object:
        if errors:
            raise errors.pop()
        return then(*arguments)

    return call


def test_one_whose_time_is_over_at_that_very_moment_may_be_dropped() -> None:
    """Between the end of a timeout and the first step of whoever it ends."""

    async def main() -> list[object]:
        connections = Connections(1)
        connection = Connection(web.Server(lambda _: web.Response()), connections, "127.0.0.1")  # type: ignore[arg-type,return-value]
        connection.connection_made(asyncio.Transport())
        ended: list[object] = []

        async def read() -> None:
            try:
                async with connection.awaiting(Awaited.BODY, 0.0):
                    await asyncio.sleep(BOUND)
            except TimeoutError:
                ended.append("timeout")

        reading = asyncio.create_task(read())
        while connection._patience is None or not connection._patience.expired():
            await asyncio.sleep(0)
        told = [connections.drop_one(), connections.drop_one()]
        assert not ended
        await reading
        return [*told, *ended]

    assert asyncio.run(main()) == [True, False, "timeout"]


def no_files() -> OSError:
    return OSError(errno.EMFILE, os.strerror(errno.EMFILE))


ACCEPTING: dict[str, list[tuple[object, str, Exception]]] = {
    "no memory to wait": [(listener, "_readable", MemoryError())],
    "a fault where one is dropped": [
        (socket.socket, "accept", no_files()),
        (Connections, "drop_one", RuntimeError("a fault")),
    ],
    "no memory to tell of it": [
        (socket.socket, "accept", no_files()),
        (shortage, "tell", MemoryError()),
    ],
    "no memory to log it": [
        (Connections, "make_room", ValueError("a fault")),
        (listener.log, "error", MemoryError()),
    ],
}


@pytest.mark.parametrize("faults", ACCEPTING.values(), ids=ACCEPTING)
def test_whatever_fails_while_one_is_accepted_the_next_one_is_served(
    puller: FakePuller,
    monkeypatch: pytest.MonkeyPatch,
    logged: Callable[[], str],
    faults: list[tuple[object, str, Exception]],
) -> None:
    for where, what, error in faults:
        monkeypatch.setattr(where, what, once(error, getattr(where, what)))
    with serving(puller) as served:
        with contextlib.suppress(OSError, http.client.HTTPException):  # the first may be hung up on
            served.get("/")
        assert served.get("/").status == 200
