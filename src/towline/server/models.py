"""`GET /api/tags`: the models in the store (section 2 of the contract)."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime

import msgspec
from aiohttp import web

from towline.server.details import Describer, Description, Details
from towline.server.errors import json_response
from towline.store.store import Store, StoredModel


class Entry(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One model of the list, in the order of Ollama's fields; what has a default is left out where it is so."""

    name: str
    model: str
    remote_model: str = ""
    remote_host: str = ""
    modified_at: str
    size: int
    digest: str
    details: Details
    capabilities: tuple[str, ...] = ()


def routes(store: Store) -> list[web.RouteDef]:
    """The routes of this module."""
    listing = _Listing(store)

    async def tags(_: web.Request) -> web.Response:
        # The disk may be slow and the answer long; the loop must wait for neither.
        return json_response(msgspec.Raw(await asyncio.to_thread(listing.encoded)))

    return [web.get("/api/tags", tags)]


class _Listing:
    """The list as it is sent: an entry is put together once, and again when its model or what is told of it changed."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._describer = Describer(store)
        self._parts: dict[int, tuple[StoredModel, Description, bytes]] = {}

    def encoded(self) -> bytes:
        """Reads the disk; may be called from several threads."""
        parts = {}
        for model, told in self._describer.describe(self._store.list()):
            part = self._parts.get(id(model))
            if part is None or part[0] is not model or part[1] is not told:
                part = (model, told, msgspec.json.encode(entry(model, told)))
            parts[id(model)] = part
        self._parts = parts
        return b'{"models":[%s]}' % b",".join(entry for _, _, entry in parts.values())


def entry(model: StoredModel, told: Description) -> Entry:
    """What the list says of one model."""
    name = str(model.name)
    return Entry(
        name=name,
        model=name,
        remote_model=told.remote_model,
        remote_host=told.remote_host,
        modified_at=rfc3339(model.modified_ns),
        size=model.manifest.size,
        digest=model.manifest.digest.hex,
        details=told.details,
        capabilities=told.capabilities,
    )


def rfc3339(moment: int) -> str:
    """Nanoseconds since 1970 as RFC 3339 has them, in UTC, with as many digits of the second as they need."""
    seconds, rest = divmod(moment, 1_000_000_000)
    fraction = f".{rest:09}".rstrip("0") if rest else ""
    return datetime.fromtimestamp(seconds, UTC).isoformat().replace("+00:00", f"{fraction}Z")
