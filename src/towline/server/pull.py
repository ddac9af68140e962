"""`POST /api/pull` (section 1 of the contract)."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import suppress
from typing import Any

import msgspec
from aiohttp import web

from towline.changes import Changes
from towline.errors import InvalidRequest
from towline.model.events import DRY_RUN, Failed, Progress, encode
from towline.model.name import ModelName
from towline.puller import Puller
from towline.server.body import read_json
from towline.server.errors import refusal
from towline.server.lines import Lines
from towline.settings import parse_rate
from towline.watching import Watcher

HOLD_BACK = 4.0
"""Seconds for which the status line waits for the manifest: clients' default read timeout is five (contract)."""

EXAMPLE = '{"model": "llama3.2"}'


class PullRequest(msgspec.Struct):
    """The body's known fields; all others are ignored, whatever they hold. `null` is the same as absent."""

    model: str | None = None
    name: str | None = None
    stream: bool | None = None
    max_rate: Any = None
    """Of towline's own: a bandwidth for this pull, as text. Whatever else a client means by it is ignored."""
    interleave: Any = None
    """Of towline's own: `true` for every layer's events as they move; one layer is told after the other without."""

    keep_trying: Any = None
    """Of towline's own: `true` to wait for sources for as long as the caller does."""

    dry_run: bool | None = None
    """Of towline's own: `true` to be told what would be fetched, with nothing stored. What is no boolean is refused:
    whoever sends `"yes"` does not want the model to be fetched.
    """

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
        watcher = _begun(puller, wanted)
        interleave, once = wanted.interleave is True, wanted.stream is False
        answer = _tell_once if wanted.dry_run is True else _answer_once
        del wanted  # which may hold a lot, for as long as the pull takes
        # Whatever ends this, a client that left included (the handler is cancelled then), the watcher is closed once;
        # the last watcher that goes stops the download.
        try:
            watcher.interleave = interleave
            changes = Changes(watcher)
            if once:
                return await answer(watcher, changes)
            await _hold_back(watcher, changes, deadline)
            return await _stream(request, watcher, changes)
        finally:
            watcher.close()

    return [web.post("/api/pull", pull)]


def _begun(puller: Puller, wanted: PullRequest) -> Watcher:
    name, max_rate, keep_trying = wanted.wanted(), wanted.rate(), wanted.keep_trying is True
    if wanted.dry_run is True:
        return puller.dry_run(name, keep_trying=keep_trying)
    return puller.join(name, max_rate=max_rate, keep_trying=keep_trying)


async def _answer_once(watcher: Watcher, changes: Changes) -> web.Response:
    while not watcher.finished:
        await changes.wait(1.0)
    if watcher.error is not None:
        raise watcher.error
    return web.Response(body=b'{"status":"success"}', content_type="application/json")


async def _tell_once(watcher: Watcher, changes: Changes) -> web.Response:
    """What a dry run tells of the layers, added up."""
    layers = {event.digest: event async for event in _progress(changes)}.values()
    if watcher.error is not None:
        raise watcher.error
    total, completed = sum(layer.total for layer in layers), sum(layer.completed for layer in layers)
    body = {"status": DRY_RUN, "total": total, "completed": completed}
    return web.Response(body=msgspec.json.encode(body), content_type="application/json")


async def _progress(changes: Changes) -> AsyncIterator[Progress]:
    async for events in changes.batches():
        for event in events:
            if isinstance(event, Progress):
                yield event


async def _hold_back(watcher: Watcher, changes: Changes, deadline: float) -> None:
    """Waits until the status is known. Raises the pull's error if it failed before anything was sent."""
    loop = asyncio.get_running_loop()
    while not (watcher.finished or watcher.committed) and loop.time() < deadline:
        await changes.wait(deadline - loop.time())
    if watcher.error is not None:
        raise watcher.error


async def _stream(request: web.Request, watcher: Watcher, changes: Changes) -> web.StreamResponse:
    lines = Lines(request)
    # A client that leaves, at whatever moment, is nothing to tell anyone about.
    with suppress(ConnectionError):
        await lines.prepare(request)
        failure = await _flow_to_its_end(lines, watcher, changes)
        if failure is not None:
            lines.force_close()
            await lines.send([encode(Failed(refusal(failure, request).sentence))])
        await lines.end()
    return lines


async def _flow_to_its_end(lines: Lines, watcher: Watcher, changes: Changes) -> Exception | None:
    """Sends the events; what the stream has to end with, if it is an error."""
    try:
        async for events in changes.batches():
            await lines.send(map(encode, events))
    except ConnectionError:
        raise
    except Exception as bug:  # noqa: BLE001  refusal() logs it: the stream still ends with its error
        return bug
    return watcher.error
