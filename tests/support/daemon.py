"""A real `towline serve`, in a process of its own, as a user would run it."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from tests.support.events import Line, Pull, check_pull
from tests.support.listener import unused_port
from tests.support.models import Model
from tests.support.planted import look_for_secrets

TOWLINE = Path(sys.prefix) / "bin" / "towline"

_TRACES_OF_FAULTS = ("Traceback", "something went wrong that should not have")


@dataclass(frozen=True)
class Response:
    """A whole answer."""

    status: int
    headers: dict[str, str]
    """Names in lower case."""
    body: bytes

    @property
    def json(self) -> Any:
        """The body, parsed."""
        return json.loads(self.body)

    @property
    def lines(self) -> list[Line]:
        """The body as NDJSON, parsed."""
        return [json.loads(line) for line in self.body.splitlines()]


@dataclass(frozen=True)
class Usage:
    """What a process has taken of the machine."""

    peak_rss: int
    """Bytes (VmHWM)."""
    threads: int
    descriptors: int
    """Open files and sockets."""

    @classmethod
    def of(cls, pid: int) -> Self:
        """Of a process that runs now."""
        status = dict(
            line.split(":", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines() if ":" in line
        )
        descriptors = len(os.listdir(f"/proc/{pid}/fd"))
        return cls(int(status["VmHWM"].split()[0]) * 1024, int(status["Threads"]), descriptors)


class PullStream:
    """A streamed pull that goes on while its lines are read. Leaving it early is a caller that goes away."""

    def __init__(self, connection: http.client.HTTPConnection, response: http.client.HTTPResponse) -> None:
        self.status = response.status
        self.lines: list[Line] = []
        """What was read so far."""
        self._connection = connection
        self._response = response

    def __iter__(self) -> Iterator[Line]:
        while line := self._response.readline():
            self.lines.append(json.loads(line))
            yield self.lines[-1]

    def until(self, condition: Callable[[Line], bool]) -> Line:
        """Reads up to the first line that is so. Raises AssertionError when the stream ends before."""
        for line in self:
            if condition(line):
                return line
        raise AssertionError(f"the stream ended first; its last lines: {self.lines[-3:]}")

    def until_completed(self, size: int) -> Line:
        """Reads until some layer has so many bytes."""
        return self.until(lambda line: line.get("completed", -1) >= size)

    def finish(self, *, success: bool = True, model: Model | None = None, interleaved: bool = False) -> Pull:
        """Reads to the end and checks the whole of it."""
        for _ in self:
            pass
        return check_pull(self.lines, success=success, model=model, interleaved=interleaved)

    def close(self) -> None:
        """Goes away."""
        self._response.close()
        self._connection.close()


class Daemon:
    """A running `towline serve` over `store`; leaving the `with` ends it, and looks for tracebacks and secrets."""

    def __init__(
        self,
        store: Path,
        logs: Path,
        *,
        environment: Mapping[str, str] | None = None,
        arguments: tuple[str, ...] = (),
        port: int | None = None,
        within: tuple[str, ...] = (),
    ) -> None:
        """Starts it and waits until it answers; `logs` is a folder for what it prints and for its home; `within` is a
        command that runs another in its own place.
        """
        self.store = store
        self.port = port or unused_port()
        self.environment = {
            **clean_environment(logs / "home"),
            "OLLAMA_HOST": self.host,
            "OLLAMA_MODELS": str(store),
            **(environment or {}),
        }
        logs.mkdir(parents=True, exist_ok=True)
        self._log = logs / f"towline-{self.port}.log"
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(
                [*within, TOWLINE, "serve", *arguments],
                env=self.environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        try:
            self._wait_until_ready()
        except BaseException:
            self.kill()
            raise

    @property
    def host(self) -> str:
        """`127.0.0.1:<port>`."""
        return f"127.0.0.1:{self.port}"

    @property
    def url(self) -> str:
        """Its base, without a slash at the end."""
        return f"http://{self.host}"

    @property
    def pid(self) -> int:
        """Its process."""
        return self._process.pid

    @property
    def running(self) -> bool:
        """Whether the process is there."""
        return self._process.poll() is None

    @property
    def output(self) -> str:
        """What it printed so far, both streams."""
        return self._log.read_text(errors="replace")

    def usage(self) -> Usage:
        """What it takes of the machine."""
        return Usage.of(self.pid)

    def request(
        self,
        method: str,
        path: str,
        body: bytes | Mapping[str, object] | None = None,
        headers: Mapping[str, str] | None = None,
        *,
        timeout: float = 60,
    ) -> Response:
        """One request over a connection of its own; a mapping goes as JSON."""
        with contextlib.closing(self._connect(timeout)) as connection:
            connection.request(method, path, _encoded(body), dict(headers or {}))
            with connection.getresponse() as response:
                found = {name.lower(): value for name, value in response.getheaders()}
                return Response(response.status, found, response.read())

    def pull(self, name: str, *, success: bool = True, model: Model | None = None, **fields: object) -> Pull:
        """A streamed pull, whole and checked. `success=False` wants a failure, in the stream or in the status."""
        response = self.request("POST", "/api/pull", {"model": name, **fields})
        if response.status == 200 or success:
            assert response.status == 200, f"{response.status}: {response.body!r}"
            assert response.headers["content-type"] == "application/x-ndjson"
        else:
            assert list(response.json) == ["error"], f"{response.status}: {response.body!r}"
        interleaved = fields.get("interleave") is True
        return check_pull(response.lines, success=success, model=model, interleaved=interleaved)

    def pull_quietly(self, name: str) -> None:
        """A pull with `"stream": false` that has to succeed."""
        response = self.request("POST", "/api/pull", {"model": name, "stream": False})
        assert (response.status, response.json) == (200, {"status": "success"})
        assert response.headers["content-type"].startswith("application/json")

    @contextlib.contextmanager
    def pulling(self, name: str, *, timeout: float = 60, **fields: object) -> Iterator[PullStream]:
        """A pull that goes on inside the `with`; at its end the caller goes away, finished or not."""
        connection = self._connect(timeout)
        try:
            connection.request("POST", "/api/pull", _encoded({"model": name, **fields}))
            stream = PullStream(connection, connection.getresponse())
        except BaseException:
            connection.close()
            raise
        with contextlib.closing(stream):
            yield stream

    def terminate(self, *, timeout: float = 5) -> int:
        """SIGTERM; returns the exit code. Raises AssertionError when it does not end in time."""
        self._process.send_signal(signal.SIGTERM)
        try:
            return self._process.wait(timeout)
        except subprocess.TimeoutExpired:
            self.kill()
            raise AssertionError(f"still there {timeout} s after SIGTERM; it printed:\n{self.output}") from None

    def kill(self) -> None:
        """SIGKILL: no clean-up of any kind."""
        self._process.kill()
        self._process.wait()

    def close(self) -> None:
        """Ends it if it runs. Raises AssertionError when it would not end, or printed what it never should."""
        if self.running:
            self.terminate()
        look_for_secrets(self.output)
        for trace in _TRACES_OF_FAULTS:
            assert trace not in self.output, self.output

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is None:
            self.close()
        else:
            self.kill()

    def _connect(self, timeout: float) -> http.client.HTTPConnection:
        return http.client.HTTPConnection("127.0.0.1", self.port, timeout=timeout)

    def _wait_until_ready(self, timeout: float = 20) -> None:
        deadline = time.monotonic() + timeout
        while time.monotonic() < deadline:
            assert self.running, f"towline serve ended with {self._process.returncode}:\n{self.output}"
            with contextlib.suppress(OSError, http.client.HTTPException):
                if self.request("GET", "/towline/info", timeout=2).status == 200:
                    return
            time.sleep(0.02)
        raise AssertionError(f"towline serve did not answer within {timeout} s:\n{self.output}")


def clean_environment(home: Path) -> dict[str, str]:
    """An environment without any setting of towline, Ollama or proxies, and with a home of its own."""
    home.mkdir(parents=True, exist_ok=True)
    kept = {name: os.environ[name] for name in ("PATH", "TMPDIR", "LANG", "LC_ALL") if name in os.environ}
    return {**kept, "HOME": str(home), "PYTHONUNBUFFERED": "1"}


def _encoded(body: bytes | Mapping[str, object] | None) -> bytes | None:
    return body if isinstance(body, bytes) or body is None else json.dumps(body).encode()
