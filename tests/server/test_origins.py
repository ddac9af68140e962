"""Who may talk to a daemon on loopback, decided on values."""

from __future__ import annotations

import ipaddress
import socket

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.server.support import FakePuller, FakeWatcher, Served, serving
from towline.server.origins import Policy, is_loopback, is_own_address, single
from towline.settings import Settings

POLICY = Policy(check_hosts=True, host_name="Workbench", own_address=lambda address: str(address) == "203.0.113.7")


@pytest.mark.parametrize(
    "host",
    [
        "", "localhost", "localhost:11434", "LOCALHOST", "localhost.", "a.localhost:1", "box.local", "db.internal:80",
        "workbench", "WORKBENCH:11434", "127.0.0.1", "127.0.0.1:11434", "127.9.9.9", "0.0.0.0", "[::1]", "[::1]:11434",
        "::1", "[::]", "10.1.2.3:1", "172.16.0.1", "172.31.255.255", "192.168.1.2", "[fd00::1]", "203.0.113.7",
        "[::ffff:127.0.0.1]:80",
    ],
)  # fmt: skip
def test_hosts_of_this_machine_pass(host: str) -> None:
    assert POLICY.host_allowed(host)


@pytest.mark.parametrize(
    "host",
    [
        "evil.example", "evil.example:11434", "localhost.evil.example", "127.0.0.1.evil.example", "evillocalhost",
        "evillocal", "local", "internal", "workbench.evil.example", "8.8.8.8", "172.32.0.1", "203.0.113.8",
        "[2001:db8::1]", "localhost@evil.example", "evil.example/localhost", "localhost:80:evil", "[::1]evil.example",
        "[evil.example]", "localhost evil.example", "localhost\x00", "lоcalhost", "[::ffff:8.8.8.8]", "localhost:port",
    ],
)  # fmt: skip
def test_hosts_of_others_are_refused(host: str) -> None:
    assert not POLICY.host_allowed(host)


def test_beyond_loopback_the_host_is_not_checked() -> None:
    assert Policy(check_hosts=False).host_allowed("models.example")


@given(st.text(max_size=30))
def test_no_host_whatever_raises(host: str) -> None:
    POLICY.host_allowed(host)


@given(st.text(max_size=40))
def test_no_origin_whatever_raises(origin: str) -> None:
    assert not POLICY.origin_allowed(f"https://{origin}.evil.example", "localhost")
    POLICY.origin_allowed(origin, "localhost")


@pytest.mark.parametrize(
    "origin",
    [
        "http://localhost", "https://localhost", "http://localhost:3000", "http://127.0.0.1:8080", "http://0.0.0.0:1",
        "https://[::1]:3000", "HTTP://LOCALHOST", "app://obsidian.md", "file://", "tauri://localhost",
        "vscode-webview://1a2b", "vscode-file://vscode-app", "http://box.local:11434", "https://box.local:11434",
    ],
)  # fmt: skip
def test_local_origins_pass(origin: str) -> None:
    assert POLICY.origin_allowed(origin, "box.local:11434")


@pytest.mark.parametrize(
    "origin",
    [
        "http://evil.example", "https://localhost.evil.example", "http://localhost@evil.example", "null", "localhost",
        "http://localhost:3000@evil.example", "http://evil.example#localhost", "http://localhost:x", "app:evil",
        "ftp://localhost", "http://127.0.0.1.evil.example", "http://[::1", "http://localhost/evil", "http://",
        "http://box.local:11435", "chrome-extension://abc",
    ],
)  # fmt: skip
def test_other_origins_are_refused(origin: str) -> None:
    assert not POLICY.origin_allowed(origin, "box.local:11434")


@pytest.mark.parametrize(
    ("pattern", "origin", "allowed"),
    [
        ("*", "http://anything.example", True),
        ("*", "null", True),
        ("http://a.example", "http://a.example", True),
        ("http://a.example", "http://a.example:81", False),
        ("http://a.example", "http://axexample", False),
        ("https://*.a.example", "https://b.a.example", True),
        ("https://*.a.example", "https://a.example", False),
        ("http://192.168.1.*", "http://192.168.1.7:3000", True),
        ("chrome-extension://*", "chrome-extension://abc", True),
        ("http://a.example", "http://A.example", True),
    ],
)
def test_the_operator_adds_origins(pattern: str, origin: str, allowed: bool) -> None:
    assert Policy(check_hosts=True, origins=(pattern,)).origin_allowed(origin, "localhost") is allowed


@pytest.mark.parametrize(
    ("host", "loopback"),
    [
        ("127.0.0.1", True), ("localhost", True), ("::1", True), ("127.1.2.3", True), ("", False), ("0.0.0.0", False),
        ("::", False), ("192.168.1.2", False), ("box", False),
    ],
)  # fmt: skip
def test_loopback_is_told_from_the_rest(host: str, loopback: bool) -> None:
    assert is_loopback(host) is loopback


def test_this_machines_addresses_are_known_without_a_list() -> None:
    assert is_own_address(ipaddress.ip_address("127.0.0.1"))
    assert not is_own_address(ipaddress.ip_address("203.0.113.9"))


def test_headers_that_disagree_have_no_value() -> None:
    assert (single([]), single(["a", "a"]), single(["a", "b"])) == ("", "a", None)


def test_a_page_of_another_site_is_refused_everywhere(served: Served) -> None:
    for path in ("/", "/api/tags", "/api/version", "/towline/info", "/nothing"):
        answer = served.get(path, Origin="http://evil.example")
        assert (answer.status, "OLLAMA_ORIGINS" in answer.error) == (403, True)
        assert "access-control-allow-origin" not in answer.headers
    assert served.get("/v2/", Origin="http://evil.example").code == "DENIED"
    assert served.pull({"model": "tiny"}, Origin="http://evil.example").status == 403
    assert not served.puller.joined


def test_a_rebound_page_is_refused_though_it_looks_like_its_own_origin(served: Served) -> None:
    answer = served.pull({"model": "tiny"}, Host="evil.example:11434", Origin="http://evil.example:11434")
    assert answer.status == 403
    assert not served.puller.joined
    assert served.get("/v2/_catalog", Host="evil.example").code == "DENIED"


def test_two_hosts_in_one_request_are_refused(served: Served) -> None:
    with served.raw(b"GET / HTTP/1.1\r\nHost: localhost\r\nHost: evil.example\r\n\r\n") as connection:
        assert connection.recv(100).split()[1] in (b"400", b"403")


def test_a_target_with_another_host_does_not_get_around_the_check(served: Served) -> None:
    with served.raw(b"GET http://localhost/ HTTP/1.1\r\nHost: evil.example\r\n\r\n") as connection:
        assert connection.recv(100).split()[1] == b"403"


def test_a_preflight_of_an_allowed_origin_is_answered(served: Served) -> None:
    answer = served.ask(
        "OPTIONS",
        "/api/pull",
        headers={
            "Origin": "http://localhost:3000",
            "Access-Control-Request-Method": "POST",
            "Access-Control-Request-Headers": "content-type, x-stainless-os",
        },
    )
    assert (answer.status, answer.body) == (204, b"")
    assert answer.headers["access-control-allow-origin"] == "http://localhost:3000"
    assert "POST" in answer.headers["access-control-allow-methods"]
    assert answer.headers["access-control-allow-headers"] == "content-type, x-stainless-os"
    assert "origin" in answer.headers["vary"].lower()


def test_a_preflight_of_another_origin_is_refused(served: Served) -> None:
    assert served.ask("OPTIONS", "/api/pull", headers={"Origin": "http://evil.example"}).status == 403


def test_a_plain_options_is_answered(served: Served) -> None:
    assert served.ask("OPTIONS", "/api/tags").status == 204


def test_an_allowed_page_may_read_answers_errors_and_streams(served: Served) -> None:
    def script(watcher: FakeWatcher) -> None:
        watcher.happen(commit=True)
        watcher.finish()

    served.puller.script = script
    origin = "http://localhost:3000"
    for answer in (
        served.get("/api/tags", Origin=origin),
        served.get("/nothing", Origin=origin),
        served.get("/v2/nothing", Origin=origin),
        served.pull({}, Origin=origin),
        served.pull({"model": "tiny"}, Origin=origin),
    ):
        assert answer.headers["access-control-allow-origin"] == origin


def test_beyond_loopback_any_host_is_served(puller: FakePuller) -> None:
    with serving(puller, loopback=False) as served:
        assert served.get("/", Host="models.example").status == 200


def test_the_settings_origins_count(puller: FakePuller) -> None:
    settings = Settings(models=puller.store.root, origins=("https://*.example",))
    with serving(puller, settings) as served:
        assert served.get("/", Origin="https://chat.example").status == 200


def test_the_machines_own_name_passes(served: Served) -> None:
    assert served.get("/", Host=socket.gethostname()).status == 200
