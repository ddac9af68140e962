"""From a registry's challenge to a header: Bearer tokens for anonymous use, a clear word where that is not enough."""

from __future__ import annotations

import re
import threading
import time
from dataclasses import dataclass, field
from urllib.parse import urlencode, urljoin, urlsplit, urlunsplit

import msgspec

from towline.errors import RegistryError, SourceBusy, SourceGone, SourceLied
from towline.registry.endpoints import Endpoint, Transport
from towline.registry.http import Call
from towline.registry.response import MAX_REDIRECTS, Response

MAX_TOKEN_BYTES = 1 << 20
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
    def header(self) -> dict[str, str]:
        """What a request carries."""
        return {"Authorization": f"Bearer {self.text}"}


class Tokens:
    """The tokens of one process, by endpoint and repository. Safe from many threads."""

    def __init__(self, transport: Transport) -> None:
        self._transport = transport
        self._lock = threading.Lock()
        self._known: dict[tuple[str, str], Token] = {}

    def header(self, endpoint: Endpoint, repository: str) -> dict[str, str]:
        """The headers that a request to this endpoint carries: empty as long as nothing asked for any."""
        with self._lock:
            token = self._known.get((endpoint.base, repository))
        return token.header if token is not None and time.monotonic() < token.until else {}

    def keep(self, endpoint: Endpoint, repository: str, token: Token) -> None:
        """Has `header` give this token, which was good just now."""
        with self._lock:
            self._known[endpoint.base, repository] = token

    def answer(self, call: Call, endpoint: Endpoint, repository: str, header: str, timeout: float) -> Token:
        """Meets a 401: fetches a token for reading the repository, for the caller alone until it is kept.

        Raises RegistryError where there is no way in without credentials; SourceBusy and SourceGone as a request does.
        """
        challenges = parse_challenges(header)
        bearer = next((c for c in challenges if c.scheme == "bearer" and c.params.get("realm")), None)
        if bearer is None:
            raise RegistryError(
                f"{endpoint.shown} wants a login, and towline has no credentials for it; "
                "check the name, or use a registry that can be read without"
            )
        try:
            return self._fetch(call, endpoint, repository, bearer, timeout)
        except ValueError:
            raise RegistryError(f"{endpoint.shown} sends its logins to an address that is none") from None

    def _fetch(self, call: Call, endpoint: Endpoint, repository: str, challenge: Challenge, timeout: float) -> Token:
        """Raises ValueError, too, for an address that is none."""
        response = self._ask(call, endpoint, _address(endpoint, repository, challenge), timeout)
        if response.busy:
            raise SourceBusy(
                f"{response.host}, the token service of {endpoint.shown}, answers {response.status}; try again later",
                retry_after=response.retry_after,
            )
        if response.status != 200:
            raise RegistryError(
                f"{endpoint.shown} refuses an anonymous token (status {response.status}); it wants a login"
            )
        token = _read(response)
        if token is None:
            raise SourceGone(f"{response.host} does not send a token for {endpoint.shown}")
        return token

    def _ask(self, call: Call, endpoint: Endpoint, url: str, timeout: float) -> Response:
        previous = endpoint.base
        for _ in range(MAX_REDIRECTS):
            if not self._transport.allows(url, after=previous):
                raise RegistryError(
                    f"{endpoint.shown} sends its logins to an address that is not HTTPS; "
                    "name that host in TOWLINE_PLAIN_HTTP if it is meant"
                )
            response = call.send("GET", url, {"Accept": "application/json"}, timeout=timeout)
            if response.redirect is None:
                return response
            previous, url = url, urljoin(url, response.redirect)
        raise SourceGone(f"the token service of {endpoint.shown} redirects in circles")


def _address(endpoint: Endpoint, repository: str, challenge: Challenge) -> str:
    """Where a token is asked for: the Docker token specification, "Requesting a Token". Raises ValueError."""
    realm = urlsplit(urljoin(endpoint.base + "/", challenge.params["realm"]))
    query = {"scope": challenge.params.get("scope") or f"repository:{repository}:pull"}
    if "service" in challenge.params:
        query["service"] = challenge.params["service"]
    return urlunsplit(realm._replace(query="&".join(filter(None, (realm.query, urlencode(query)))), fragment=""))


def _read(response: Response) -> Token | None:
    """The token of an answer, if it holds one that can stand in a header."""
    try:
        answer = msgspec.json.decode(response.read(MAX_TOKEN_BYTES), type=_TokenAnswer)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError, SourceLied):
        return None
    text = answer.token or answer.access_token
    if not text or not text.isascii() or not text.isprintable():
        return None
    return Token(text, time.monotonic() + max(answer.expires_in or _DEFAULT_LIFE, _DEFAULT_LIFE) - _MARGIN)
