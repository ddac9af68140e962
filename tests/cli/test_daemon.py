"""What answers at a server's address need not be one, and need not stay one."""

from __future__ import annotations

import json
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, closing, contextmanager, suppress
from pathlib import Path

import pytest

from tests.cli.servers import LARGE, OLLAMA_MODEL, OLLAMA_PULL, SMALL, an_ollama, answering, towline_over
from tests.conftest import DaemonFactory
from tests.support import models
from tests.support.listener import unused_port
from tests.support.registry import FaultRegistry
from towline._version import __version__
from towline.cli import daemon
from towline.cli.address import Address
from towline.cli.daemon import Daemon, Info, Unusable
from towline.errors import TowlineError
from towline.model.digest import Digest
from towline.model.events import Event, Progress, Status

DIGEST = Digest.of(b"weights")

A_TOWLINE = Info("1", "/store", "1:1")


@contextmanager
def served(converse: Callable[[socket.socket, threading.Event], None]) -> Iterator[Address]:
    """Something that converses so with whoever connects, one after another; the event tells that it is to end."""
    over = threading.Event()

    def serve(listener: socket.socket) -> None:
        with suppress(OSError):
            while True:
                connection, _ = listener.accept()
                with connection, suppress(OSError):
                    connection.recv(65536)
                    converse(connection, over)

    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=serve, args=(listener,))
        thread.start()
        try:
            yield Address(port=listener.getsockname()[1])
        finally:
            over.set()
            listener.shutdown(socket.SHUT_RDWR)
            thread.join()


def raw(answer: bytes, *, hold: bool = False) -> AbstractContextManager[Address]:
    """Something that answers every connection with these bytes; with `hold` it then keeps silent, else hangs up."""

    def converse(connection: socket.socket, over: threading.Event) -> None:
        connection.sendall(answer)
        if hold:
            over.wait(30)

    return served(converse)


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
    found = daemon.find(store_path, Address(port=running.port))
    assert found is not None
    assert (found.url, found.towline and found.towline.version) == (running.url, __version__)


def test_nobody_there(store_path: Path) -> None:
    address = Address(port=unused_port())
    assert daemon.find(store_path, address) is None
    with pytest.raises(Unusable, match=f"^http://127.0.0.1:{address.port} refuses connections$"):
        daemon.at(address)


@pytest.mark.parametrize(
    "answer",
    [
        ok(b"404 page not found", "404 Not Found"),
        ok(b"Ollama is running"),
        ok(b"<html>"),
        ok(b"\xff\xfe"),
        ok(b"[" * 100_000),
        ok([]),
        ok({}),
        ok({"version": 1}),
        ok({"error": "this page is not for you"}, "403 Forbidden"),
        b"SSH-2.0-OpenSSH_9.2\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n{}",
        b"",
    ],
    ids=range(12),
)
def test_what_is_no_server_of_the_api_is_left_alone_and_is_a_sentence_where_it_was_meant(
    answer: bytes, store_path: Path
) -> None:
    with raw(answer) as address:
        assert daemon.find(store_path, address) is None
        with pytest.raises(Unusable, match=rf"^{address.url} (is neither|refuses with status|ends the connection)"):
            daemon.at(address)


def test_what_says_nothing_is_left_alone(store_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(daemon, "PROBE", 0.05)
    with raw(b"", hold=True) as address:
        assert daemon.find(store_path, address) is None
        with pytest.raises(Unusable, match="does not answer"):
            daemon.at(address, 0.05)


ENDLESS = {
    "informational answers": (b"", b"HTTP/1.1 100 Continue\r\n\r\n" * 50, 0.0),
    "a head that drips": (b"HTTP/1.1 200 OK\r\nX: ", b"x", 0.05),
    "a body that drips": (b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n", b" ", 0.05),
    "a line that drips": (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", b"1\r\n{\r\n", 0.05),
}


def endless(begin: bytes, piece: bytes, pause: float) -> AbstractContextManager[Address]:
    """Something whose answer never ends, for twenty seconds."""

    def converse(connection: socket.socket, over: threading.Event) -> None:
        connection.sendall(begin)
        until = time.monotonic() + 20
        while not over.wait(pause) and time.monotonic() < until:
            connection.sendall(piece)

    return served(converse)


@pytest.mark.parametrize("answer", ENDLESS.values(), ids=ENDLESS)
def test_an_answer_that_never_ends_is_none(
    answer: tuple[bytes, bytes, float], store_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(daemon, "PROBE", 0.2)
    monkeypatch.setattr(daemon, "ANSWER", 0.2)
    monkeypatch.setattr(daemon, "SILENCE", 0.2)
    since = time.monotonic()
    with endless(*answer) as address:
        assert daemon.find(store_path, address) is None
        there = Daemon(address, A_TOWLINE)
        with pytest.raises(TowlineError, match="stopped answering"):
            there.models()
        with pytest.raises(TowlineError, match="stopped answering"):
            list(there.pull("llama3.2"))
    assert time.monotonic() - since < 10


@pytest.mark.parametrize("info", [{"store": "/elsewhere"}, {"store_id": "0:0"}])
def test_a_towline_over_another_store_does_not_keep_this_one(info: dict[str, str], store_path: Path) -> None:
    store_path.mkdir()
    with answering(towline_over(store_path, **info)) as server:
        assert daemon.find(store_path, Address(port=server.port)) is None
        assert not daemon.at(Address(port=server.port)).keeps(store_path)


def test_an_ollama_is_one_but_not_found_as_a_daemon_of_this_store(store_path: Path) -> None:
    with answering(an_ollama()) as server:
        address = Address(port=server.port)
        assert daemon.at(address) == Daemon(address, None)
        assert daemon.find(store_path, address) is None


def test_no_proxy_is_asked(daemon_factory: DaemonFactory, store_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.setenv(name, f"http://127.0.0.1:{unused_port()}")
    assert daemon.find(store_path, Address(port=daemon_factory().port)) is not None


def pulled(answer: bytes, *, hold: bool = False, towline: Info | None = A_TOWLINE) -> list[Event]:
    """The events of a pull that is answered so."""
    with raw(answer, hold=hold) as address, closing(Daemon(address, towline).pull("llama3.2")) as events:
        return list(events)


def test_lines_become_events() -> None:
    progress = {"status": f"pulling {DIGEST.short}", "digest": str(DIGEST), "total": 10, "completed": 3}
    assert pulled(
        streamed(
            {"status": "pulling manifest"}, {**progress, "speed": "unknown field"}, {"else": 1}, {"status": "success"}
        )
    ) == [Status("pulling manifest"), Progress(DIGEST, 10, 3), Status("success")]


def test_what_a_pull_waits_for_is_in_its_events() -> None:
    reason = "waiting, as host:5000 is away; trying again"
    line = {"status": f"pulling {DIGEST.short}: {reason}", "digest": str(DIGEST), "total": 10, "completed": 3}
    assert pulled(streamed(line, {"status": "success"}))[0] == Progress(DIGEST, 10, 3, reason)


def test_the_lines_of_an_ollama_become_events_of_layers_that_end_whole() -> None:
    assert pulled(streamed(*OLLAMA_PULL), towline=None) == [
        Status("pulling manifest"),
        Progress(LARGE, 214843960, 0),
        Progress(LARGE, 214843960, 14843960),
        Progress(LARGE, 214843960, 154046168),
        Progress(LARGE, 214843960, 214843960),
        Progress(SMALL, 30468910, 17709188),
        Progress(SMALL, 30468910, 30468910),
        Status("verifying sha256 digest"),
        Status("writing manifest"),
        Status("success"),
    ]


def test_a_model_of_one_layer_a_tensor_is_one_layer_to_an_ollama() -> None:
    whole = {"status": "pulling model", "digest": "sha256:model", "total": 10}
    events = pulled(streamed(whole, {**whole, "completed": 10}, {"status": "success"}), towline=None)
    assert [event.completed for event in events if isinstance(event, Progress)] == [0, 10]


@pytest.mark.parametrize(("total", "completed"), [(10, 11), (-1, 5), (10, -1)])
def test_numbers_that_cannot_be_are_bounded(total: int, completed: int) -> None:
    line = {"status": "pulling x", "digest": str(DIGEST), "total": total, "completed": completed}
    (progress, _) = pulled(streamed(line, {"status": "success"}))
    assert isinstance(progress, Progress)
    assert 0 <= progress.completed <= progress.total


def test_what_a_server_says_cannot_steer_the_terminal() -> None:
    assert pulled(streamed({"status": "\x1b[2Jall\nis well"}, {"status": "success"}))[0] == Status("[2Jall is well")


def test_a_refusal_is_the_daemons_sentence() -> None:
    with pytest.raises(TowlineError, match=r"^no such model$"):
        pulled(ok({"error": "no such model"}, "404 Not Found"))


@pytest.mark.parametrize("body", [b"", b"<html>", b"[]", b"\xff"])
def test_a_refusal_without_a_sentence_tells_its_status(body: bytes) -> None:
    with pytest.raises(TowlineError, match="refuses with status 502"):
        pulled(ok(body, "502 Bad Gateway"))


@pytest.mark.parametrize("towline", [A_TOWLINE, None], ids=["a towline", "an Ollama"])
def test_an_error_in_the_stream_is_raised(towline: Info | None) -> None:
    with pytest.raises(TowlineError, match=r"^pull model manifest: file does not exist$"):
        pulled(
            streamed({"status": "pulling manifest"}, {"error": "pull model manifest: file does not exist"}),
            towline=towline,
        )


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
@pytest.mark.parametrize("towline", [A_TOWLINE, None], ids=["a towline", "an Ollama"])
def test_a_stream_that_ends_without_success_is_a_daemon_that_went_away(answer: bytes, towline: Info | None) -> None:
    with pytest.raises(TowlineError, match="stopped answering; what has arrived is kept"):
        pulled(answer, towline=towline)


def test_silence_is_a_daemon_that_went_away(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(daemon, "SILENCE", 0.05)
    with pytest.raises(TowlineError, match="stopped answering"):
        pulled(streamed({"status": "pulling manifest"}, end=False), hold=True)


def test_silence_is_not_the_end_of_an_ollama_which_says_nothing_while_it_verifies(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(daemon, "SILENCE", 0.05)
    verifying = threading.Event()
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def serve() -> None:
            connection, _ = listener.accept()
            with connection:
                connection.recv(65536)
                connection.sendall(streamed({"status": "verifying sha256 digest"}, end=False))
                verifying.wait(0.2)  # which nothing sets: longer than a towline may be silent
                connection.sendall(streamed({"status": "success"}).partition(b"\r\n\r\n")[2])

        thread = threading.Thread(target=serve)
        thread.start()
        with closing(Daemon(Address(port=listener.getsockname()[1]), None).pull("llama3.2")) as events:
            assert list(events)[-1] == Status("success")
        thread.join()


def test_the_models_of_an_ollama_are_read_as_it_tells_them() -> None:
    with answering(an_ollama(models=[OLLAMA_MODEL, {"name": "bare"}])) as server:
        model, bare = daemon.at(Address(port=server.port)).models()
    assert (model.name, model.size, model.digest[:4]) == ("127.0.0.1:5001/ns/m:t", 4636, "a75e")
    assert model.modified_at.isoformat() == "2023-11-15T01:36:20+02:00"
    assert (bare.name, bare.size, bare.digest) == ("bare", 0, "")


def test_no_models_are_none_or_null() -> None:
    for models_ in (b'{"models":[]}', b'{"models":null}'):
        with answering({**an_ollama(), "/api/tags": models_}) as server:
            assert daemon.at(Address(port=server.port)).models() == []


def test_the_events_of_a_real_daemon(daemon_factory: DaemonFactory, registry: FaultRegistry) -> None:
    model = models.tiny()
    name = registry.add(model, "library/tiny")
    with closing(daemon.at(Address(port=daemon_factory().port)).pull(name)) as events:
        last = {str(event.digest): event.completed for event in events if isinstance(event, Progress)}
    assert last == {str(blob.digest): blob.size for blob in model.blobs}
