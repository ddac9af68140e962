"""Every setting of towline: its name, its default, its environment variable.

Settings are read once, at the start of a process, and passed down; nothing below reads the environment.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import partial
from hashlib import sha256
from pathlib import Path
from typing import NamedTuple, Self
from urllib.parse import urlsplit

from towline.environ import OFF, flag, variable
from towline.errors import InvalidRequest
from towline.redaction import secrets_in

DEFAULT_HOST = "127.0.0.1"
DEFAULT_PORT = 11434


@dataclass(frozen=True, slots=True)
class Listen:
    """Where the daemon listens. `host` has no brackets, also for IPv6; `""` means every address."""

    host: str = DEFAULT_HOST
    port: int = DEFAULT_PORT

    @classmethod
    def parse(cls, text: str) -> Self:
        """Reads OLLAMA_HOST in every form that Ollama takes: host, `host:port`, `:port`, `[v6]:port`, with or without
        a scheme and a path; `http://` alone means port 80, `https://` 443. An impossible port means the default.
        """
        parts = split_address(text)
        return cls(parts.host, parts.port)

    @classmethod
    def parse_strictly(cls, text: str) -> Self:
        """Reads the same forms. Raises InvalidRequest, naming the port, for an impossible one."""
        if port := impossible_port(text):
            raise InvalidRequest(f"{shown(port)} is no port; it is a number from 0 to 65535")
        return cls.parse(text)

    @property
    def url(self) -> str:
        """The address under which a client on this machine reaches the daemon."""
        host = {"": "127.0.0.1", "0.0.0.0": "127.0.0.1", "::": "::1"}.get(self.host, self.host)  # noqa: S104
        return f"http://[{host}]:{self.port}" if ":" in host else f"http://{host}:{self.port}"


def impossible_port(text: str) -> str:
    """The port in an address that `Listen.parse` reads as the default because no such port can be; empty if none."""
    port = split_address(text).written_port
    if not port or _is_port(port):
        return ""
    return "..." if "@" in text else port  # of a password with a slash in it, it may be the beginning


class Address(NamedTuple):
    """What an address is made of. `scheme` is in lower case and empty where none is written, `host` has no brackets,
    `user` is what stands before an `@`: a secret, `path` has no slash at its ends.
    """

    scheme: str
    user: str
    host: str
    written_port: str
    port: int
    path: str


def split_address(text: str) -> Address:
    """Reads an address in every form that Ollama takes; see `Listen.parse`."""
    value = text.strip().strip("\"'").strip()
    scheme, separator, rest = value.partition("://")
    if not separator:
        scheme, rest = "", value
    authority, _, path = re.split(r"[?#]", rest, maxsplit=1)[0].partition("/")
    user, _, authority = authority.rpartition("@")
    default = {"http": 80, "https": 443}.get(scheme.lower(), DEFAULT_PORT)
    if match := re.fullmatch(r"\[(.*)\](?::(.*))?", authority):
        host, port = match[1], match[2] or ""
    elif authority.count(":") > 1:
        host, port = authority, ""
    else:
        host, _, port = authority.partition(":")
    every_address = authority.startswith(":")
    return Address(
        scheme.lower(),
        user,
        host if host or every_address else DEFAULT_HOST,
        port,
        int(port) if _is_port(port) else default,
        path.strip("/"),
    )


def _is_port(text: str) -> bool:
    return text.isascii() and text.isdigit() and len(text) < 6 and int(text) < 65536


def shown(text: str) -> str:
    """The beginning of a value as an error may repeat it, quoted: without whatever stands before an `@`, where a
    password may be, and without a query.

    >>> print(shown("http://me:secret@host:5000/x?token=secret"), shown("many"))
    '...@host:5000/x?...' 'many'
    """
    unnamed = re.sub(r".*@", "...@", text, flags=re.DOTALL)
    return ascii(re.sub(r"([?#]).+", r"\1...", unnamed, flags=re.DOTALL)[:60])


@dataclass(frozen=True, slots=True)
class Mirror:
    """One endpoint configured for a registry host; several for one host are tried in their order."""

    host: str
    url: str


def parse_mirrors(text: str) -> tuple[Mirror, ...]:
    """Reads TOWLINE_MIRRORS: `host=endpoint,…`; an endpoint is a URL, or a bare host, which means https.

    Raises InvalidRequest for an entry that is not of this form.
    """
    mirrors = []
    for entry, told in _entries(text):
        host, equals, url = (piece.strip() for piece in entry.partition("="))
        if "://" not in url:
            url = f"https://{url}"
        if not equals or not re.fullmatch(r"[A-Za-z0-9_.:-]+", host) or not _is_endpoint(url):
            raise InvalidRequest(
                f"TOWLINE_MIRRORS holds {told}, which is not host=endpoint; "
                "write it as registry.ollama.ai=https://mirror.example,…"
            )
        mirrors.append(Mirror(host.lower(), url.rstrip("/")))
    return tuple(mirrors)


def _entries(text: str) -> list[tuple[str, str]]:
    """The parts of a list, each with what an error may call it: its place, where the list may hold a secret, which a
    comma may have cut in two.
    """
    entries = [entry for part in text.split(",") if (entry := part.strip())]
    secret = "@" in text or "?" in text
    return [(entry, f"an entry, number {n}" if secret else shown(entry)) for n, entry in enumerate(entries, 1)]


def _is_endpoint(url: str) -> bool:
    try:
        urlsplit(url).port  # noqa: B018 - it checks the port as it is read, and the brackets of an address
    except ValueError:
        return False
    return re.fullmatch(r"https?://[^\s/@?#]+(/[^\s?#]*)?", url) is not None


_UNITS = {"": 1, "k": 1e3, "m": 1e6, "g": 1e9, "ki": 1 << 10, "mi": 1 << 20, "gi": 1 << 30}
MIN_RATE = 1000.0
"""Bytes a second, 1 KB/s: a slower limit is more likely a slip, and a pull at it would look hung."""


def parse_rate(text: str, what: str) -> float:
    """Reads a bandwidth as people write it, in bytes a second: `20MB/s`, `512k`, `1.5 MiB/s`; in bits: `100Mbit/s`.

    Raises InvalidRequest, naming `what`, for anything else and for less than `MIN_RATE`.
    """
    match = re.fullmatch(
        r"\s*(\d{1,12}(?:\.\d{1,6})?)\s*([kmg]i?)?(b|byte|bytes|bit|bits)?(/s|ps)?\s*", text, re.IGNORECASE | re.ASCII
    )
    rate = 0.0
    if match is not None:
        bits = (match[3] or "").lower() in ("bit", "bits") or (match[3] == "b" and (match[4] or "").lower() == "ps")
        rate = float(match[1]) * _UNITS[(match[2] or "").lower()] / (8 if bits else 1)
    if rate < MIN_RATE:
        raise InvalidRequest(f"{what} is {shown(text)}, but takes a bandwidth such as 20MB/s, of 1 KB/s or more")
    return rate


def parse_folder(text: str, what: str) -> Path:
    """Reads a path as people write it, with `~` or `~user` for a home. Raises InvalidRequest, naming `what`."""
    try:
        return Path(text).expanduser()
    except RuntimeError:
        raise InvalidRequest(f"{what} is {shown(text)}, but there is no such home here") from None


def _words(text: str) -> tuple[str, ...]:
    return tuple(word.strip().lower() for word in text.split(",") if word.strip())


def _plain_hosts(text: str) -> tuple[str, ...]:
    """Reads TOWLINE_PLAIN_HTTP: hosts with or without a port, also written `http://host`. Raises InvalidRequest."""
    hosts = []
    for entry, told in _entries(text.lower()):
        host = entry.removeprefix("http://").removesuffix("/")
        if not re.fullmatch(r"([a-z0-9_.-]+|\[[0-9a-f:.]+\])(:\d{1,5})?", host):
            raise InvalidRequest(f"TOWLINE_PLAIN_HTTP holds {told}, but takes hosts: write it as host:5000,…")
        hosts.append(host)
    return tuple(hosts)


_ON = ("1", "true", "yes", "on", "t", "y")


def _switch(name: str, text: str) -> bool:
    """A flag of towline's own. Raises InvalidRequest, naming it, for what says neither on nor off."""
    if text.lower() not in (*_ON, *OFF):
        raise InvalidRequest(f"{name} is {shown(text)}, but takes 1 or 0 (true or false, yes or no, on or off)")
    return text.lower() in _ON


@dataclass(frozen=True, slots=True)
class Settings:
    """What one process of towline works with. Times are in seconds, sizes in bytes."""

    models: Path = field(default_factory=lambda: Path.home() / ".ollama" / "models")
    """The store (OLLAMA_MODELS)."""
    listen: Listen = Listen()
    """Where the daemon listens (OLLAMA_HOST)."""
    origins: tuple[str, ...] = ()
    """Further web origins that may call the daemon; `*` in them is a wild card (OLLAMA_ORIGINS)."""
    noprune: bool = False
    """Keep layers that nothing uses any more (OLLAMA_NOPRUNE)."""
    mirrors: tuple[Mirror, ...] = ()
    """Endpoints that replace a registry host (TOWLINE_MIRRORS)."""
    plain_http: tuple[str, ...] = ()
    """Registry hosts, with their port, that speak plain HTTP (TOWLINE_PLAIN_HTTP); loopback always does."""
    serve_registry: bool | None = None
    """Answer `/v2/` (TOWLINE_SERVE_REGISTRY); unset, only on loopback."""
    connections: int = 16
    """Connections of the whole process that carry blobs, each on a thread of its own (TOWLINE_CONNECTIONS)."""
    connections_per_blob: int = 8
    """Connections one blob may use (TOWLINE_CONNECTIONS_PER_BLOB)."""
    connections_per_host: int = 16
    """Connections one registry endpoint gets from this process (TOWLINE_CONNECTIONS_PER_HOST)."""
    max_rate: float | None = None
    """Bytes a second that all downloads of the process may take together (TOWLINE_MAX_RATE, as in 20MB/s)."""
    writeback: bool = True
    """Have the disk begin to write what is hashed, so that little is left for the end (TOWLINE_WRITEBACK)."""
    stall_timeout: float = 30.0
    """How long a download goes on without a new byte from any source before it fails (TOWLINE_STALL_TIMEOUT)."""
    keep_trying: bool = False
    """Let a pull wait for its registry for as long as anybody waits for the pull (TOWLINE_KEEP_TRYING)."""
    refused_timeout: float = 3.5
    """How long a refused connection is tried again, for a registry that restarts: under the contract's 5 s."""
    connect_timeout: float = 10.0
    """How long one connection may take to be made, TLS included."""
    staging_ttl: float = 14 * 86400.0
    """Age at which partial downloads that no pull came back to are removed (TOWLINE_STAGING_TTL)."""

    log: str = "text"
    """The form of the daemon's log: `text`, or `json`, an object a line (TOWLINE_LOG)."""
    log_level: int = logging.INFO
    """What the daemon logs, and from `logging.DEBUG` every request and what libraries tell (OLLAMA_DEBUG)."""
    secrets: tuple[str, ...] = field(default=(), repr=False)
    """What the environment holds that no log may show."""

    @classmethod
    def from_environ(cls, environ: Mapping[str, str]) -> Self:
        """Reads what the environment says; what it leaves open keeps its default. Raises InvalidRequest."""
        read = partial(variable, environ=environ)
        given: dict[str, object] = {}
        if models := read("OLLAMA_MODELS"):
            given["models"] = parse_folder(models, "OLLAMA_MODELS")
        if host := read("OLLAMA_HOST"):
            given["listen"] = Listen.parse(host)
        given["origins"] = _words(read("OLLAMA_ORIGINS"))
        given["noprune"] = flag("OLLAMA_NOPRUNE", environ)
        given["mirrors"] = parse_mirrors(read("TOWLINE_MIRRORS"))
        given["plain_http"] = _plain_hosts(read("TOWLINE_PLAIN_HTTP"))
        if rate := read("TOWLINE_MAX_RATE"):
            given["max_rate"] = parse_rate(rate, "TOWLINE_MAX_RATE")
        for name in _SWITCHES:
            if text := read(f"TOWLINE_{name.upper()}"):
                given[name] = _switch(f"TOWLINE_{name.upper()}", text)
        if log := read("TOWLINE_LOG"):
            given["log"] = _log_form(log)
        given["log_level"] = _log_level(read("OLLAMA_DEBUG"))
        given["secrets"] = secrets_in(environ)
        for name, (low, high) in _INTEGERS.items():
            if text := read(f"TOWLINE_{name.upper()}"):
                given[name] = _whole_number(f"TOWLINE_{name.upper()}", text, low, high)
        for name, (low, high) in _SECONDS.items():
            if text := read(f"TOWLINE_{name.upper()}"):
                given[name] = _seconds(f"TOWLINE_{name.upper()}", text, low, high)
        return cls(**given)  # type: ignore[arg-type]

    def marks(self) -> dict[str, str]:
        """By its variable, for each setting of a process that pulls: what tells its value from another one. It does not
        spell the value, but whoever guesses that can tell that it is right: none of these settings holds a secret.
        """
        return {variable: sha256(repr(getattr(self, name)).encode()).hexdigest()[:12] for variable, name in _OF_A_PULL}


_SWITCHES = ("serve_registry", "writeback", "keep_trying")
_INTEGERS = {"connections": (1, 64), "connections_per_blob": (1, 64), "connections_per_host": (1, 64)}
_SECONDS = {"stall_timeout": (1, 86400), "staging_ttl": (0, 3650 * 86400)}
_OF_A_PULL = (
    ("OLLAMA_NOPRUNE", "noprune"),
    *((f"TOWLINE_{name.upper()}", name) for name in ("mirrors", "plain_http", "writeback", *_INTEGERS, *_SECONDS)),
)


def _log_form(text: str) -> str:
    if text.lower() not in ("text", "json"):
        raise InvalidRequest(f"TOWLINE_LOG is {shown(text)}, but takes text or json")
    return text.lower()


def _log_level(text: str) -> int:
    """Reads OLLAMA_DEBUG as Ollama does: a number counts levels, up from INFO to more or below zero to less.

    >>> [logging.getLevelName(_log_level(text)) for text in ("", "0", "false", "1", "true", "2", "-1", "-2")]
    ['INFO', 'INFO', 'INFO', 'DEBUG', 'DEBUG', 'DEBUG', 'WARNING', 'ERROR']
    """
    if re.fullmatch(r"[+-]?\d{1,9}", text, re.ASCII):
        return min(max(logging.INFO - 10 * int(text), logging.DEBUG), logging.ERROR)
    return logging.INFO if text.lower() in ("", *OFF) else logging.DEBUG


def _whole_number(name: str, text: str, low: int, high: int) -> int:
    value = int(text) if re.fullmatch(r"\d{1,9}", text, re.ASCII) else low - 1
    if not low <= value <= high:
        raise InvalidRequest(f"{name} is {shown(text)}, but takes a whole number from {low} to {high}")
    return value


def _seconds(name: str, text: str, low: int, high: int) -> float:
    """Seconds, as `30` or `2.5`, or with their unit: `30s`."""
    match = re.fullmatch(r"(\d{1,9}(?:\.\d{1,6})?)\s*s?", text, re.ASCII)
    value = float(match[1]) if match is not None else low - 1
    if not low <= value <= high:
        raise InvalidRequest(f"{name} is {shown(text)}, but takes seconds from {low} to {high}")
    return value
