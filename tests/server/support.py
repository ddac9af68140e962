"""The daemon's application in a thread of this process, over a puller that does what a test tells it."""

from __future__ import annotations

import asyncio
import contextlib
import http.client
import json
import os
import socket
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

from tests.support.models import Model
from towline.errors import TowlineError
from towline.model.events import Event
from towline.model.name import ModelName
from towline.puller import Puller
from towline.server.app import create_app
from towline.server.listener import HttpServer
from towline.settings import Settings
from towline.store.store import Store


class FakeWatcher:
    """A watcher whose pull is the test: it keeps the interface's promises and nothing else."""

    sample = 0.1

    def __init__(self) -> None:
        self.interleave = False
        self.finished = False
        self.committed = False
        self.error: TowlineError | None = None
        self.closed = 0
        self.polls = 0
        self.left = threading.Event()
        self.on_poll: Callable[[], list[Event]] | None = None
        self._events: list[Event] = []
        self._callbacks: list[Callable[[], None]] = []
        self._lock = threading.Lock()

    def on_change(self, callback: Callable[[], None]) -> None:
        self._callbacks.append(callback)

    def poll(self, now: float | None = None) -> list[Event]:
        self.polls += 1
        with self._lock:
            events, self._events = self._events, []
        return events + (self.on_poll() if self.on_poll else [])

    def close(self) -> None:
        self.closed += 1
        self.left.set()

    def happen(self, *events: Event, commit: bool = False) -> None:
        """Events come, with a change."""
        with self._lock:
            self._events.extend(events)
        self.committed = self.committed or commit
        self._change()

    def finish(self, error: TowlineError | None = None) -> None:
        """The pull ends."""
        self.error = error
        self.finished = True
        self._change()

    def _change(self) -> None:
        for callback in self._callbacks:
            callback()


class FakePuller:
    """Hands out one watcher a call; `script` runs on a thread of its own for each."""

    def __init__(self, root: Path, script: Callable[[FakeWatcher], None] = lambda _: None) -> None:
        self.store = Store(root)
        self.script = script
        self.joined: list[ModelName] = []
        self.watchers: list[FakeWatcher] = []
        self._threads: list[threading.Thread] = []

    def join(self, name: ModelName, *, max_rate: float | None = None, keep_trying: bool = False) -> FakeWatcher:
        self.joined.append(name)
        watcher = FakeWatcher()
        self.watchers.append(watcher)
        thread = threading.Thread(target=self.script, args=(watcher,))
        self._threads.append(thread)
        thread.start()
        return watcher

    def close(self) -> None:
        for thread in self._threads:
            thread.join(5)


@dataclass
class Answer:
    """A whole answer; header names in lower case."""

    status: int
    headers: dict[str, str]
    body: bytes = field(repr=False)

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def lines(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.body.splitlines()]

    @property
    def error(self) -> str:
        """The model API's sentence, looked at: one line, no more than its field."""
        assert list(self.json) == ["error"]
        sentence: str = self.json["error"]
        assert sentence
        assert "\n" not in sentence
        return sentence

    @property
    def code(self) -> str:
        """The OCI code of the one error."""
        (error,) = self.json["errors"]
        assert error["message"]
        code: str = error["code"]
        return code


class Served:
    """The application, running."""

    def __init__(self, port: int, puller: FakePuller) -> None:
        self.port = port
        self.puller = puller

    def ask(
        self, method: str, path: str, body: bytes | object = None, headers: Mapping[str, str] | None = None
    ) -> Answer:
        """One request on a connection of its own; a body that is not bytes goes as JSON."""
        data = body if isinstance(body, bytes) or body is None else json.dumps(body).encode()
        with contextlib.closing(http.client.HTTPConnection("127.0.0.1", self.port, timeout=20)) as connection:
            connection.request(method, path, data, dict(headers or {}))
            response = connection.getresponse()
            found = {name.lower(): value for name, value in response.getheaders()}
            return Answer(response.status, found, response.read())

    def get(self, path: str, **headers: str) -> Answer:
        return self.ask("GET", path, headers={name.replace("_", "-"): value for name, value in headers.items()})

    def pull(self, body: bytes | object, **headers: str) -> Answer:
        return self.ask("POST", "/api/pull", body, headers)

    @contextlib.contextmanager
    def raw(self, data: bytes, *, client: str = "127.0.0.1") -> Iterator[socket.socket]:
        """A connection on which these bytes were sent, from this address of the machine."""
        with socket.create_connection(("127.0.0.1", self.port), timeout=20, source_address=(client, 0)) as connection:
            connection.sendall(data)
            yield connection


@contextlib.contextmanager
def serving(puller: FakePuller, settings: Settings | None = None, *, loopback: bool | None = None) -> Iterator[Served]:
    """Runs the application on a free port of 127.0.0.1, as the daemon does."""
    settings = settings or Settings(models=puller.store.root)
    started, loop = threading.Event(), asyncio.new_event_loop()
    stop = asyncio.Event()
    ports: list[int] = []

    async def main() -> None:
        server = HttpServer(create_app(settings, cast(Puller, puller), loopback=loopback))
        with socket.create_server(("127.0.0.1", 0)) as listening:
            listening.setblocking(False)
            await server.start([listening])
            ports.append(listening.getsockname()[1])
            started.set()
            await stop.wait()
            await server.close()

    def run() -> None:
        with asyncio.Runner(loop_factory=lambda: loop) as runner:
            runner.run(main())

    thread = threading.Thread(target=run)
    thread.start()
    try:
        assert started.wait(10)
        yield Served(ports[0], puller)
    finally:
        loop.call_soon_threadsafe(stop.set)
        thread.join(10)
        puller.close()
        assert not thread.is_alive()


def keep(root: Path, name: str, model: Model, *, modified: float | None = None) -> None:
    """Lays a model out in a store as Ollama does."""
    full = ModelName.parse(name)
    blobs = root / "blobs"
    blobs.mkdir(parents=True, exist_ok=True)
    for blob in model.blobs:
        (blobs / blob.digest.file_name).write_bytes(blob.data)
    manifest = root / "manifests" / full.host / full.namespace / full.model / full.tag
    manifest.parent.mkdir(parents=True, exist_ok=True)
    manifest.write_bytes(model.manifest)
    if modified is not None:
        os.utime(manifest, (modified, modified))


def until(condition: Callable[[], bool], seconds: float = 5) -> None:
    """Waits until it holds; fails if it does not in time."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.005)
