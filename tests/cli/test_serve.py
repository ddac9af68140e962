"""`towline serve`, as far as the command line goes; what it answers is in `tests/server`."""

from __future__ import annotations

import signal
import socket
import time
from pathlib import Path

import pytest

from tests.cli.support import Command
from tests.support.listener import unused_port
from towline.cli import daemon
from towline.cli.address import Address


def until_found(port: int, store: Path) -> daemon.Daemon:
    """The daemon, as soon as it answers."""
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline:
        if found := daemon.find(store, Address(port=port)):
            return found
        time.sleep(0.02)
    raise AssertionError("it does not answer")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=lambda value: str(value))
def test_serves_where_and_what_the_options_say(towline: Command, tmp_path: Path, number: signal.Signals) -> None:
    port = unused_port()
    store = tmp_path / "elsewhere"
    with towline.start("serve", "--host", f"127.0.0.1:{port}", "--models", str(store)) as running:
        assert until_found(port, store).url == f"http://127.0.0.1:{port}"
        running.send(number)
        assert running.wait().code == 0


def test_a_port_in_use_is_one_sentence(towline: Command) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        assert str(port) in towline.run("serve", "--host", f"127.0.0.1:{port}").failed()


@pytest.mark.parametrize(("host", "port"), [("127.0.0.1:99999", "99999"), ("foo:bar", "bar")])
def test_a_flag_with_an_impossible_port_is_wrong_usage(towline: Command, host: str, port: str) -> None:
    result = towline.run("serve", "--host", host)
    assert result.code == 2
    assert f"'{port}' is no port" in result.err


def test_a_variable_with_an_impossible_port_is_read_as_ollama_reads_it_and_complained_of(towline: Command) -> None:
    environment = {"OLLAMA_HOST": "127.0.0.1:99999", "OLLAMA_MODELS": "/proc/models"}
    result = towline.run("serve", env=environment)  # which ends at once, as the store cannot be made
    assert result.err.splitlines()[0] == (
        "towline: OLLAMA_HOST names the port '99999', which is none; 11434 is used, as Ollama does"
    )


def test_a_store_that_cannot_be_written_is_one_sentence(towline: Command) -> None:
    result = towline.run("serve", "--models", "/proc/models")
    assert result.code == 1
    assert "/proc/models" in result.err.splitlines()[-1]
