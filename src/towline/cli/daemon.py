"""A towline daemon on this machine, asked over HTTP: is it there, does it keep this store, pull this for me."""

from __future__ import annotations

import os
from collections.abc import Generator
from contextlib import closing
from dataclasses import dataclass
from http.client import HTTPConnection, HTTPException, HTTPResponse
from pathlib import Path
from urllib.parse import urlsplit

import msgspec

from towline.errors import TowlineError
from towline.model.digest import Digest
from towline.model.events import SUCCESS, Event, Progress, Status
from towline.settings import Listen
from towline.store.layout import store_id

CONNECT = 0.5
"""Seconds for a daemon to answer that it is one: it is on this machine, or it is not meant."""

SILENCE = 15.0
"""Seconds without a line after which a daemon counts as dead; it sends one a second, and the first within four."""

_LONGEST_ANSWER = 1 << 20


class _Info(msgspec.Struct):
    version: str
    store: str
    store_id: str


class _Line(msgspec.Struct):
    status: str | None = None
    digest: str | None = None
    total: int = 0
    completed: int = 0
    error: str | None = None


class _Error(msgspec.Struct):
    error: str = ""


@dataclass(frozen=True, slots=True)
class Daemon:
    """A towline daemon that answered, and the version it told."""

    url: str
    version: str

    def pull(self, name: str, *, max_rate: str | None = None) -> Generator[Event, None, None]:
        """The events of a pull of this model, the last of them `success`; `max_rate` limits what it starts.

        Closing the generator leaves the pull, which ends it where nobody else waits for it. Raises TowlineError with
        the daemon's own sentence where the pull failed, and with another where the daemon went away.
        """
        with closing(_connect(self.url)) as connection:
            try:
                yield from _pull(connection, {"model": name} | ({"max_rate": max_rate} if max_rate else {}))
            except (OSError, HTTPException):
                raise TowlineError(
                    f"the towline daemon at {self.url} stopped answering; what has arrived is kept: pull again to go on"
                ) from None


def find(listen: Listen, store: Path) -> Daemon | None:
    """The towline daemon at this address, if one answers and keeps this very store; a real Ollama is not one."""
    try:
        with closing(_connect(listen.url)) as connection:
            connection.request("GET", "/towline/info")
            response = connection.getresponse()
            if response.status != 200:
                return None
            info = msgspec.json.decode(response.read(_LONGEST_ANSWER), type=_Info)
    except (OSError, HTTPException, ValueError):
        return None
    same = os.path.realpath(info.store) == os.path.realpath(store) and info.store_id == store_id(store)
    return Daemon(listen.url, info.version) if same else None


def _connect(url: str) -> HTTPConnection:
    """A connection that asks no proxy; `urlsplit` takes the brackets off an IPv6 address."""
    parts = urlsplit(url)
    return HTTPConnection(parts.hostname or "127.0.0.1", parts.port, timeout=CONNECT)


def _pull(connection: HTTPConnection, request: dict[str, str]) -> Generator[Event, None, None]:
    connection.connect()
    connection.sock.settimeout(SILENCE)
    body = msgspec.json.encode(request)
    connection.request("POST", "/api/pull", body=body, headers={"Content-Type": "application/json"})
    response = connection.getresponse()
    if response.status != 200:
        raise TowlineError(_refusal(response))
    event: Event | None = None
    while line := response.readline(_LONGEST_ANSWER):
        event = _event(line)
        if event is not None:
            yield event
    # A stream that is cut short looks like its end here: only `success` tells the two apart.
    if event != Status(SUCCESS):
        raise HTTPException("the stream ended early")


def _event(line: bytes) -> Event | None:
    """None for a line that says nothing that is known. Raises TowlineError for an error's."""
    try:
        wire = msgspec.json.decode(line, type=_Line)
        digest = Digest.parse(wire.digest) if wire.digest is not None else None
    except ValueError:
        raise HTTPException("a line that is not an event") from None
    if wire.error is not None:
        raise TowlineError(wire.error)
    if digest is not None:
        return Progress(digest, wire.total, wire.completed)
    return Status(wire.status) if wire.status is not None else None


def _refusal(response: HTTPResponse) -> str:
    try:
        sentence = msgspec.json.decode(response.read(_LONGEST_ANSWER), type=_Error).error
    except ValueError:
        sentence = ""
    return sentence or f"the towline daemon refused with status {response.status}"
