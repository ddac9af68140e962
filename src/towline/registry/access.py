"""How any request goes to an endpoint: with a token where one is asked for, along redirects, by the transport rule."""

from __future__ import annotations

import contextlib
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import NamedTuple
from urllib.parse import urljoin, urlsplit

from towline.errors import RegistryError, SourceBusy, SourceGone
from towline.redaction import queried
from towline.registry.auth import Token, Tokens, read_token, token_address
from towline.registry.endpoints import WITHOUT_TLS, Endpoint, Transport
from towline.registry.failures import host_of
from towline.registry.guard import Guard, reach_of
from towline.registry.http import Call, HttpClient
from towline.registry.response import MAX_REDIRECTS, Response
from towline.registry.wire import Allowance
from towline.registry.words import Words, words_of


class Asking(NamedTuple):
    """A question to an endpoint, wherever its addresses lead: in which conversation, about which repository, with which
    headers, and how long it may take in all. `served`: hosts that have sent something already; if they refuse
    connections they are restarting.
    """

    call: Call
    endpoint: Endpoint
    repository: str
    headers: Mapping[str, str]
    allowance: Allowance
    served: Collection[str] = ()


@dataclass(frozen=True, slots=True)
class Place:
    """An address that was pointed to, and to which of its servers one may go."""

    url: str = field(repr=False)
    guard: Guard | None


class Landing(NamedTuple):
    """Where a request ended: the response, and the place that gave it, where that is not the endpoint itself."""

    response: Response
    place: Place | None


class Access:
    """What all requests of one process share: the client, the tokens, the rule."""

    def __init__(self, client: HttpClient, transport: Transport) -> None:
        self.client = client
        self.transport = transport
        self._tokens = Tokens()

    def get(self, asking: Asking, url: str) -> Landing:
        """Asks the endpoint, meets its challenge, follows where it points; asks once more where what it pointed to
        fails: signatures expire within moments, and another host may be named then.

        A token goes to the endpoint's own origin and nowhere else. Raises RegistryError where a login is wanted or a
        redirect must not be followed; SourceBusy, SourceGone, Cancelled as `Call.send` does.
        """
        shown = asking.endpoint.shown
        if not self.transport.reaches(asking.endpoint):
            raise RegistryError(f"{shown} is not reached over HTTPS; name it in TOWLINE_PLAIN_HTTP if it is meant")
        response = self._authorized(asking, url)
        if response.redirect is not None:
            with contextlib.suppress(SourceGone, RegistryError):
                landing = self._landed(asking, response, url)
                if landing.response.status in (200, 206, 416):
                    return landing
            response = self._authorized(asking, url)
        return self._landed(asking, response, url)

    def _landed(self, asking: Asking, response: Response, url: str) -> Landing:
        """Where the response, of `url`, leads in the end."""
        place: Place | None = None
        for _ in range(MAX_REDIRECTS):
            if response.redirect is None:
                break
            place = self._pointed(asking, response, url)
            url = place.url
            response = self.follow(asking, place)
        if response.redirect is not None:
            raise SourceGone(f"{asking.endpoint.shown} redirects in circles")
        return Landing(response, place)

    def follow(self, asking: Asking, place: Place) -> Response:
        """Asks where a server pointed to; raises as `get` does. What its query holds is a secret: a signature."""
        asking.call.secrets.update(queried(place.url))
        if place.guard is None:
            return self._authorized(asking, place.url)
        return self._send(asking, place.url, asking.headers, place.guard)

    def _pointed(self, asking: Asking, response: Response, url: str) -> Place:
        """Where the response, of `url`, points to. Raises SourceGone where that is not to be followed."""
        shown = asking.endpoint.shown
        try:
            target = urljoin(url, response.redirect or "")
        except ValueError:
            raise SourceGone(f"{shown} redirects to an address that is none") from None
        if objection := self.transport.objection(target, after=url):
            there = host_of(target) or "an address"
            hint = _unless_named(objection, target, url)
            raise SourceGone(f"{shown} redirects to {there} {objection}, which towline does not follow{hint}")
        return Place(target, self._guard(asking.endpoint, response, target))

    def _guard(self, endpoint: Endpoint, response: Response, target: str) -> Guard | None:
        """What holds for the address to which a response points; None for the endpoint's own."""
        if origin(target) == origin(endpoint.base):
            return None
        return Guard(internal=self.transport.names(target) or reach_of(response.peer) != "public")

    def _authorized(self, asking: Asking, url: str) -> Response:
        """Asks the endpoint's own origin. A token that is refused is forgotten, and what the registry says without one
        counts.
        """
        endpoint, repository = asking.endpoint, asking.repository
        known = self._tokens.known(endpoint, repository)
        if known is not None:
            response = self._shown(asking, url, known)
            if response.status not in (401, 403):
                return response
            self._tokens.forget(endpoint, repository, known)
        response = self._send(asking, url, asking.headers)
        if response.status != 401:
            return response
        token = self._token(asking, response)
        response = self._shown(asking, url, token)
        if response.status == 401:
            raise RegistryError(
                f"{endpoint.shown} refuses an anonymous token for {repository}; it wants a login{words_of(response)}"
            )
        self._tokens.keep(endpoint, repository, token)
        return response

    def _shown(self, asking: Asking, url: str, token: Token) -> Response:
        """Asks the endpoint's own origin and shows it the token."""
        asking.call.secrets.add(token.text)
        return self._send(asking, url, {**asking.headers, **token.header})

    def _token(self, asking: Asking, refusal: Response) -> Token:
        """Meets a 401: fetches a token for reading the repository, for the caller alone until it is kept.

        Raises RegistryError where there is no way in without credentials; SourceBusy and SourceGone as a request does.
        """
        endpoint, shown = asking.endpoint, asking.endpoint.shown
        challenge = refusal.headers.get("WWW-Authenticate") or ""
        try:
            target = token_address(endpoint, asking.repository, challenge)
            if target is None:
                raise RegistryError(
                    f"{shown} wants a login, and towline has no credentials for it; "
                    f"check the name, or use a registry that can be read without{words_of(refusal)}"
                )
            response, url = refusal, endpoint.base
            for _ in range(MAX_REDIRECTS + 1):
                if objection := self.transport.objection(target, after=url):
                    hint = _unless_named(objection, target, url)
                    raise RegistryError(f"{shown} sends its logins to an address {objection}{hint}")
                guard = self._guard(endpoint, response, target)
                response = self._send(asking, target, {"Accept": "application/json"}, guard)
                if response.redirect is None:
                    return _granted(endpoint, response)
                url, target = target, urljoin(target, response.redirect)
                asking.call.secrets.update(queried(target))
        except ValueError:
            raise RegistryError(f"{shown} sends its logins to an address that is none") from None
        raise SourceGone(f"the token service of {shown} redirects in circles")

    def _send(self, asking: Asking, url: str, headers: Mapping[str, str], guard: Guard | None = None) -> Response:
        try:
            return asking.call.send("GET", url, headers, allowance=asking.allowance, guard=guard)
        except SourceBusy as error:
            if error.refused and host_of(url) in asking.served:
                raise SourceBusy(str(error)) from None
            raise


def _unless_named(objection: str, target: str, after: str) -> str:
    """What to do about an objection to plain HTTP, where the configuration can allow it: never behind HTTPS."""
    plain = {urlsplit(target).scheme, urlsplit(after).scheme} == {"http"}
    return "; name that host in TOWLINE_PLAIN_HTTP if it is meant" if plain and objection == WITHOUT_TLS else ""


def origin(url: str) -> tuple[str, str, int]:
    """Scheme, host and port: what two addresses of one server share."""
    parts = urlsplit(url)
    port = parts.port or {"http": 80, "https": 443}.get(parts.scheme, 0)
    return parts.scheme, (parts.hostname or "").lower(), port


def _granted(endpoint: Endpoint, response: Response) -> Token:
    """The token that a token service answers. Raises RegistryError, SourceBusy, SourceGone."""
    if response.busy:
        raise SourceBusy(
            f"{response.host}, the token service of {endpoint.shown}, answers {response.status}; "
            f"try again later{words_of(response)}",
            retry_after=response.retry_after,
        )
    if response.status != 200:
        login = "; it wants a login" if response.status in (401, 403) else ""
        raise RegistryError(
            f"{endpoint.shown} refuses an anonymous token (status {response.status}){login}{words_of(response)}"
        )
    token = read_token(response)
    if token is None:
        page = "; it sends a web page instead, as proxies and captive portals do" if response.web_page else ""
        raise SourceGone(f"{response.host} does not send a token for {endpoint.shown}{page}")
    return token


def check_status(response: Response, what: str, words: Words | None = None) -> None:
    """Raises what a status other than success means: SourceBusy where waiting may cure it, else SourceGone.

    `words` are what it says, where they have been read.
    """
    status, host = response.status, response.host
    if status in (200, 206):
        return
    words = words_of(response) if words is None else words
    if status == 511:
        raise SourceBusy(f"this network wants a login before {host} can be reached (status 511); open it in a browser")
    if (response.headers.get("CF-Mitigated") or "").lower() == "challenge":
        refusal = f"{host} wants to see a browser (a Cloudflare challenge, status {status}); try again later"
        raise (SourceBusy if response.busy else SourceGone)(refusal)
    if response.busy:
        asks = "asks to wait" if status == 429 else "has a problem of its own"
        raise SourceBusy(f"{host} {asks} (status {status}); try again later{words}", retry_after=response.retry_after)
    if status in (404, 410):
        raise SourceGone(f"{host} does not have {what} (status {status}){words}")
    if status in (401, 403):
        login = status == 401 or response.headers.get("WWW-Authenticate") is not None or words.want_login
        raise SourceGone(f"{host} refuses {what} (status {status}){'; it may want a login' if login else ''}{words}")
    raise SourceGone(f"{host} answers {status} for {what}{words}")
