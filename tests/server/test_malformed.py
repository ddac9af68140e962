"""What is not HTTP, or not of this server's, is refused in the form that its clients read."""

from __future__ import annotations

import contextlib
import json
import socket
import time
import zlib
from collections.abc import Callable
from typing import Any

import pytest

from tests.server.support import Answer, Served

HOST = b"Host: localhost\r\n"
PULL = b"POST /api/pull HTTP/1.1\r\n" + HOST

BROKEN = {
    "no HTTP at all": b"hello there\r\n\r\n",
    "TLS": bytes.fromhex("1603010200010001fc0303") + b"\x00" * 64,
    "SSH": b"SSH-2.0-OpenSSH_9.6\r\n",
    "HTTP/2": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    "a version that is none": b"GET /api/tags HTTP/9.9\r\n" + HOST + b"\r\n",
    "an unknown method": b"FROB /api/tags HTTP/1.1\r\n" + HOST + b"\r\n",
    "a method in lower case": b"get /api/tags HTTP/1.1\r\n" + HOST + b"\r\n",
    "a request line of one word": b"GET\r\n\r\n",
    "an address with a space": b"GET /api/tags ok HTTP/1.1\r\n" + HOST + b"\r\n",
    "an address that is none": b"GET http://[::1 HTTP/1.1\r\n" + HOST + b"\r\n",
    "a port that is none": b"GET http://localhost:99999999/ HTTP/1.1\r\n" + HOST + b"\r\n",
    "a line without a colon": b"GET /api/tags HTTP/1.1\r\n" + HOST + b"no colon here\r\n\r\n",
    "a header with a null byte": b"GET /api/tags HTTP/1.1\r\n" + HOST + b"Bad\x00Name: x\r\n\r\n",
    "a value with a null byte": b"GET /api/tags HTTP/1.1\r\n" + HOST + b"X: a\x00b\r\n\r\n",
    "a header with a space before its colon": b"GET /api/tags HTTP/1.1\r\n" + HOST + b"Content-Length : 1\r\n\r\n",
    "a folded header": b"GET /api/tags HTTP/1.1\r\n" + HOST + b"X: a\r\n b\r\n\r\n",
    "two hosts": b"GET /api/tags HTTP/1.1\r\n" + HOST + HOST + b"\r\n",
    "a line that is too long": b"GET /" + b"a" * 20_000 + b" HTTP/1.1\r\n" + HOST + b"\r\n",
    "a header that is too long": b"GET / HTTP/1.1\r\n" + HOST + b"X: " + b"a" * 20_000 + b"\r\n\r\n",
    "ten thousand headers": b"GET / HTTP/1.1\r\n"
    + HOST
    + b"".join(b"X-%d: a\r\n" % n for n in range(10_000))
    + b"\r\n",
    "a length that is no number": PULL + b"Content-Length: ten\r\n\r\n{}",
    "a negative length": PULL + b"Content-Length: -1\r\n\r\n{}",
    "a length beyond all bounds": PULL + b"Content-Length: " + b"9" * 40 + b"\r\n\r\n{}",
    "two lengths": PULL + b"Content-Length: 2\r\nContent-Length: 3\r\n\r\n{}",
    "a length and chunks": PULL + b"Content-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\n\r\n",
    "an encoding that is none": PULL + b"Transfer-Encoding: frob\r\n\r\n{}",
    "a chunk that is none": PULL + b"Transfer-Encoding: chunked\r\n\r\nzz\r\n{}\r\n0\r\n\r\n",
    "a chunk that is longer than it says": PULL + b"Transfer-Encoding: chunked\r\n\r\n1\r\n{}\r\n0\r\n\r\n",
}


def one_answer(data: bytes) -> Answer:
    """The answer in what a connection brought up to its end, which has to hold no other."""
    head, end, body = data.partition(b"\r\n\r\n")
    assert end, data
    status, *lines = head.decode("ascii").split("\r\n")
    headers = {name.lower(): value for name, value in (line.split(": ", 1) for line in lines)}
    assert len(body) == int(headers["content-length"]), data
    return Answer(int(status.split()[1]), headers, body)


def everything(connection: socket.socket) -> bytes:
    """What comes until the other side has nothing more to say."""
    return b"".join(iter(lambda: connection.recv(65536), b""))


def told(answer: Answer) -> Any:
    assert answer.headers["content-type"] == "application/json; charset=utf-8"
    assert answer.headers["server"].startswith("towline/")
    assert "date" in answer.headers
    return answer.json


@pytest.mark.parametrize("data", BROKEN.values(), ids=BROKEN)
def test_what_is_not_http_is_a_400_with_a_sentence(served: Served, data: bytes) -> None:
    with served.raw(data) as connection:
        answer = one_answer(everything(connection))
    assert answer.status in (400, 431)
    assert list(told(answer)) == ["error"]
    assert len(answer.error) < 200
    assert served.get("/").status == 200


@pytest.mark.parametrize("size", [1, 7])
def test_it_is_one_whether_it_comes_at_once_or_in_drops(served: Served, size: int) -> None:
    data = b"GET /v2/ HTTP/1.1\r\n" + HOST + b"no colon here\r\n\r\n"
    with served.raw(b"") as connection:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        with contextlib.suppress(ConnectionError):  # it says no before the last byte
            for start in range(0, len(data), size):
                connection.sendall(data[start : start + size])
        answer = one_answer(everything(connection))
    assert (answer.status, answer.code) == (400, "UNSUPPORTED")


@pytest.mark.parametrize(
    "path", ["/v2", "/v2/", "/v2/library/tiny/manifests/latest", "/v2?n=1", "http://localhost/v2/"]
)
def test_under_v2_it_has_the_form_of_a_registry(served: Served, path: str) -> None:
    with served.raw(f"GET {path} HTTP/1.1\r\nHost: localhost\r\nno colon\r\n\r\n".encode()) as connection:
        answer = one_answer(everything(connection))
    assert (answer.status, answer.code) == (400, "UNSUPPORTED")
    assert answer.headers["docker-distribution-api-version"] == "registry/2.0"
    assert list(told(answer)) == ["errors"]


def test_a_client_that_half_closes_hears_it_too(served: Served) -> None:
    with served.raw(b"hello there\r\n\r\n") as connection:
        connection.shutdown(socket.SHUT_WR)
        assert one_answer(everything(connection)).status == 400


def test_what_was_sent_is_not_repeated(served: Served) -> None:
    with served.raw(b"GET / HTTP/1.1\r\n" + HOST + b"Authorization Bearer hunter2\r\n\r\n") as connection:
        answer = one_answer(everything(connection))
    assert "hunter2" not in answer.error


def test_a_good_request_before_a_bad_one_is_answered(served: Served) -> None:
    with served.raw(b"GET / HTTP/1.1\r\n" + HOST + b"\r\n") as connection:
        assert connection.recv(1000).startswith(b"HTTP/1.1 200 ")
        connection.sendall(b"hello there\r\n\r\n")
        assert one_answer(everything(connection)).status == 400


def test_a_head_cannot_grow_without_end(served: Served) -> None:
    with served.raw(b"GET / HTTP/1.1\r\n" + HOST) as connection:
        for number in range(100):
            with contextlib.suppress(ConnectionError):
                connection.sendall(b"X-%d: " % number + b"a" * 1000 + b"\r\n")
        answer = one_answer(everything(connection))
    assert answer.status in (400, 431)
    assert "head" in answer.error


@pytest.mark.parametrize("path", ["/api/tags", "/nothing", "/v2/"])
def test_an_expectation_that_cannot_be_met_is_a_417(served: Served, path: str) -> None:
    answer = served.ask("GET", path, headers={"Expect": "a miracle"})
    assert answer.status == 417
    assert list(told(answer)) == ["errors" if path == "/v2/" else "error"]


def test_a_client_that_waits_to_be_told_to_go_on_is_told(served: Served) -> None:
    head = PULL + b"Expect: 100-continue\r\nContent-Length: 2\r\n\r\n"
    with served.raw(head) as connection:
        assert connection.recv(1000).startswith(b"HTTP/1.1 100 ")
        connection.sendall(b"{}")
        assert connection.recv(1000).startswith(b"HTTP/1.1 400 ")


@pytest.mark.parametrize("path", ["/api/tags", "/nothing", "/v2/"])
def test_a_body_that_nobody_reads_does_not_disturb_what_follows(served: Served, path: str) -> None:
    body = b"GET /api/version HTTP/1.1\r\n\r\n" * 40_000
    head = f"POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(body)}\r\n\r\n"
    with served.raw(head.encode()) as connection:
        with contextlib.suppress(ConnectionError):
            connection.sendall(body)
        answer = one_answer(everything(connection))
    assert answer.status in (404, 405)


@pytest.mark.parametrize("path", ["/api/tags", "/nothing", "/v2/"])
def test_nor_does_what_comes_of_it_after_the_answer(served: Served, path: str) -> None:
    rest = b" " * 100_000
    with served.raw(
        f"POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(rest)}\r\n\r\n".encode()
    ) as connection:
        data = connection.recv(1000)
        connection.sendall(rest)
        answer = one_answer(data + everything(connection))
    assert answer.status in (404, 405)


@pytest.mark.parametrize("path", ["/api/pull", "/nothing", "/v2/"])
def test_a_compressed_body_is_unpacked_by_nobody(served: Served, logged: Callable[[], str], path: str) -> None:
    """Three GB in three MB, which would take seconds, in which nobody else is answered."""
    packer = zlib.compressobj(9)
    first, again = (packer.compress(bytes(10 << 20)) + packer.flush(zlib.Z_FULL_FLUSH) for _ in range(2))
    body = first + 300 * again
    head = (
        f"POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Encoding: deflate\r\nContent-Length: {len(body)}\r\n\r\n"
    )
    with served.raw(head.encode()) as connection:
        with contextlib.suppress(ConnectionError):
            connection.sendall(body)
        since = time.monotonic()
        assert served.get("/").status == 200
        assert time.monotonic() - since < 2
        answer = one_answer(everything(connection))
    assert answer.status in (400, 404, 405)
    assert "Traceback" not in logged()


@pytest.mark.parametrize("upgrade", [b"websocket", b"h2c", b"TLS/1.0"])
def test_an_upgrade_is_answered_as_if_nobody_had_asked_for_it(served: Served, upgrade: bytes) -> None:
    ask = b"GET /api/version HTTP/1.1\r\n" + HOST + b"Connection: Upgrade\r\nUpgrade: " + upgrade + b"\r\n\r\n"
    with served.raw(ask + b"GET / HTTP/1.0\r\n\r\n") as connection:
        data = everything(connection)
    assert data.startswith(b"HTTP/1.1 200 ")
    assert b'"version"' in data


def test_http_1_0_is_answered_and_closed(served: Served) -> None:
    with served.raw(b"GET /api/version HTTP/1.0\r\n\r\n") as connection:
        answer = one_answer(everything(connection))
    assert json.loads(answer.body)["version"]
