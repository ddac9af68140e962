"""What the daemon says about itself, and how it says no."""

from __future__ import annotations

import os
from collections.abc import Callable
from datetime import UTC, datetime

import pytest

from tests.server.support import FakePuller, Served, serving
from towline._version import __version__
from towline.settings import Listen, Settings


def test_the_root_says_what_clients_probe_for(served: Served) -> None:
    answer = served.get("/")
    assert (answer.status, answer.body) == (200, b"Ollama is running")
    assert answer.headers["content-type"].startswith("text/plain")


def test_the_version_is_one_that_clients_accept(served: Served) -> None:
    numbers = [int(number) for number in served.get("/api/version").json["version"].split(".")]
    assert len(numbers) == 3
    assert numbers >= [0, 6, 4]


def test_the_daemon_tells_who_it_is(served: Served) -> None:
    info = served.get("/towline/info").json
    assert info["version"] == __version__
    assert info["store"] == os.path.realpath(served.puller.store.root)
    assert info["pid"] == os.getpid()
    assert info["listen"] == "127.0.0.1:11434"
    assert 0 <= info["uptime"] < 60
    assert abs((datetime.now(UTC) - datetime.fromisoformat(info["started_at"])).total_seconds()) < 60


@pytest.mark.parametrize(("host", "told"), [("::1", "[::1]:1234"), ("", ":1234"), ("localhost", "localhost:1234")])
def test_the_address_is_told_as_the_setting_takes_it(puller: FakePuller, host: str, told: str) -> None:
    with serving(puller, Settings(models=puller.store.root, listen=Listen(host, 1234))) as served:
        listen = served.get("/towline/info").json["listen"]
    assert listen == told
    assert Listen.parse(listen) == Listen(host, 1234)


@pytest.mark.parametrize("path", ["/", "/api/version", "/api/tags", "/towline/info"])
def test_head_answers_as_get_does_without_a_body(served: Served, path: str) -> None:
    head, get = served.ask("HEAD", path), served.get(path)
    assert (head.status, head.body) == (200, b"")
    assert head.headers["content-type"] == get.headers["content-type"]


@pytest.mark.parametrize("path", ["/api/chat", "/v1/chat/completions", "/api/generate"])
def test_who_asks_for_what_a_model_says_is_told_that_none_is_run_here(served: Served, path: str) -> None:
    answer = served.ask("POST", path)
    assert (answer.status, "does not run" in answer.error) == (404, True)


@pytest.mark.parametrize("path", ["/nothing", "/api", "/api/pull/x", "/api/%00", "//", "/api/" + "a" * 4000])
@pytest.mark.parametrize("method", ["GET", "POST", "DELETE"])
def test_an_unknown_path_is_a_404_in_json(served: Served, path: str, method: str) -> None:
    answer = served.ask(method, path)
    assert answer.status == 404
    assert answer.headers["content-type"] == "application/json; charset=utf-8"
    assert len(answer.error) < 300


@pytest.mark.parametrize(
    ("method", "path", "allowed"),
    [("GET", "/api/pull", "POST"), ("DELETE", "/api/pull", "POST"), ("POST", "/api/tags", "GET, HEAD")],
)
def test_a_wrong_method_is_told_the_right_one(served: Served, method: str, path: str, allowed: str) -> None:
    answer = served.ask(method, path)
    assert (answer.status, answer.headers["allow"]) == (405, allowed)
    assert allowed in answer.error


def test_a_bug_is_a_sentence_to_the_client_and_a_traceback_in_the_log(
    served: Served, monkeypatch: pytest.MonkeyPatch, logged: Callable[[], str]
) -> None:
    def fail() -> None:
        raise ZeroDivisionError("secret detail")

    monkeypatch.setattr(served.puller.store, "list", fail)
    answer = served.get("/api/tags")
    assert answer.status == 500
    assert answer.error.startswith("internal error;")
    assert "secret" not in answer.error
    assert served.get("/").status == 200
    log = logged()
    assert "Traceback" in log
    assert "ZeroDivisionError" in log
