"""Secrets in every place where one can stand, and nothing of them in what is logged, printed, answered or stored."""

from __future__ import annotations

import contextlib
import json
import socket
import subprocess
from pathlib import Path

import pytest

from tests.conftest import DaemonFactory
from tests.support.challenges import Basic, Bearer, basic
from tests.support.daemon import TOWLINE, Daemon, clean_environment
from tests.support.exchanges import anything, blob, manifest, token
from tests.support.faults import Fault, Header, Redirect, Replace
from tests.support.models import generate
from tests.support.planted import PLANTED, look_for_secrets, look_for_secrets_in, plant
from tests.support.registry import FaultRegistry

SIZE = 1 << 20

ENVIRONMENT = {
    "HF_TOKEN": plant("variable"),
    "AWS_SECRET_ACCESS_KEY": plant("key"),
    "HTTPS_PROXY": f"http://me:{plant('proxy')}@127.0.0.1:9",
    "NO_PROXY": "127.0.0.1,localhost",
    "OLLAMA_DEBUG": "1",
}

WORDS = json.dumps(
    {
        "errors": [
            {
                "code": "DENIED",
                "message": f"https://u:{plant('words')}@host/x?X-Sig={plant('words')} refused Bearer {plant('words')}",
                "detail": {"token": plant("detail")},
            }
        ]
    }
).encode()

BROKEN_LINE = f"x\r\na line without a colon\r\nSet-Cookie: id={plant('cookie')}\r\nX-Token: {plant('line')}"

FAULTS: dict[str, Fault] = {
    "a line without a colon": Header("X-Broken", BROKEN_LINE),
    "an address with a password": Redirect(f"http://u:{plant('location')}@127.0.0.1:9/x?sig={plant('location')}"),
    "an address that is none": Redirect(f"http://u:{plant('location')}@[bad/x?sig={plant('location')}"),
    "a scheme that is none": Redirect(f"ftp://u:{plant('location')}@host/x?sig={plant('location')}"),
    "words of a registry": Replace(WORDS, "application/json", 403),
    "words of a registry that is busy": Replace(WORDS, "application/json", 503),
    "a page": Replace(f"<html>?token={plant('page')} Bearer {plant('page')}</html>".encode(), "text/html", 403),
    "a length that is none": Header("Content-Length", plant("length")),
    "a range that is none": Header("Content-Range", f"bytes {plant('range')}"),
    "a type": Header("Content-Type", f"text/x; token={plant('type')}"),
    "an encoding": Header("Content-Encoding", plant("encoding")),
    "a challenge": Header("WWW-Authenticate", f'Bearer realm="http://u:{plant("realm")}@host/?t={plant("realm")}"'),
}


@pytest.fixture(params=["text", "json"])
def daemon(request: pytest.FixtureRequest, daemon_factory: DaemonFactory) -> Daemon:
    environment = {**ENVIRONMENT, "TOWLINE_LOG": request.param, "TOWLINE_STALL_TIMEOUT": "1"}
    return daemon_factory(environment=environment)


def pull(daemon: Daemon, name: str) -> None:
    """A pull that may fail; what it answers is searched."""
    answer = daemon.request("POST", "/api/pull", {"model": name})
    look_for_secrets(answer.body.decode())


def run(home: Path, store: Path, *arguments: str, environment: dict[str, str]) -> None:
    """A command that may fail, with a traceback where it debugs; what it prints is searched."""
    environment = {**clean_environment(home / "home"), "OLLAMA_MODELS": str(store), **environment}
    done = subprocess.run([TOWLINE, *arguments], env=environment, capture_output=True, text=True, timeout=60)
    look_for_secrets(done.stdout + done.stderr)


def search(daemon: Daemon) -> None:
    look_for_secrets(daemon.output)
    look_for_secrets_in(daemon.store)


@pytest.mark.parametrize("where", ["manifest", "blob", "token"])
def test_what_a_registry_sends(daemon: Daemon, registry: FaultRegistry, blob_host: FaultRegistry, where: str) -> None:
    registry.require(Bearer())
    registry.redirect_blobs_to(blob_host)
    match = {"manifest": manifest(), "blob": blob(), "token": token()}[where]
    for number, fault in enumerate(FAULTS.values()):
        name = registry.add(generate(SIZE, seed=number), f"library/tiny{number}")
        rules = [each.fail(match, fault, times=3) for each in (registry, blob_host)]
        pull(daemon, name)
        assert any(rule.hits for rule in rules), "nothing was asked"
        registry.heal()
        blob_host.heal()
    search(daemon)


def test_what_towline_sends_itself(daemon: Daemon, registry: FaultRegistry, blob_host: FaultRegistry) -> None:
    name = registry.add(generate(SIZE), "library/tiny")
    registry.require(Bearer())
    registry.redirect_blobs_to(blob_host)
    pull(daemon, name)
    assert any(PLANTED in exchange.headers.get("authorization", "") for exchange in registry.exchanges())
    search(daemon)


def test_what_a_client_sends(daemon: Daemon) -> None:
    bodies: list[dict[str, object]] = [
        {"model": f"http://u:{plant('name')}@127.0.0.1:9/library/tiny"},
        {"model": f"127.0.0.1:9/library/tiny?token={plant('name')}"},
        {"model": "127.0.0.1:9/library/tiny", "username": plant("user"), "password": plant("password")},
        {"model": "tiny", "stream": {"token": plant("stream")}},
        {"model": "tiny", "max_rate": f"http://u:{plant('rate')}@host"},
        {"token": plant("field")},
    ]
    headers = {"Authorization": f"Bearer {plant('header')}", "Cookie": f"id={plant('cookie')}"}
    for body in bodies:
        answer = daemon.request("POST", "/api/pull", body, headers)
        look_for_secrets(answer.body.decode())
    for path in (f"/api/tags?token={plant('query')}", f"/v2/x?sig={plant('query')}", f"/x?{plant('query')}"):
        for host in ("localhost", f"{plant('host')}.example"):
            answer = daemon.request("GET", path, headers={**headers, "Host": host})
            look_for_secrets(answer.body.decode())
    for raw in (
        f"GET /x?sig={plant('raw')} HTTP/9.9\r\n\r\n",
        f"GET / HTTP/1.1\r\nHost: localhost\r\nAuthorization Bearer {plant('raw')}\r\n\r\n",
        f"{plant('raw')}\r\n\r\n",
    ):
        with contextlib.closing(socket.create_connection(("127.0.0.1", daemon.port), timeout=20)) as client:
            client.sendall(raw.encode())
            look_for_secrets(client.recv(10_000).decode())
    search(daemon)


SETTINGS = {
    "a mirror with a password": {"TOWLINE_MIRRORS": f"registry.ollama.ai=https://u:{plant('setting')}@mirror"},
    "a mirror without its host": {"TOWLINE_MIRRORS": f"https://u:{plant('setting')}@mirror"},
    "a mirror with an equals sign": {"TOWLINE_MIRRORS": f"https://u:{plant('setting')}=x@mirror"},
    "a mirror with a comma": {"TOWLINE_MIRRORS": f"https://u:{plant('setting')},x@mirror"},
    "a mirror with a query": {"TOWLINE_MIRRORS": f"a=https://mirror?token={plant('setting')}"},
    "a plain host": {"TOWLINE_PLAIN_HTTP": f"http://u:{plant('setting')}@host:5000"},
    "a plain host with a comma": {"TOWLINE_PLAIN_HTTP": f"http://u:{plant('setting')},x@host:5000"},
    "a plain host with a query": {"TOWLINE_PLAIN_HTTP": f"host:5000?{plant('setting')}"},
    "an address": {"OLLAMA_HOST": f"http://u:{plant('setting')}@127.0.0.1:9"},
    "an address with a slash": {"OLLAMA_HOST": f"http://u:{plant('setting')}/x@127.0.0.1:9"},
    "an address without a scheme": {"OLLAMA_HOST": f"u:{plant('setting')}@127.0.0.1:9"},
    "an address with a query": {"OLLAMA_HOST": f"127.0.0.1:9?token={plant('setting')}"},
    "an address and a port": {"OLLAMA_HOST": f"http://u:{plant('setting')}@127.0.0.1:99999"},
    "an address that is none": {"OLLAMA_HOST": f"http://u:{plant('setting')}@nowhere.invalid:9"},
    "a rate": {"TOWLINE_MAX_RATE": f"http://u:{plant('setting')}@host"},
    "a number": {"TOWLINE_CONNECTIONS": f"http://u:{plant('setting')}@host"},
    "a time": {"TOWLINE_STALL_TIMEOUT": f"x?token={plant('setting')}"},
    "a switch": {"TOWLINE_WRITEBACK": f"http://u:{plant('setting')}@host"},
    "a form": {"TOWLINE_LOG": f"http://u:{plant('setting')}@host"},
}


@pytest.mark.parametrize("debug", ["0", "1"])
@pytest.mark.parametrize("setting", SETTINGS.values(), ids=SETTINGS)
def test_a_setting_that_is_wrong(tmp_path: Path, store_path: Path, setting: dict[str, str], debug: str) -> None:
    for arguments in (["pull", "127.0.0.1:9/library/tiny"], ["list"]):
        run(tmp_path, store_path, *arguments, environment={**ENVIRONMENT, **setting, "TOWLINE_DEBUG": debug})
    look_for_secrets_in(tmp_path)


@pytest.mark.parametrize("fault", FAULTS.values(), ids=FAULTS)
def test_a_command_that_tells_everything(
    tmp_path: Path, store_path: Path, registry: FaultRegistry, blob_host: FaultRegistry, fault: Fault
) -> None:
    name = registry.add(generate(SIZE), "library/tiny")
    registry.redirect_blobs_to(blob_host)
    registry.require(Bearer())
    for each in (registry, blob_host):
        each.fail(anything(), fault, times=4, skip=2)
    for debug in ("0", "1"):
        environment = {**ENVIRONMENT, "TOWLINE_DEBUG": debug, "TOWLINE_STALL_TIMEOUT": "1"}
        run(tmp_path, store_path, "pull", name, environment=environment)
    look_for_secrets_in(tmp_path)


def test_a_registry_that_wants_a_login(daemon: Daemon, registry: FaultRegistry) -> None:
    name = registry.add(generate(SIZE), "library/tiny")
    registry.require(Basic("u", plant("login")))
    registry.fail(manifest(), Replace(f"{basic('u', plant('login'))} is wanted".encode(), "text/plain", 401))
    pull(daemon, name)
    search(daemon)


@pytest.mark.parametrize("by", ["daemon", "command"])
def test_a_secret_of_the_environment_that_a_registry_says(
    daemon: Daemon, tmp_path: Path, registry: FaultRegistry, by: str
) -> None:
    """It has no shape that tells what it is."""
    name = registry.add(generate(SIZE), "library/tiny")
    words = Replace(f"{plant('variable')} is refused".encode(), "text/plain", 403)
    rule = registry.fail(manifest(), words, times=None)
    if by == "daemon":
        pull(daemon, name)
    else:
        run(tmp_path, daemon.store, "pull", "--local", name, environment=ENVIRONMENT)
    assert rule.hits
    search(daemon)


def test_the_guard_sees_a_secret(tmp_path: Path) -> None:
    (tmp_path / "file").write_text(f"x{plant('x')}")
    with pytest.raises(AssertionError, match="a secret shows"):
        look_for_secrets_in(tmp_path)
    (tmp_path / "file").unlink()
    (tmp_path / plant("name")).touch()
    with pytest.raises(AssertionError, match="a secret shows"):
        look_for_secrets_in(tmp_path)
