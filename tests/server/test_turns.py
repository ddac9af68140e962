"""Other requests have their turn, however many watch a pull, and however many layers it has."""

from __future__ import annotations

import asyncio
import json
import socket
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from aiohttp import ClientSession

from tests.server.support import keep
from tests.support.events import check_pull
from tests.support.models import Blob, Model
from tests.support.registry import FaultRegistry
from towline.model.events import Event
from towline.puller import Puller
from towline.server.app import create_app
from towline.server.listener import HttpServer
from towline.settings import Settings
from towline.watching import Watcher

LAYERS = 4000
WATCHERS = 10

HELD = 0.05
"""Seconds of the processor that may pass between two turns of others; 0.01 to 0.03 is what it takes."""

TRIES = 3
"""Of which one has to keep to that: what this process clears away of other tests may fall into any of them."""


@pytest.fixture(scope="module")
def crowd() -> Model:
    return Model.of([Blob.of("x", b"%d" % number) for number in range(LAYERS)])


@asynccontextmanager
async def serving(store: Path) -> AsyncIterator[str]:
    """The application in this very loop; its address."""
    settings = Settings(models=store)
    puller = Puller(settings)
    server = HttpServer(create_app(settings, puller))
    with socket.create_server(("127.0.0.1", 0)) as listening:
        listening.setblocking(False)
        await server.start([listening])
        try:
            yield f"http://127.0.0.1:{listening.getsockname()[1]}"
        finally:
            await asyncio.gather(asyncio.to_thread(puller.close), server.close())


class Turns:
    """A task of the same loop that runs whenever it may: what happens in between is one turn of the others."""

    def __init__(self) -> None:
        self.held = 0.0
        """The longest time of the processor that others took in one turn: what a busy machine does is not in it."""
        self.polled = 0
        """The most events that all watchers together were told in one turn."""
        self._now = 0

    async def run(self) -> None:
        last = time.thread_time()
        while True:
            await asyncio.sleep(0)
            now = time.thread_time()
            self.held = max(self.held, now - last)
            self.polled = max(self.polled, self._now)
            self._now, last = 0, now

    def count(self, events: Sequence[Event]) -> None:
        self._now += len(events)


@pytest.mark.parametrize("interleave", [False, True])
def test_ten_watchers_of_thousands_of_layers_hold_the_loop_for_a_moment_only(
    registry: FaultRegistry, store_path: Path, crowd: Model, monkeypatch: pytest.MonkeyPatch, interleave: bool
) -> None:
    name = registry.add(crowd, "library/crowd")
    keep(store_path, name, crowd)
    poll = Watcher.poll

    turns = Turns()

    def counted(watcher: Watcher, now: float | None = None) -> list[Event]:
        events = poll(watcher, now)
        turns.count(events)
        return events

    monkeypatch.setattr(Watcher, "poll", counted)

    async def watch(session: ClientSession, url: str) -> list[bytes]:
        async with session.post(f"{url}/api/pull", json={"model": name, "interleave": interleave}) as response:
            return (await response.read()).splitlines()

    async def main(turns: Turns) -> list[list[bytes]]:
        async with serving(store_path) as url, ClientSession() as session:
            ticking = asyncio.create_task(turns.run())
            try:
                return await asyncio.gather(*(watch(session, url) for _ in range(WATCHERS)))
            finally:
                ticking.cancel()

    for _ in range(TRIES):
        turns = Turns()
        streams = asyncio.run(main(turns))
        assert all(len(lines) >= LAYERS for lines in streams)
        check_pull([json.loads(line) for line in streams[0]], model=crowd, interleaved=interleave)
        assert turns.polled <= 8 * 513
        if turns.held < HELD:
            return
    pytest.fail(f"others had to wait for {turns.held:.3f} s of the processor")
