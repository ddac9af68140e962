"""Where a server may be led to by what another one said: a redirect, or the realm of a login.

Without such a rule, whoever runs a registry could have this machine ask what only it can reach: the services of its own
network, and the metadata service of its cloud (CVE-2026-5530 was this fault in Ollama).
"""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

Reach = Literal["public", "internal", "never"]
"""From where an address can be reached: `internal` ones from one network or machine; no server may lead to `never`."""

_METADATA = frozenset(
    ipaddress.ip_address(text)
    for text in (
        "169.254.169.254",  # most clouds
        "fd00:ec2::254",  # AWS
        "fd20:ce::254",  # Google Cloud
        "100.100.100.200",  # Alibaba Cloud
        "192.0.0.192",  # Oracle Cloud
        "168.63.129.16",  # Azure's host
    )
)
_NAT64 = ipaddress.ip_network("64:ff9b::/96")


@dataclass(frozen=True, slots=True)
class Guard:
    """What a server may be led to. `internal`: private and loopback addresses too."""

    internal: bool

    def permits(self, ip: str) -> bool:
        """Whether this address may be connected to."""
        return (reach := reach_of(ip)) == "public" or (reach == "internal" and self.internal)

    def refusal(self, host: str) -> str:
        """The sentence for a host that has no other address."""
        if self.internal:
            return f"a registry leads to {host}, a link-local, multicast or metadata address, which towline never asks"
        return (
            f"a registry leads to {host}, which is in a private network, or this machine; "
            "name that host in TOWLINE_PLAIN_HTTP if it is meant"
        )


@lru_cache(1024)
def reach_of(ip: str) -> Reach:
    """From where this address can be reached; one within another (IPv4 in IPv6) counts as what it leads to."""
    address = _innermost(ipaddress.ip_address(ip.partition("%")[0]))
    if address in _METADATA or address.is_link_local or address.is_multicast or address.is_unspecified:
        return "never"
    if isinstance(address, ipaddress.IPv4Address):
        if int(address) >> 24 == 0 or int(address) >> 28 == 15:
            return "never"  # "this network", and what is reserved: broadcast is part of it
    elif address.is_site_local:
        return "internal"
    return "public" if address.is_global else "internal"


def _innermost(address: ipaddress.IPv4Address | ipaddress.IPv6Address) -> ipaddress.IPv4Address | ipaddress.IPv6Address:
    if isinstance(address, ipaddress.IPv4Address):
        return address
    embedded = address.ipv4_mapped or address.sixtofour
    if embedded is None and (address in _NAT64 or (int(address) >> 32 == 0 and int(address) > 0xFFFF)):
        embedded = ipaddress.IPv4Address(int(address) & 0xFFFFFFFF)
    return embedded or address
