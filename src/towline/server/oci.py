"""What a request under `/v2/` means (section 6 of the contract; OCI distribution specification, "Endpoints")."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from towline.errors import InvalidName
from towline.model.digest import Digest
from towline.model.name import DEFAULT_HOST, DEFAULT_TAG, ModelName
from towline.server.errors import Refused

MAX_PAGE = 10_000
"""Entries in one page of a list, whatever `n` asks for."""

Kind = Literal["base", "catalog", "tags", "manifest", "blob"]

# Where a host stands in a path, a port's ':' is written '_' (some clients refuse the colon).
_PORT = re.compile(r"(.+)_([0-9]{1,5})\Z")


@dataclass(frozen=True, slots=True)
class Repository:
    """A repository asked for. `hosts` are the registry hosts it may mean, the likelier first, never empty."""

    hosts: tuple[str, ...]
    namespace: str
    model: str

    def names(self, tag: str = DEFAULT_TAG) -> list[ModelName]:
        """The models that this tag of it may be. Raises InvalidName."""
        return [ModelName(host, self.namespace, self.model, tag) for host in self.hosts]


@dataclass(frozen=True, slots=True)
class Target:
    """What is asked for. `reference` is a tag or a digest for a manifest, a digest for a blob, else empty."""

    kind: Kind
    repository: Repository | None = None
    reference: str = ""


def parse(path: str, ns: str) -> Target:
    """Reads the decoded path behind `/v2/`, and the query's `ns`, empty where absent.

    Every part of what it returns keeps the rules of names. Raises Refused, with an OCI code.
    """
    if path == "":
        return Target("base")
    if path == "_catalog":
        return Target("catalog")
    *name, verb, reference = ("", "", *path.split("/"))
    if verb == "tags" and reference == "list":
        return Target("tags", _repository(name[2:], ns))
    if verb == "manifests" and reference:
        return Target("manifest", _repository(name[2:], ns), reference)
    if verb == "blobs" and reference:
        return Target("blob", _repository(name[2:], ns), reference)
    raise Refused(404, "this registry has no such endpoint; it answers pulls only", code="UNSUPPORTED")


def _repository(parts: Sequence[str], ns: str) -> Repository:
    if len(parts) == 2:
        repository = Repository((registry_host(ns),), parts[0], parts[1])
    elif len(parts) == 3:
        repository = Repository(_hosts(parts[0]), parts[1], parts[2])
    else:
        raise Refused(
            404, "a repository here is <namespace>/<model> or <host>/<namespace>/<model>", code="NAME_UNKNOWN"
        )
    try:
        repository.names()
    except InvalidName as error:
        raise Refused(400, str(error), code="NAME_INVALID") from None
    return repository


def _hosts(text: str) -> tuple[str, ...]:
    match = _PORT.match(text)
    return (f"{match[1]}:{match[2]}", text) if match else (text,)


def registry_host(ns: str) -> str:
    """The host that a query's `ns` means. Raises Refused."""
    if not ns:
        return DEFAULT_HOST
    try:
        return ModelName(ns, "library", "model", DEFAULT_TAG).host
    except InvalidName as error:
        raise Refused(400, f"ns: {error}", code="NAME_INVALID") from None


def digest(text: str) -> Digest:
    """Raises Refused for what is not `sha256:` and 64 lower-case hex digits."""
    try:
        return Digest.parse(text)
    except ValueError:
        raise Refused(400, "a digest here is sha256: and 64 lower-case hex digits", code="DIGEST_INVALID") from None


def page(entries: Sequence[str], n: str, last: str) -> tuple[list[str], bool]:
    """One page of a sorted list, as the query's `n` and `last` ask, and whether more follow. Raises Refused."""
    limit = MAX_PAGE
    if n:
        if not re.fullmatch(r"[0-9]{1,9}", n):
            raise Refused(400, "n must be a number of entries, as in ?n=100", code="PAGINATION_NUMBER_INVALID")
        limit = min(int(n), MAX_PAGE)
    rest = [entry for entry in entries if entry > last] if last else list(entries)
    return rest[:limit], limit > 0 and len(rest) > limit
