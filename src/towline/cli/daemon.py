"""A server of Ollama's API, seen from outside: who is it, what does it have, pull this there.

It is a towline daemon, which tells more and takes more, or an Ollama.
"""

from __future__ import annotations

import os
import socket
import ssl
from collections.abc import Generator, Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from http.client import HTTPConnection, HTTPException, HTTPResponse
from pathlib import Path
from typing import Annotated, TypeVar

import msgspec

from towline.cli.address import Address
from towline.cli.patience import connect
from towline.cli.text import one_line
from towline.errors import TowlineError
from towline.model.events import DRY_RUN, SUCCESS, Event, Failed, Progress, Status, decode
from towline.patience import Patience
from towline.store.layout import store_id

PROBE = 0.5
"""Seconds for a whole answer of a server that nobody named: it is on this machine, or it is not meant."""

ANSWER = 10.0
"""Seconds for a whole answer of a server that is meant."""

SILENCE = 15.0
"""Seconds without a line after which a towline counts as dead; it sends one a second, and the first within four."""

SILENCE_OF_OLLAMA = 3600.0
"""The same of an Ollama, which says nothing while it verifies. That its machine is gone is noticed all the same."""

_NEITHER = "is neither a towline nor an Ollama"

_LONGEST_ANSWER = 1 << 20
_LONGEST_LIST = 64 << 20
_PIECE = 64 << 10
"""Bytes of a long answer that have to come within `ANSWER` seconds."""

T = TypeVar("T")


class Info(msgspec.Struct, frozen=True):
    """What a towline daemon tells of itself."""

    version: str
    store: str
    store_id: str
    settings: dict[str, str] = {}
    """See `Settings.marks`; an older daemon tells none."""


class Listed(msgspec.Struct, frozen=True):
    """A model that a server has, or a store; `digest` is the manifest's, in hex."""

    name: str
    size: int = 0
    digest: str = ""
    modified_at: Annotated[datetime, msgspec.Meta(tz=True)] = datetime.fromtimestamp(0, UTC)
    missing: int = 0
    """Bytes of it that are not there, as far as is known."""


class _Models(msgspec.Struct):
    models: list[Listed] | None = None


class _Version(msgspec.Struct):
    version: str


class _Error(msgspec.Struct):
    error: str = ""


class Unusable(TowlineError):
    """No server of Ollama's API answers at an address; the text says why, with the address as its subject."""


@dataclass(frozen=True, slots=True)
class Daemon:
    """A server that answered; `towline` is what it tells of itself, if it is one, and not an Ollama."""

    address: Address
    towline: Info | None

    @property
    def url(self) -> str:
        """Its address, fit to be shown."""
        return self.address.url

    def keeps(self, store: Path) -> bool:
        """Whether it is known to keep this very folder of this machine."""
        told = self.towline
        return (
            told is not None
            and os.path.realpath(told.store) == os.path.realpath(store)
            and (told.store_id == store_id(store))
        )

    def models(self) -> list[Listed]:
        """What it has, in its own order. Raises TowlineError."""
        with self._speaking("ask again"), closing(self.address.connection(ANSWER)) as connection:
            patience = Patience(ANSWER)
            response = _ask(connection, self.address, patience, "GET", "/api/tags")
            if response.status != 200:
                raise TowlineError(f"the daemon at {self.url} {_refusal(response)}")
            return _decoded(response, _LONGEST_LIST, _Models, patience).models or []

    def pull(
        self,
        name: str,
        *,
        max_rate: str | None = None,
        keep_trying: bool = False,
        interleave: bool = True,
        dry_run: bool = False,
    ) -> Generator[Event, None, None]:
        """The events of a pull of this model, the last of them `success`. To an Ollama the options are unknown.

        `max_rate` limits what a towline starts; with `interleave` it tells of all layers as they move; with `dry_run`
        it tells what it would fetch, and the last event says so. Closing the generator leaves the pull, which ends it
        where nobody else waits for it. Raises TowlineError with the server's own sentence where the pull failed, and
        with another where the server went away, or would pull though it is asked for a dry run.
        """
        request: dict[str, object] = {"model": name}
        if self.towline is not None:
            options = {"max_rate": max_rate, "keep_trying": keep_trying, "interleave": interleave, "dry_run": dry_run}
            request |= {option: value for option, value in options.items() if value}
        elif dry_run:
            raise TowlineError(
                f"the daemon at {self.url} is an Ollama, which would pull {name}, as it knows no dry run; "
                "do it here with --local, or ask a towline"
            )
        end = Status(DRY_RUN if dry_run else SUCCESS)
        silence = SILENCE if self.towline is not None else SILENCE_OF_OLLAMA
        then = "what has arrived is kept: pull again to go on"
        with self._speaking(then), closing(self.address.connection(ANSWER)) as connection:
            events = _pull(connection, self.address, Patience(silence), request, end)
            yield from events if self.towline is not None else _rounded(events)

    @contextmanager
    def _speaking(self, then: str) -> Iterator[None]:
        try:
            yield
        except (OSError, HTTPException):
            raise TowlineError(f"the daemon at {self.url} stopped answering; {then}") from None


def at(address: Address, timeout: float = ANSWER) -> Daemon:
    """The server at this address. Raises Unusable where none answers, or what answers is none."""
    try:
        return _introduced(address, timeout)
    except (OSError, HTTPException, UnicodeError) as error:
        raise Unusable(f"{address.url} {_what_is_wrong(error)}") from None


def find(store: Path, address: Address = Address()) -> Daemon | None:  # noqa: B008 - a value
    """The towline daemon at an address that nobody named, if one answers and keeps this store."""
    try:
        found = at(address, PROBE)
    except Unusable:
        return None
    return found if found.keeps(store) else None


def _introduced(address: Address, timeout: float) -> Daemon:
    with closing(address.connection(timeout)) as connection:
        response = _ask(connection, address, Patience(timeout), "GET", "/towline/info")
        if response.status == 200:
            try:
                return Daemon(address, _decoded(response, _LONGEST_ANSWER, Info))
            except HTTPException:
                pass  # a page for whatever path: it may be an Ollama behind it
    with closing(address.connection(timeout)) as connection:
        response = _ask(connection, address, Patience(timeout), "GET", "/api/version")
        if response.status != 200:
            sentence = _sentence(response)
            what = _NEITHER if response.status == 404 and not sentence else _refused(response, sentence)
            raise Unusable(f"{address.url} {what}")
        try:
            _decoded(response, _LONGEST_ANSWER, _Version)
        except HTTPException:
            raise Unusable(f"{address.url} {_NEITHER}") from None
    return Daemon(address, None)


def _ask(
    connection: HTTPConnection,
    address: Address,
    patience: Patience,
    method: str,
    path: str,
    request: Mapping[str, object] | None = None,
) -> HTTPResponse:
    """The head of the answer, all of which may take this patience, unless it is renewed."""
    connect(connection, patience)
    headers = {"Authorization": address.authorization} if address.authorization else {}
    body = None
    if request is not None:
        body = msgspec.json.encode(request)
        headers["Content-Type"] = "application/json"
    connection.request(method, address.path + path, body=body, headers=headers)
    return connection.getresponse()


def _decoded(response: HTTPResponse, limit: int, kind: type[T], patience: Patience | None = None) -> T:
    """The answer's body, each piece of which renews the patience. Raises HTTPException for one that is not of this
    kind.
    """
    body = bytearray()
    while len(body) < limit and (piece := response.read(min(_PIECE, limit - len(body)))):
        body += piece
        if patience is not None:
            patience.renew()
    try:
        return msgspec.json.decode(body, type=kind)
    except ValueError:
        raise HTTPException("an answer that is none") from None


def _pull(
    connection: HTTPConnection, address: Address, patience: Patience, request: Mapping[str, object], end: Event
) -> Generator[Event, None, None]:
    response = _ask(connection, address, patience, "POST", "/api/pull", request)
    if response.status != 200:
        raise TowlineError(_sentence(response) or f"the daemon at {address.url} {_refusal(response)}")
    event: Event | None = None
    while line := response.readline(_LONGEST_ANSWER):
        patience.renew()
        event = _event(line)
        if event is not None:
            yield event
    # A stream that is cut short looks like its end here: only its last event tells the two apart.
    if event != end:
        raise HTTPException("the stream ended early")


def _rounded(events: Generator[Event, None, None]) -> Generator[Event, None, None]:
    """The events of an Ollama, which tells of a layer now and then, and so seldom of its last bytes: each is told to be
    whole when something else follows it, as layers come one after the other there.
    """
    last: Progress | None = None
    for event in events:
        now = event if isinstance(event, Progress) else None
        if last is not None and last.completed < last.total and (now is None or now.digest != last.digest):
            yield replace(last, completed=last.total)
        last = now
        yield event


def _event(line: bytes) -> Event | None:
    """None for a line that says nothing that is known. Raises TowlineError for an error's."""
    try:
        event = decode(line)
    except ValueError:
        raise HTTPException("a line that is not an event") from None
    if isinstance(event, Failed):
        raise TowlineError(event.error)
    if isinstance(event, Progress):
        return replace(event, waiting=one_line(event.waiting))
    return Status(one_line(event.status)) if event is not None else None


def _sentence(response: HTTPResponse) -> str:
    """The server's own sentence, if it sent one."""
    try:
        return _decoded(response, _LONGEST_ANSWER, _Error).error
    except HTTPException:
        return ""


def _refusal(response: HTTPResponse) -> str:
    """What an answer that is not wanted says, as what is said of the server."""
    return _refused(response, _sentence(response))


def _refused(response: HTTPResponse, sentence: str) -> str:
    return f"refuses with status {response.status}" + (f": {sentence}" if sentence else "")


def _what_is_wrong(error: Exception) -> str:
    """What is said of a server that could not be asked."""
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"has a certificate that cannot be trusted ({error.verify_message or 'verification failed'})"
    if isinstance(error, ssl.SSLError):
        return "does not speak TLS as it should"
    if isinstance(error, ConnectionRefusedError):
        return "refuses connections"
    if isinstance(error, socket.gaierror | UnicodeError):
        return "has a name that cannot be resolved"
    if isinstance(error, TimeoutError):
        return "does not answer"
    if isinstance(error, ConnectionError):
        return "ends the connection without an answer"
    return _NEITHER if isinstance(error, HTTPException) else "cannot be reached"
