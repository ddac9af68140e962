"""From a registry's challenge to a header: Bearer tokens for anonymous use, a clear word where that is not enough."""

from __future__ import annotations

import re
import threading
import time
from dataclasses import dataclass, field
from urllib.parse import urlencode, urljoin, urlsplit, urlunsplit

import msgspec

from towline.errors import SourceLied
from towline.registry.endpoints import Endpoint
from towline.registry.response import Response

MAX_TOKEN_BYTES = 32 << 10
"""Of an answer with a token: few servers take a header that is half as long."""

MAX_TOKENS = 256
"""Tokens that are kept. They live for minutes, and one pull needs one."""

_DEFAULT_LIFE = 60.0
"""Seconds that a token lives at least, and where its answer does not say so, by the Docker token specification. It is
used up to `_MARGIN` before that.
"""
_MARGIN = 5.0

_PARAM = re.compile(r'\s*([A-Za-z0-9_.-]+)\s*=\s*(?:"((?:[^"\\]|\\.)*)"|([^\s,"]+))\s*,?')
_SCHEME = re.compile(r"\s*,?\s*([A-Za-z][A-Za-z0-9_-]*)(?:\s+|(?=,)|$)")


@dataclass(frozen=True, slots=True)
class Challenge:
    """One challenge of a `WWW-Authenticate` header: RFC 9110, section 11.6.1. `scheme` is lower case."""

    scheme: str
    params: dict[str, str]


def parse_challenges(header: str) -> list[Challenge]:
    """Reads all challenges of a header; what cannot be read ends the list."""
    found: list[Challenge] = []
    at = 0
    while match := _SCHEME.match(header, at):
        at = match.end()
        params: dict[str, str] = {}
        while param := _PARAM.match(header, at):
            quoted, bare = param[2], param[3]
            params[param[1].lower()] = re.sub(r"\\(.)", r"\1", quoted) if quoted is not None else bare
            at = param.end()
        found.append(Challenge(match[1].lower(), params))
    return found


class _TokenAnswer(msgspec.Struct):
    token: str | None = None
    access_token: str | None = None
    expires_in: float | None = None


@dataclass(frozen=True, slots=True)
class Token:
    """A Bearer token, good until `until` of `time.monotonic`."""

    text: str = field(repr=False)
    until: float

    @property
    def expired(self) -> bool:
        """Whether it is good no more."""
        return time.monotonic() >= self.until

    @property
    def header(self) -> dict[str, str]:
        """What a request carries."""
        return {"Authorization": f"Bearer {self.text}"}


class Tokens:
    """The tokens of one process, by endpoint and repository: those that are good, and not too many.

    Safe from many threads.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._known: dict[tuple[str, str], Token] = {}

    def known(self, endpoint: Endpoint, repository: str) -> Token | None:
        """The token that a request to this endpoint carries; None as long as nothing asked for any."""
        with self._lock:
            token = self._known.get((endpoint.base, repository))
            if token is not None and token.expired:
                del self._known[endpoint.base, repository]
                return None
            return token

    def keep(self, endpoint: Endpoint, repository: str, token: Token) -> None:
        """Has `known` give this token, which was good just now, until it expires or many others came."""
        with self._lock:
            self._known.pop((endpoint.base, repository), None)
            for key in [key for key, other in self._known.items() if other.expired]:
                del self._known[key]
            while len(self._known) >= MAX_TOKENS:
                del self._known[next(iter(self._known))]
            self._known[endpoint.base, repository] = token

    def forget(self, endpoint: Endpoint, repository: str, token: Token) -> None:
        """This token was refused. Another one that somebody got meanwhile stays."""
        with self._lock:
            if self._known.get((endpoint.base, repository)) is token:
                del self._known[endpoint.base, repository]


def token_address(endpoint: Endpoint, repository: str, header: str) -> str | None:
    """Where a token is asked for, by a 401's challenges: the Docker token specification, "Requesting a Token". None
    where no token would do. Raises ValueError for a realm that is no address.
    """
    challenges = parse_challenges(header)
    bearer = next((each.params for each in challenges if each.scheme == "bearer" and each.params.get("realm")), None)
    if bearer is None:
        return None
    realm = urlsplit(urljoin(endpoint.base + "/", bearer["realm"]))
    query = {"scope": bearer.get("scope") or f"repository:{repository}:pull"}
    if "service" in bearer:
        query["service"] = bearer["service"]
    return urlunsplit(realm._replace(query="&".join(filter(None, (realm.query, urlencode(query)))), fragment=""))


def read_token(response: Response) -> Token | None:
    """The token of an answer, if it holds one that can stand in a header. Raises as reading a response does."""
    try:
        answer = msgspec.json.decode(response.read(MAX_TOKEN_BYTES), type=_TokenAnswer)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError, SourceLied):
        return None
    text = answer.token or answer.access_token
    if not text or not text.isascii() or not text.isprintable():
        return None
    return Token(text, time.monotonic() + max(answer.expires_in or _DEFAULT_LIFE, _DEFAULT_LIFE) - _MARGIN)
