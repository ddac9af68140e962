"""How a registry asks who is there."""

from __future__ import annotations

import base64
import json
import secrets
import threading
from dataclasses import dataclass, field
from typing import Protocol

from tests.support.exchanges import Exchange
from tests.support.planted import PLANTED
from tests.support.wire import Answer


class Challenge(Protocol):
    """Decides whether a request may pass."""

    def refuse(self, exchange: Exchange, base: str) -> str | None:
        """The WWW-Authenticate header for a request that may not pass, or None; `base` is the registry's URL."""


@dataclass(frozen=True)
class Basic:
    """User name and password."""

    username: str
    password: str

    def refuse(self, exchange: Exchange, base: str) -> str | None:
        given = exchange.headers.get("authorization")
        return None if given == basic(self.username, self.password) else 'Basic realm="test"'


def basic(username: str, password: str) -> str:
    """The value of a Basic Authorization header."""
    return "Basic " + base64.b64encode(f"{username}:{password}".encode()).decode()


@dataclass
class Bearer:
    """Tokens, each good for one repository and for `uses` requests (None: for ever).

    With a user name the token endpoint wants Basic credentials; without, anyone gets a token. `realm` is the
    endpoint's URL where it is not `/token` of the registry itself.
    """

    uses: int | None = None
    username: str | None = None
    password: str = ""
    realm: str | None = None
    service: str = "registry.test"
    _tokens: dict[str, tuple[str, int | None]] = field(default_factory=dict, repr=False)
    _lock: threading.Lock = field(default_factory=threading.Lock, repr=False)

    def refuse(self, exchange: Exchange, base: str) -> str | None:
        scope = f"repository:{exchange.repository}:pull" if exchange.repository else ""
        if self._spend(exchange.headers.get("authorization", ""), scope):
            return None
        asked = f',scope="{scope}"' if scope else ""
        return f'Bearer realm="{self.realm or base + "/token"}",service="{self.service}"{asked}'

    def issue(self, exchange: Exchange) -> Answer:
        """The answer of the token endpoint."""
        given = exchange.headers.get("authorization")
        if self.username is not None and given != basic(self.username, self.password):
            return Answer.of(401, b'{"details":"incorrect username or password"}')
        if exchange.query.get("service") != self.service:
            return Answer.of(400, b'{"details":"unknown service"}')
        token = PLANTED + secrets.token_urlsafe(16)
        with self._lock:
            self._tokens[token] = (exchange.query.get("scope", ""), self.uses)
        return Answer.of(200, json.dumps({"token": token, "expires_in": 300}).encode())

    def expire(self) -> None:
        """Every token given out so far is good no more."""
        with self._lock:
            self._tokens.clear()

    def _spend(self, header: str, scope: str) -> bool:
        token = header.removeprefix("Bearer ")
        with self._lock:
            granted, uses = self._tokens.get(token, ("", 0))
            if uses == 0 or (scope and granted != scope):
                return False
            self._tokens[token] = (granted, uses if uses is None else uses - 1)
            return True
