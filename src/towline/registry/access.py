"""How any request goes to an endpoint: with a token where one is asked for, along redirects, by the transport rule."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from urllib.parse import urljoin, urlsplit

from towline.errors import RegistryError, SourceBusy, SourceGone
from towline.registry.auth import Tokens
from towline.registry.endpoints import Endpoint, Transport
from towline.registry.failures import host_of
from towline.registry.http import Call, HttpClient
from towline.registry.response import MAX_REDIRECTS, Response


@dataclass(frozen=True, slots=True)
class Asking:
    """A question to an endpoint, wherever its addresses lead: in which conversation, about which repository, with which
    headers. `timeout`: seconds for each wait for bytes.
    """

    call: Call
    endpoint: Endpoint
    repository: str
    headers: Mapping[str, str]
    timeout: float


@dataclass(frozen=True, slots=True)
class Landing:
    """Where a request ended: the response, and the address that gave it."""

    response: Response
    url: str


class Access:
    """What all requests of one process share: the client, the tokens, the rule."""

    def __init__(self, client: HttpClient, transport: Transport) -> None:
        self.client = client
        self.transport = transport
        self._tokens = Tokens(transport)

    def get(self, asking: Asking, url: str) -> Landing:
        """Asks the endpoint, meets its challenge, follows where it points.

        A token goes to the endpoint's own origin and nowhere else. Raises RegistryError where a login is wanted or a
        redirect must not be followed; SourceBusy, SourceGone, Cancelled as `Call.send` does.
        """
        shown = asking.endpoint.shown
        if not self.transport.allows(url):
            raise RegistryError(f"{shown} is not reached over HTTPS; name it in TOWLINE_PLAIN_HTTP if it is meant")
        response = self._authorized(asking, url)
        for _ in range(MAX_REDIRECTS):
            if response.redirect is None:
                return Landing(response, url)
            try:
                previous, url = url, urljoin(url, response.redirect)
            except ValueError:
                raise SourceGone(f"{shown} redirects to an address that is none") from None
            response = self.follow(asking, url, after=previous)
        raise SourceGone(f"{shown} redirects in circles")

    def follow(self, asking: Asking, url: str, *, after: str) -> Response:
        """Asks an address that `after` redirected to; raises as `get` does."""
        if not self.transport.allows(url, after=after):
            raise SourceGone(
                f"{asking.endpoint.shown} redirects to {host_of(url)} without HTTPS, which towline does not follow"
            )
        if origin(url) == origin(asking.endpoint.base):
            return self._authorized(asking, url)
        return asking.call.send("GET", url, asking.headers, timeout=asking.timeout)

    def _authorized(self, asking: Asking, url: str) -> Response:
        call, endpoint, repository = asking.call, asking.endpoint, asking.repository
        known = self._tokens.header(endpoint, repository)
        response = call.send("GET", url, {**asking.headers, **known}, timeout=asking.timeout)
        if response.status != 401:
            return response
        challenge = ", ".join(_all(response.headers, "WWW-Authenticate"))
        token = self._tokens.answer(call, endpoint, repository, challenge, asking.timeout)
        response = call.send("GET", url, {**asking.headers, **token.header}, timeout=asking.timeout)
        if response.status == 401:
            raise RegistryError(f"{endpoint.shown} refuses an anonymous token for {repository}; it wants a login")
        self._tokens.keep(endpoint, repository, token)
        return response


def origin(url: str) -> tuple[str, str, int]:
    """Scheme, host and port: what two addresses of one server share."""
    parts = urlsplit(url)
    port = parts.port or {"http": 80, "https": 443}.get(parts.scheme, 0)
    return parts.scheme, (parts.hostname or "").lower(), port


def check_status(response: Response, what: str) -> None:
    """Raises what a status other than success means: SourceBusy where waiting may cure it, else SourceGone."""
    status, host = response.status, response.host
    if status in (200, 206):
        return
    if response.busy:
        words = "asks to wait" if status == 429 else "has a problem of its own"
        raise SourceBusy(f"{host} {words} (status {status}); try again later", retry_after=response.retry_after)
    if status in (404, 410):
        raise SourceGone(f"{host} does not have {what} (status {status})")
    if status in (401, 403):
        raise SourceGone(f"{host} refuses {what} (status {status}); it may want a login")
    raise SourceGone(f"{host} answers {status} for {what}")


def _all(headers: Mapping[str, str], name: str) -> list[str]:
    getlist = getattr(headers, "getlist", None)
    return list(getlist(name)) if getlist is not None else [headers[name]] if name in headers else []
