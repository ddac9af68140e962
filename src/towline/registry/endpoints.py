"""Where a registry host is reached, and over which transport."""

from __future__ import annotations

import functools
import ipaddress
from dataclasses import dataclass
from urllib.parse import urlsplit

from towline.settings import Settings


@dataclass(frozen=True, slots=True)
class Endpoint:
    """One place that answers for a registry host. `base` has no trailing slash; `mirror_of` is set on a mirror."""

    base: str
    mirror_of: str | None = None

    @property
    def shown(self) -> str:
        """How error sentences name it: the host, with its port."""
        return urlsplit(self.base).netloc

    def url(self, repository: str, kind: str, reference: str) -> str:
        """The address of a manifest or a blob; a mirror is told for whom it answers, by containerd's convention."""
        query = f"?ns={self.mirror_of}" if self.mirror_of else ""
        return f"{self.base}/v2/{repository}/{kind}/{reference}{query}"


WITHOUT_TLS = "without HTTPS"


@dataclass(frozen=True, slots=True)
class Transport:
    """The transport rule: HTTPS always, but for loopback and for what the operator's configuration names as plain.

    `plain` and `named` hold `host` or `host:port`, lower case: what may be plain, and whatever else the configuration
    names, to which a server may lead wherever it is. Nothing in a request can add to them.
    """

    plain: frozenset[str]
    named: frozenset[str] = frozenset()

    @functools.lru_cache(1024)  # noqa: B019 - there is one for each configuration of the process
    def reaches(self, endpoint: Endpoint) -> bool:
        """Whether its addresses may be asked."""
        return self.allows(endpoint.base)

    def allows(self, url: str, *, after: str | None = None) -> bool:
        """Whether this address may be asked; `after` is the one that redirected there, and HTTPS never falls back."""
        return not self.objection(url, after=after)

    def objection(self, url: str, *, after: str | None = None) -> str:
        """Why this address must not be asked, to stand behind a word for it; empty where it may be."""
        try:
            parts = urlsplit(url)
            port = parts.port
        except ValueError:
            return "with an impossible port"
        if parts.username is not None:
            return "with a user's name in it"
        if parts.scheme == "https":
            return "" if parts.hostname else "without a host"
        if parts.scheme != "http" or (after is not None and urlsplit(after).scheme == "https"):
            return WITHOUT_TLS
        return "" if parts.hostname and self.is_plain(parts.hostname, port) else WITHOUT_TLS

    def is_plain(self, host: str, port: int | None) -> bool:
        """Whether plain HTTP is meant for this host."""
        return is_loopback(host) or not _spellings(host, port or 80).isdisjoint(self.plain)

    def names(self, url: str) -> bool:
        """Whether the configuration names the host of this address, which `allows` allowed."""
        parts = urlsplit(url)
        port = parts.port or (443 if parts.scheme == "https" else 80)
        return not _spellings(parts.hostname or "", port).isdisjoint(self.plain | self.named)


def _spellings(host: str, port: int) -> set[str]:
    bare = f"[{host}]" if ":" in host else host
    return {bare, f"{bare}:{port}"}


@functools.lru_cache(1024)
def is_loopback(host: str) -> bool:
    """Whether a host, without its port, is this machine by its very name."""
    bare = host.strip("[]").lower()
    if bare == "localhost" or bare.endswith(".localhost"):
        return True
    try:
        return ipaddress.ip_address(bare).is_loopback
    except ValueError:
        return False


def transport(settings: Settings) -> Transport:
    """The rule that follows from the configuration: plain hosts, and mirrors, of which some are written `http://`."""
    plain: set[str] = set(settings.plain_http)
    secure: set[str] = set()
    for mirror in settings.mirrors:
        url = urlsplit(mirror.url)
        port = url.port or (80 if url.scheme == "http" else 443)
        named = plain if url.scheme == "http" else secure
        named.add(url.netloc.lower() if url.port else f"{url.netloc.lower()}:{port}")
    return Transport(frozenset(plain), frozenset(secure))


def endpoints(host: str, settings: Settings) -> tuple[Endpoint, ...]:
    """The endpoints of a registry host, in the order in which they are tried.

    Those that are configured replace the host; it is among them only if it is listed itself.
    """
    configured = [mirror.url for mirror in settings.mirrors if mirror.host == host.lower()]
    if not configured:
        name, _, port = host.partition(":")
        plain = transport(settings).is_plain(name.lower(), int(port) if port else None)
        return (Endpoint(f"{'http' if plain else 'https'}://{host}"),)
    return tuple(
        Endpoint(url, mirror_of=None if urlsplit(url).netloc.lower() == host.lower() else host) for url in configured
    )
