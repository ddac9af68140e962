"""Where a server is, as a client reaches it."""

from __future__ import annotations

import ipaddress
from base64 import b64encode
from dataclasses import dataclass, field
from http.client import HTTPConnection, HTTPSConnection
from typing import Self
from urllib.parse import quote, unquote

from towline.errors import InvalidRequest
from towline.settings import DEFAULT_HOST, DEFAULT_PORT, split_address


@dataclass(frozen=True, slots=True)
class Address:
    """The base of a server's API. `path` begins with a slash, or is empty; `authorization` is a header's value, made of
    the user and the password that an address may hold, and never shown.
    """

    scheme: str = "http"
    host: str = DEFAULT_HOST
    port: int = DEFAULT_PORT
    path: str = ""
    authorization: str = field(default="", repr=False)

    @classmethod
    def parse(cls, text: str) -> Self:
        """Reads OLLAMA_HOST as a client of Ollama does, with its scheme and its path. An address that stands for all of
        a machine's (`0.0.0.0`, `::`, none) is this machine's loopback. Raises InvalidRequest.

        >>> [Address.parse(text).url for text in ("", "0.0.0.0", ":8080", "[::]:80", "https://me:word@host/ollama/")]
        ... # doctest: +NORMALIZE_WHITESPACE
        ['http://127.0.0.1:11434', 'http://127.0.0.1:11434', 'http://127.0.0.1:8080', 'http://[::1]:80',
         'https://host:443/ollama']
        """
        parts = split_address(text)
        if parts.scheme not in ("", "http", "https"):
            raise InvalidRequest(
                "the address of a server begins with http:// or https://, or has nothing before its host"
            )
        basic = b64encode(unquote(parts.user).encode()).decode() if parts.user else ""
        return cls(
            scheme=parts.scheme or "http",
            host=_reached(parts.host),
            port=parts.port,
            path=quote(f"/{parts.path}", safe="/%:@!$&'()*+,;=~") if parts.path else "",
            authorization=f"Basic {basic}" if basic else "",
        )

    @property
    def url(self) -> str:
        """It in one line, fit to be shown."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{self.scheme}://{host}:{self.port}{self.path}"

    def connection(self, timeout: float) -> HTTPConnection:
        """A connection that is not made yet, and asks no proxy; certificates are checked against the system's trust,
        or that of SSL_CERT_FILE. `timeout`: seconds for each wait.
        """
        kind = HTTPSConnection if self.scheme == "https" else HTTPConnection
        return kind(self.host, self.port, timeout=timeout)


def _reached(host: str) -> str:
    try:
        address = ipaddress.ip_address(host or "0.0.0.0")  # noqa: S104 - to be replaced
    except ValueError:
        return host
    if not address.is_unspecified:
        return host
    return "127.0.0.1" if address.version == 4 else "::1"
