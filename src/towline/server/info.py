"""What the daemon says about itself."""

from __future__ import annotations

import asyncio
import os
import time
from datetime import UTC, datetime

from aiohttp import web

from towline._version import __version__
from towline.server.errors import json_response
from towline.settings import Settings
from towline.store.layout import store_id

API_VERSION = "0.12.0"
"""The Ollama API that towline speaks. Bare numbers: clients parse them, and some refuse less than 0.6.4."""

GREETING = "Ollama is running"
"""Clients probe `/` for these words."""


def routes(settings: Settings) -> list[web.RouteDef]:
    """The routes of this module; `uptime` counts from here."""
    started_at = datetime.now(UTC)
    started = time.monotonic()

    async def root(_: web.Request) -> web.Response:
        return web.Response(text=GREETING)

    async def version(_: web.Request) -> web.Response:
        return json_response({"version": API_VERSION})

    async def info(_: web.Request) -> web.Response:
        listen = settings.listen
        host = f"[{listen.host}]" if ":" in listen.host else listen.host
        return json_response(
            {
                "version": __version__,
                "store": await asyncio.to_thread(os.path.realpath, settings.models),
                "store_id": await asyncio.to_thread(store_id, settings.models),
                "pid": os.getpid(),
                "uptime": round(time.monotonic() - started, 3),
                "started_at": started_at,
                "listen": f"{host}:{listen.port}",
                "settings": settings.marks(),
            }
        )

    return [web.get("/", root), web.get("/api/version", version), web.get("/towline/info", info)]
