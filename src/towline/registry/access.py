"""How any request goes to an endpoint: with a token where one is asked for, along redirects, by the transport rule."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from urllib.parse import urljoin, urlsplit

from towline.errors import RegistryError, SourceBusy, SourceGone
from towline.registry.auth import Tokens
from towline.registry.endpoints import Endpoint, Transport
from towline.registry.http import Call, HttpClient, Response, host_of

REDIRECTS = frozenset((301, 302, 303, 307, 308))
MAX_REDIRECTS = 5


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

    def get(
        self,
        call: Call,
        endpoint: Endpoint,
        repository: str,
        url: str,
        headers: Mapping[str, str],
        *,
        timeout: float,
    ) -> Landing:
        """Asks the endpoint, meets its challenge, follows where it points.

        A token goes to the endpoint's own origin and nowhere else. `timeout`: seconds for each wait for bytes.
        Raises RegistryError where a login is wanted or a redirect must not be followed; SourceBusy, SourceGone,
        Cancelled as `Call.send` does.
        """
        if not self.transport.allows(url):
            raise RegistryError(
                f"{endpoint.shown} is not reached over HTTPS; name it in TOWLINE_PLAIN_HTTP if it is meant"
            )
        response = self._authorized(call, endpoint, repository, url, headers, timeout)
        for _ in range(MAX_REDIRECTS):
            target = response.headers.get("Location")
            if response.status not in REDIRECTS or not target:
                return Landing(response, url)
            try:
                previous, url = url, urljoin(url, target)
            except ValueError:
                raise SourceGone(f"{endpoint.shown} redirects to an address that is none") from None
            response = self.follow(call, endpoint, repository, url, headers, after=previous, timeout=timeout)
        raise SourceGone(f"{endpoint.shown} redirects in circles")

    def follow(
        self,
        call: Call,
        endpoint: Endpoint,
        repository: str,
        url: str,
        headers: Mapping[str, str],
        *,
        after: str,
        timeout: float,
    ) -> Response:
        """Asks an address that `after` redirected to; raises as `get` does."""
        if not self.transport.allows(url, after=after):
            raise SourceGone(
                f"{endpoint.shown} redirects to {host_of(url)} without HTTPS, which towline does not follow"
            )
        if origin(url) == origin(endpoint.base):
            return self._authorized(call, endpoint, repository, url, headers, timeout)
        return call.send("GET", url, headers, timeout=timeout)

    def _authorized(
        self,
        call: Call,
        endpoint: Endpoint,
        repository: str,
        url: str,
        headers: Mapping[str, str],
        timeout: float,
    ) -> Response:
        known = self._tokens.header(endpoint, repository)
        response = call.send("GET", url, {**headers, **known}, timeout=timeout)
        if response.status != 401:
            return response
        challenge = ", ".join(_all(response.headers, "WWW-Authenticate"))
        token = self._tokens.answer(call, endpoint, repository, challenge, timeout)
        response = call.send("GET", url, {**headers, **token.header}, timeout=timeout)
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
    if status == 408 or status == 429 or status >= 500:
        words = "asks to wait" if status == 429 else "has a problem of its own"
        raise SourceBusy(
            f"{host} {words} (status {status}); try again later",
            retry_after=retry_after(response.headers.get("Retry-After")),
        )
    if status in (404, 410):
        raise SourceGone(f"{host} does not have {what} (status {status})")
    if status in (401, 403):
        raise SourceGone(f"{host} refuses {what} (status {status}); it may want a login")
    raise SourceGone(f"{host} answers {status} for {what}")


def retry_after(text: str | None) -> float | None:
    """Seconds to wait by a `Retry-After` header; its form with a date is rare here and counts as none."""
    if text is None or not text.strip().isascii() or not text.strip().isdigit():
        return None
    return min(float(text), 86400.0)


def _all(headers: Mapping[str, str], name: str) -> list[str]:
    getlist = getattr(headers, "getlist", None)
    return list(getlist(name)) if getlist is not None else [headers[name]] if name in headers else []
