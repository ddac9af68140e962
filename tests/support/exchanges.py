"""What a registry was asked and what it answered, and the matches that pick some of it out."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Literal

from tests.support.models import Blob
from towline.model.digest import Digest

Kind = Literal["ping", "manifest", "blob", "token", "other"]


@dataclass(eq=False)
class Exchange:
    """One request, and how far its answer got. `range` is what was asked for: first and last byte, inclusive."""

    method: str
    path: str
    query: dict[str, str]
    headers: dict[str, str] = field(repr=False)
    """Names in lower case."""
    client: tuple[str, int]
    """Address and port: the same for requests over one connection."""
    kind: Kind
    repository: str = ""
    reference: str = ""
    """The tag or the digest in a manifest's path."""
    digest: Digest | None = None
    """The blob's."""
    range: tuple[int, int | None] | None = None
    status: int = 0
    """Of the answer; 0 while there is none."""
    offset: int = 0
    """Where in the blob the answer's body starts."""
    sent: int = 0
    """Bytes of the body that went out. It is never less than what the client can have read."""
    done: bool = False


Match = Callable[[Exchange], bool]
"""Whether a rule concerns a exchange. Any function will do; those below make the usual ones."""


def blob(which: Blob | Digest | None = None, *, method: str = "GET") -> Match:
    """A request for this blob, or for any; over `/v2/` or at the signed address of a blob host."""
    digest = which.digest if isinstance(which, Blob) else which
    return lambda exchange: exchange.kind == "blob" and exchange.method == method and digest in (None, exchange.digest)


def manifest(repository: str | None = None, *, method: str = "GET") -> Match:
    """A request for a manifest of this repository, or of any."""
    return lambda exchange: (
        exchange.kind == "manifest" and exchange.method == method and repository in (None, exchange.repository)
    )


def token() -> Match:
    """A request for a Bearer token."""
    return lambda exchange: exchange.kind == "token"


def path(pattern: str) -> Match:
    """A request whose path, without the query, holds this regular expression."""
    return lambda exchange: re.search(pattern, exchange.path) is not None


def anything() -> Match:
    """Every exchange."""
    return lambda exchange: True


def covering(offset: int) -> Match:
    """A request whose range holds the byte at `offset`, and so does one without a range."""

    def covers(exchange: Exchange) -> bool:
        first, last = exchange.range or (0, None)
        return first <= offset and (last is None or offset <= last)

    return covers


def both(one: Match, other: Match) -> Match:
    """A request that both concern: `both(blob(digest), covering(1 << 20))`."""
    return lambda exchange: one(exchange) and other(exchange)
