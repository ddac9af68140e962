"""`POST /api/pull` (section 1 of the contract)."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from contextlib import suppress
from typing import Any

import msgspec
from aiohttp import HttpVersion11, web

from towline.changes import Changes
from towline.errors import InvalidRequest
from towline.model.events import Failed, encode
from towline.model.name import ModelName
from towline.puller import Puller
from towline.server.body import read_json
from towline.server.errors import refusal
from towline.settings import parse_rate
from towline.watching import Watcher

HOLD_BACK = 4.0
"""Seconds for which the status line waits for the manifest: clients' default read timeout is five (contract)."""

STUCK_READER = 600.0
"""Seconds after which a client that reads nothing at all is taken for gone. Long, since a person may have suspended
it; not for ever, since a pull runs for as long as somebody watches it."""

EXAMPLE = '{"model": "llama3.2"}'


class PullRequest(msgspec.Struct):
    """The body's known fields; all others are ignored, whatever they hold. `null` is the same as absent."""

    model: str | None = None
    name: str | None = None
    stream: bool | None = None
    max_rate: Any = None
    """Of towline's own: a bandwidth for this pull, as text. Whatever else a client means by it is ignored."""

    def rate(self) -> float | None:
        """Bytes a second. Raises InvalidRequest."""
        return parse_rate(self.max_rate, "max_rate") if isinstance(self.max_rate, str) and self.max_rate else None

    def wanted(self) -> ModelName:
        """The model's name, from `model` or the older `name`. Raises InvalidRequest or InvalidName."""
        text = self.model or self.name
        if not text:
            raise InvalidRequest(f"the request names no model; send one as in {EXAMPLE}")
        return ModelName.parse(text)


def routes(puller: Puller) -> list[web.RouteDef]:
    """The routes of this module."""

    async def pull(request: web.Request) -> web.StreamResponse:
        deadline = asyncio.get_running_loop().time() + HOLD_BACK
        wanted = await read_json(request, PullRequest, EXAMPLE)
        watcher = puller.join(wanted.wanted(), max_rate=wanted.rate())
        # Whatever ends this, a client that left included (the handler is cancelled then), the watcher is closed once;
        # the last watcher that goes stops the download.
        try:
            changes = Changes(watcher)
            if wanted.stream is False:
                return await _answer_once(watcher, changes)
            await _hold_back(watcher, changes, deadline)
            return await _stream(request, watcher, changes)
        finally:
            watcher.close()

    return [web.post("/api/pull", pull)]


async def _answer_once(watcher: Watcher, changes: Changes) -> web.Response:
    while not watcher.finished:
        await changes.wait(1.0)
    if watcher.error is not None:
        raise watcher.error
    return web.Response(body=b'{"status":"success"}', content_type="application/json")


async def _hold_back(watcher: Watcher, changes: Changes, deadline: float) -> None:
    """Waits until the status is known. Raises the pull's error if it failed before anything was sent."""
    loop = asyncio.get_running_loop()
    while not (watcher.finished or watcher.committed) and loop.time() < deadline:
        await changes.wait(deadline - loop.time())
    if watcher.error is not None:
        raise watcher.error


async def _stream(request: web.Request, watcher: Watcher, changes: Changes) -> web.StreamResponse:
    response = web.StreamResponse(headers={"Content-Type": "application/x-ndjson"})
    if request.version < HttpVersion11:
        response.force_close()  # without chunks, the end of the connection is the end of the stream
    # A client that leaves, at whatever moment, is nothing to tell anyone about.
    with suppress(ConnectionError):
        await response.prepare(request)
        failure = await _flow_to_its_end(response, watcher, changes)
        if failure is not None:
            response.force_close()
            await _write(response, encode(Failed(refusal(failure, request).sentence)))
        await _taken(response.write_eof())
    return response


async def _flow_to_its_end(response: web.StreamResponse, watcher: Watcher, changes: Changes) -> Exception | None:
    """Sends the events; what the stream has to end with, if it is an error."""
    try:
        await _flow(response, watcher, changes)
    except ConnectionError:
        raise
    except Exception as bug:  # noqa: BLE001  refusal() logs it: the stream still ends with its error
        return bug
    return watcher.error


async def _flow(response: web.StreamResponse, watcher: Watcher, changes: Changes) -> None:
    """Sends events until the pull is over.

    Each round takes what is newest and waits until the client has taken it: a slow client gets fewer events, and
    never more than one round of them is in memory.
    """
    while True:
        finished = watcher.finished  # asked before the poll: what came with the end is then still polled
        if lines := b"".join(map(encode, watcher.poll())):
            await _write(response, lines)
        if finished:
            return
        await changes.wait(watcher.sample)


async def _write(response: web.StreamResponse, lines: bytes) -> None:
    await _taken(response.write(lines))


async def _taken(writing: Awaitable[None]) -> None:
    """Waits until the client has taken what is written. Raises ConnectionResetError where it takes nothing."""
    try:
        async with asyncio.timeout(STUCK_READER):
            await writing
    except TimeoutError:
        raise ConnectionResetError("the client reads nothing") from None
