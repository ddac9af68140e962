"""Which web pages may talk to the daemon: the checks on `Host` and `Origin`, as Ollama makes them.

A daemon on loopback is within reach of every page that a browser on this machine shows. Two headers tell what page
asks, and no page can forge them: `Origin`, which a browser adds to every cross-origin request that can do harm, and
`Host`, which holds the page's own domain after it was rebound to 127.0.0.1 by DNS.
"""

from __future__ import annotations

import ipaddress
import re
import socket
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from urllib.parse import urlsplit

IPAddress = ipaddress.IPv4Address | ipaddress.IPv6Address

_PRIVATE = tuple(map(ipaddress.ip_network, ("10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "fc00::/7")))
_LOCAL_HOSTS = frozenset({"localhost", "127.0.0.1", "0.0.0.0", "::1"})  # noqa: S104  names to compare with
_APP_SCHEMES = frozenset({"app", "file", "tauri", "vscode-webview", "vscode-file"})
_HOST = re.compile(r"(?:\[(?P<v6>[^\[\]]*)\]|(?P<name>[^\[\]:]*))(?::(?P<port>[0-9]*))?\Z")
_HOST_NAME = re.compile(r"[A-Za-z0-9_.-]+\Z")
_TOKENS = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~-]+(?:[ \t]*,[ \t]*[A-Za-z0-9!#$%&'*+.^_`|~-]+)*\Z")

PREFLIGHT_AGE = 12 * 3600
"""Seconds for which a browser may remember a preflight's answer, as Ollama's do."""


def is_loopback(host: str) -> bool:
    """Whether a host that the daemon listens on, as written in the settings, is reachable from this machine alone."""
    name = host.lower().rstrip(".")
    if name == "localhost" or name.endswith(".localhost"):
        return True
    address = _address(name)
    return address is not None and address.is_loopback


def is_own_address(address: IPAddress) -> bool:
    """Whether this machine has the address. A socket can be bound to no other, and binding sends nothing."""
    family = socket.AF_INET if address.version == 4 else socket.AF_INET6
    try:
        with socket.socket(family, socket.SOCK_DGRAM) as probe:
            probe.bind((str(address), 0))
    except OSError:
        return False
    return True


@dataclass(frozen=True, slots=True)
class Policy:
    """Who may ask. `check_hosts` is set while the daemon listens on loopback only: beyond it, it is reached under
    names that it cannot know, and whoever opened it did so on purpose.
    """

    check_hosts: bool
    origins: tuple[str, ...] = ()
    """Patterns that the operator added, in lower case, `*` for anything (OLLAMA_ORIGINS)."""
    host_name: str = ""
    """This machine's own name."""
    own_address: Callable[[IPAddress], bool] = field(default=is_own_address, repr=False)

    def host_allowed(self, host: str) -> bool:
        """Judges the value of a `Host` header; an empty one is HTTP/1.0's, which no browser speaks."""
        if not self.check_hosts or not host:
            return True
        name = _host_name(host)
        if name is None:
            return False
        address = _address(name)
        if address is not None:
            return self._address_allowed(address)
        name = name.removesuffix(".")
        own = self.host_name.lower()
        return (
            name == "localhost" or name.endswith((".localhost", ".local", ".internal")) or (own != "" and name == own)
        )

    def origin_allowed(self, origin: str, host: str) -> bool:
        """Judges the value of an `Origin` header, given the same request's `Host`, which was allowed before."""
        origin = origin.lower()
        if host and origin in (f"http://{host.lower()}", f"https://{host.lower()}"):
            return True
        return _is_local(origin) or any(_matches(pattern, origin) for pattern in self.origins)

    def _address_allowed(self, address: IPAddress) -> bool:
        return (
            address.is_loopback
            or address.is_unspecified
            or any(address in network for network in _PRIVATE if network.version == address.version)
            or self.own_address(address)
        )


def cors_headers(origin: str) -> dict[str, str]:
    """What lets a browser show an answer to a page of this origin, which was allowed."""
    return {"Access-Control-Allow-Origin": origin, "Vary": "Origin"}


def preflight_headers(wanted_headers: str) -> dict[str, str]:
    """What lets a browser go on after an OPTIONS; `wanted_headers` is its Access-Control-Request-Headers."""
    headers = {
        "Access-Control-Allow-Methods": "GET, HEAD, POST, PUT, PATCH, DELETE, OPTIONS",
        "Access-Control-Max-Age": str(PREFLIGHT_AGE),
    }
    if _TOKENS.match(wanted_headers):
        headers["Access-Control-Allow-Headers"] = wanted_headers
    return headers


def single(values: Iterable[str]) -> str | None:
    """A header's one value, `""` where there is none, None where several disagree: then nobody may pick one."""
    different = set(values)
    if len(different) > 1:
        return None
    return different.pop().strip() if different else ""


def _host_name(host: str) -> str | None:
    """The name in a `Host` header, in lower case, without brackets and port; None for what cannot be one."""
    match = _HOST.match(host)
    if match is None:
        return host.lower() if _address(host) is not None else None
    if match["v6"] is not None:
        return match["v6"].lower()
    return match["name"].lower() if _HOST_NAME.match(match["name"]) else None


def _address(text: str) -> IPAddress | None:
    try:
        address = ipaddress.ip_address(text)
    except ValueError:
        return None
    # ::ffff:127.0.0.1 is 127.0.0.1 to the kernel, so also to the rules.
    mapped = address.ipv4_mapped if isinstance(address, ipaddress.IPv6Address) else None
    return mapped or address


def _is_local(origin: str) -> bool:
    """The origins allowed without any setting: this machine's web servers on any port, and desktop applications."""
    try:
        parts = urlsplit(origin)
        port_is_valid = parts.port is None or parts.port >= 0
    except ValueError:
        return False
    if parts.scheme in _APP_SCHEMES and "://" in origin:
        return True
    bare = not (parts.path or parts.query or parts.fragment or parts.username is not None)
    return parts.scheme in ("http", "https") and bare and port_is_valid and parts.hostname in _LOCAL_HOSTS


def _matches(pattern: str, origin: str) -> bool:
    return re.fullmatch(".*".join(map(re.escape, pattern.split("*"))), origin) is not None
