"""`GET /api/tags`: the models in the store (section 2 of the contract)."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime

from aiohttp import web

from towline.server.details import Describer
from towline.server.errors import json_response
from towline.store.store import Store, StoredModel


def routes(store: Store) -> list[web.RouteDef]:
    """The routes of this module."""
    describer = Describer(store)

    def listed() -> list[dict[str, object]]:
        return [entry(model, describer) for model in store.list()]

    async def tags(_: web.Request) -> web.Response:
        # The disk may be slow; the loop must not be.
        return json_response({"models": await asyncio.to_thread(listed)})

    return [web.get("/api/tags", tags)]


def entry(model: StoredModel, describer: Describer) -> dict[str, object]:
    """One model of the list."""
    told = describer.describe(model)
    listed: dict[str, object] = {
        "name": str(model.name),
        "model": str(model.name),
        "modified_at": rfc3339(model.modified),
        "size": model.manifest.size,
        "digest": model.manifest.digest.hex,
        "details": told.details,
    }
    if told.capabilities is not None:
        listed["capabilities"] = told.capabilities
    return listed


def rfc3339(moment: datetime) -> str:
    """An aware time as RFC 3339 has it, in UTC."""
    return moment.astimezone(UTC).isoformat().replace("+00:00", "Z")
