"""The daemon's life: a real `towline serve`, started, asked and ended."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import subprocess
import sys
import time
from contextlib import ExitStack, closing
from pathlib import Path

import pytest

from tests.conftest import DaemonFactory
from tests.server.support import keep
from tests.support.daemon import TOWLINE, Daemon, clean_environment
from tests.support.events import check_sentence
from tests.support.exchanges import blob
from tests.support.faults import Slow
from tests.support.listener import unused_port
from tests.support.models import generate, tiny
from tests.support.registry import FaultRegistry
from towline.errors import TowlineError
from towline.server import serve
from towline.server.serve import DISK_THREADS, bind
from towline.settings import Listen
from towline.store.store import Store


def start_and_fail(tmp_path: Path, *, host: str, store: Path) -> str:
    """Runs `towline serve` where it cannot start; returns its sentence."""
    environment = {**clean_environment(tmp_path / "home"), "OLLAMA_HOST": host, "OLLAMA_MODELS": str(store)}
    done = subprocess.run([TOWLINE, "serve"], env=environment, capture_output=True, text=True, timeout=20)
    assert done.returncode == 1
    assert done.stdout == ""
    lines = done.stderr.splitlines()
    assert len(lines) == 1, done.stderr
    return lines[0]


def end(daemon: Daemon, number: signal.Signals) -> float:
    """Sends the signal; returns the seconds until the daemon was gone. It has to leave with 0."""
    started = time.monotonic()
    os.kill(daemon.pid, number)
    assert daemon._process.wait(5) == 0, daemon.output
    return time.monotonic() - started


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_it_at_once(daemon: Daemon, number: signal.Signals) -> None:
    assert end(daemon, number) < 2


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_in_the_middle_of_a_pull_ends_it_cleanly(
    daemon: Daemon, registry: FaultRegistry, number: signal.Signals
) -> None:
    registry.add(generate(8 << 20), "library/tiny")
    registry.fail(blob(), Slow(100_000, after=1 << 20), times=None)
    with daemon.pulling(f"{registry.host}/library/tiny") as stream:
        stream.until_completed(1)
        assert end(daemon, number) < 2
        lines = list(stream)
    assert "error" in lines[-1]
    check_sentence(lines[-1]["error"])


def test_a_signal_while_the_status_is_held_back_ends_it_too(daemon: Daemon) -> None:
    with closing(socket.create_server(("127.0.0.1", 0))) as silent, socket.socket() as client:
        client.connect(("127.0.0.1", daemon.port))
        body = b'{"model":"127.0.0.1:%d/library/tiny"}' % silent.getsockname()[1]
        client.sendall(b"POST /api/pull HTTP/1.1\r\nHost: localhost\r\nContent-Length: %d\r\n\r\n" % len(body) + body)
        silent.settimeout(5)
        silent.accept()[0].close()
        assert end(daemon, signal.SIGTERM) < 2


def test_a_signal_ends_it_though_clients_do_not_read(daemon_factory: DaemonFactory, store_path: Path) -> None:
    model = generate(64 << 20)
    keep(store_path, "large", model)
    daemon = daemon_factory()
    with closing(socket.create_connection(("127.0.0.1", daemon.port))) as client:
        path = f"/v2/library/large/blobs/{model.weights.digest}"
        client.sendall(f"GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode())
        client.recv(1000)
        assert end(daemon, signal.SIGTERM) < 2


HANGING = """
import sys, threading
from towline.server import serve
from towline.store.store import Store
Store.list = lambda _: threading.Event().wait()
serve.END_SECONDS = 2
from towline.cli.main import main
sys.exit(main(sys.argv[2:]))
"""
"""A daemon whose disk stops to answer as soon as models are listed."""


def test_a_signal_ends_it_though_the_disk_does_not_answer(
    daemon_factory: DaemonFactory, registry: FaultRegistry
) -> None:
    daemon = daemon_factory(within=(sys.executable, "-c", HANGING))
    registry.add(generate(8 << 20), "library/tiny")
    registry.fail(blob(), Slow(100_000, after=1 << 20), times=None)
    with daemon.pulling(f"{registry.host}/library/tiny") as stream, ExitStack() as stack:
        stream.until_completed(1)
        for _ in range(2 * DISK_THREADS):
            client = stack.enter_context(closing(socket.create_connection(("127.0.0.1", daemon.port))))
            client.sendall(b"GET /api/tags HTTP/1.1\r\nHost: localhost\r\n\r\n")
        assert daemon.request("GET", "/api/version").status == 200
        end(daemon, signal.SIGTERM)
        lines = list(stream)
    assert "error" in lines[-1]  # the pull was ended as it should
    assert "does not answer" in daemon.output


def test_what_grew_too_old_is_swept_away_while_it_runs(store_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = Store(store_path, staging_ttl=86400)
    store.prepare()
    left = store_path / "towline/staging" / f"{'5' * 64}-{8 << 20}"
    left.mkdir()
    os.utime(left, (time.time() - 90000,) * 2)
    monkeypatch.setattr(serve, "SWEEP_SECONDS", 0.01)

    async def until_it_is_gone() -> None:
        sweeping = asyncio.create_task(serve._sweep(store))
        async with asyncio.timeout(10):
            while left.exists():
                await asyncio.sleep(0.01)
        sweeping.cancel()

    asyncio.run(until_it_is_gone())


def test_it_says_where_it_listens_and_where_its_models_are(daemon: Daemon) -> None:
    lines = daemon.output.splitlines()
    assert len(lines) == 1
    assert daemon.url in lines[0]
    assert str(daemon.store) in lines[0]


def test_garbage_on_the_port_leaves_no_trace(daemon: Daemon) -> None:
    for data in (
        b"\x16\x03\x01\x02\x00\x01\x00",
        b"GET / HTTP/9.9\r\n\r\n",
        b"GET / HTTP/1.1\r\nBad\x00Header\r\n\r\n",
    ):
        with closing(socket.create_connection(("127.0.0.1", daemon.port), timeout=5)) as client:
            client.sendall(data)
            client.shutdown(socket.SHUT_WR)
            client.recv(1000)
    assert "Traceback" not in daemon.output


def test_a_port_in_use_is_one_sentence(tmp_path: Path, store_path: Path) -> None:
    with closing(socket.create_server(("127.0.0.1", 0))) as taken:
        port = taken.getsockname()[1]
        sentence = start_and_fail(tmp_path, host=f"127.0.0.1:{port}", store=store_path)
    assert f"127.0.0.1:{port}" in sentence
    assert "in use" in sentence
    assert not store_path.exists()


def test_an_address_of_another_machine_is_one_sentence(tmp_path: Path, store_path: Path) -> None:
    sentence = start_and_fail(tmp_path, host=f"203.0.113.1:{unused_port()}", store=store_path)
    assert "does not have the address" in sentence


def test_a_host_that_does_not_exist_is_one_sentence(tmp_path: Path, store_path: Path) -> None:
    sentence = start_and_fail(tmp_path, host=f"nowhere.invalid:{unused_port()}", store=store_path)
    assert "nowhere.invalid" in sentence


def test_a_store_that_cannot_be_written_is_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    sentence = start_and_fail(tmp_path, host=f"127.0.0.1:{unused_port()}", store=tmp_path / "file" / "models")
    assert "file" in sentence


@pytest.mark.parametrize("setting", ["127.0.0.1:{}", "localhost:{}", ":{}", "0.0.0.0:{}", "http://127.0.0.1:{}/"])
def test_it_listens_on_every_form_of_host(setting: str, daemon_factory: DaemonFactory) -> None:
    port = unused_port()
    daemon = daemon_factory(environment={"OLLAMA_HOST": setting.format(port)}, port=port)
    assert daemon.request("GET", "/").body == b"Ollama is running"
    assert daemon.request("GET", "/v2/").status == (200 if "127" in setting or "localhost" in setting else 403)


def test_all_addresses_share_one_port_that_the_system_chose() -> None:
    sockets = bind(Listen("", 0))
    try:
        assert len({sock.getsockname()[1] for sock in sockets}) == 1
        assert sockets[0].getsockname()[1] != 0
    finally:
        for sock in sockets:
            sock.close()


def test_a_taken_port_leaves_no_socket_behind() -> None:
    with closing(socket.create_server(("127.0.0.1", 0))) as taken, pytest.raises(TowlineError, match="in use"):
        bind(Listen("", taken.getsockname()[1]))


def test_one_towline_pulls_from_another(
    tmp_path: Path, daemon_factory: DaemonFactory, store_path: Path, registry: FaultRegistry
) -> None:
    model = generate(4 << 20)
    keep(store_path, "tiny", model)
    keep(store_path, f"{registry.host}/library/tiny", tiny(5))
    first = daemon_factory()
    mirrors = f"registry.ollama.ai={first.url},{registry.host}={first.url}"
    second = daemon_factory(tmp_path / "second", environment={"TOWLINE_MIRRORS": mirrors})
    second.pull("tiny", model=model)
    second.pull(f"{registry.host}/library/tiny", model=tiny(5))
    assert not registry.exchanges()
    for each in model.blobs:
        assert (tmp_path / "second/blobs" / each.digest.file_name).read_bytes() == each.data
