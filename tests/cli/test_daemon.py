"""What answers at a daemon's address need not be one, and need not stay one."""

from __future__ import annotations

import json
import socket
import threading
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest

from tests.conftest import DaemonFactory
from tests.support import models
from tests.support.listener import unused_port
from tests.support.registry import FaultRegistry
from towline._version import __version__
from towline.cli import daemon
from towline.cli.daemon import Daemon
from towline.errors import TowlineError
from towline.model.digest import Digest
from towline.model.events import Event, Progress, Status
from towline.settings import Listen

DIGEST = Digest.of(b"weights")


@contextmanager
def answering(answer: bytes, *, hold: bool = False) -> Iterator[Listen]:
    """Something that answers every connection with these bytes; with `hold` it then keeps silent, else hangs up."""
    over = threading.Event()

    def serve(listener: socket.socket) -> None:
        while True:
            try:
                connection, _ = listener.accept()
            except OSError:
                return
            with connection:
                connection.recv(65536)
                connection.sendall(answer)
                if hold:
                    over.wait(30)

    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=serve, args=(listener,))
        thread.start()
        try:
            yield Listen("127.0.0.1", listener.getsockname()[1])
        finally:
            over.set()
            listener.shutdown(socket.SHUT_RDWR)
            thread.join()


def ok(body: object, status: str = "200 OK") -> bytes:
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    return b"HTTP/1.1 %s\r\nContent-Length: %d\r\n\r\n%s" % (status.encode(), len(data), data)


def streamed(*lines: object, end: bool = True) -> bytes:
    """A chunked answer of these lines, with its last chunk or without."""
    chunks = [line if isinstance(line, bytes) else json.dumps(line).encode() + b"\n" for line in lines]
    body = b"".join(b"%x\r\n%s\r\n" % (len(chunk), chunk) for chunk in chunks)
    return b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + body + (b"0\r\n\r\n" if end else b"")


def test_a_daemon_over_the_same_store_is_found(daemon_factory: DaemonFactory, store_path: Path) -> None:
    running = daemon_factory()
    found = daemon.find(Listen("127.0.0.1", running.port), store_path)
    assert found == Daemon(running.url, __version__)


def test_nobody_there(store_path: Path) -> None:
    assert daemon.find(Listen("127.0.0.1", unused_port()), store_path) is None


@pytest.mark.parametrize(
    "answer",
    [
        ok(b"404 page not found", "404 Not Found"),  # what Ollama says
        ok(b"Ollama is running"),
        ok(b"<html>"),
        ok(b"\xff\xfe"),
        ok(b"[" * 100_000),
        ok([]),
        ok({}),
        ok({"version": "1", "store": 5}),
        ok({"version": "1", "store": "/elsewhere"}),
        b"SSH-2.0-OpenSSH_9.2\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n{}",
        b"",
    ],
    ids=range(12),
)
def test_what_is_no_towline_daemon_is_left_alone(answer: bytes, store_path: Path) -> None:
    with answering(answer) as listen:
        assert daemon.find(listen, store_path) is None


def test_what_says_nothing_is_left_alone(store_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(daemon, "CONNECT", 0.05)
    with answering(b"", hold=True) as listen:
        assert daemon.find(listen, store_path) is None


def test_no_proxy_is_asked(daemon_factory: DaemonFactory, store_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.setenv(name, f"http://127.0.0.1:{unused_port()}")
    assert daemon.find(Listen("127.0.0.1", daemon_factory().port), store_path) is not None


def pulled(answer: bytes, *, hold: bool = False) -> list[Event]:
    """The events of a pull that is answered so."""
    with answering(answer, hold=hold) as listen, closing(Daemon(listen.url, "1").pull("llama3.2")) as events:
        return list(events)


def test_lines_become_events() -> None:
    progress = {"status": f"pulling {DIGEST.short}", "digest": str(DIGEST), "total": 10, "completed": 3}
    assert pulled(
        streamed(
            {"status": "pulling manifest"}, {**progress, "speed": "unknown field"}, {"else": 1}, {"status": "success"}
        )
    ) == [Status("pulling manifest"), Progress(DIGEST, 10, 3), Status("success")]


def test_a_refusal_is_the_daemons_sentence() -> None:
    with pytest.raises(TowlineError, match=r"^no such model$"):
        pulled(ok({"error": "no such model"}, "404 Not Found"))


@pytest.mark.parametrize("body", [b"", b"<html>", b"[]", b"\xff"])
def test_a_refusal_without_a_sentence_tells_its_status(body: bytes) -> None:
    with pytest.raises(TowlineError, match="refused with status 502"):
        pulled(ok(body, "502 Bad Gateway"))


def test_an_error_in_the_stream_is_raised() -> None:
    with pytest.raises(TowlineError, match=r"^the disk is full$"):
        pulled(streamed({"status": "pulling manifest"}, {"error": "the disk is full"}))


@pytest.mark.parametrize(
    "answer",
    [
        b"",
        streamed({"status": "pulling manifest"}),
        streamed({"status": "pulling manifest"}, end=False),
        streamed(b'{"status": "pull', end=False),
        streamed(b"nonsense\n"),
        streamed({"status": "pulling x", "digest": "sha256:../../etc", "total": 1, "completed": 1}),
        streamed({"status": "pulling x", "digest": str(DIGEST), "total": "a lot"}),
    ],
    ids=range(7),
)
def test_a_stream_that_ends_without_success_is_a_daemon_that_went_away(answer: bytes) -> None:
    with pytest.raises(TowlineError, match="stopped answering; what has arrived is kept"):
        pulled(answer)


def test_silence_is_a_daemon_that_went_away(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(daemon, "SILENCE", 0.05)
    with pytest.raises(TowlineError, match="stopped answering"):
        pulled(streamed({"status": "pulling manifest"}, end=False), hold=True)


def test_the_events_of_a_real_daemon(daemon_factory: DaemonFactory, registry: FaultRegistry) -> None:
    model = models.tiny()
    name = registry.add(model, "library/tiny")
    with closing(Daemon(daemon_factory().url, "1").pull(name)) as events:
        last: dict[Digest, Progress] = {event.digest: event for event in events if isinstance(event, Progress)}
    assert {digest: event.completed for digest, event in last.items()} == {
        blob.digest: blob.size for blob in model.blobs
    }
