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
    describer = Describer(store)

    def listed() -> msgspec.Raw:
        models = [entry(model, told) for model, told in describer.describe(store.list())]
        return msgspec.Raw(msgspec.json.encode({"models": models}))

    async def tags(_: web.Request) -> web.Response:
        # The disk may be slow and the answer long; the loop must wait for neither.
        return json_response(await asyncio.to_thread(listed))

    return [web.get("/api/tags", tags)]


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
