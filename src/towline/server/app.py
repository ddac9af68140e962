"""The application: routes, and what every request and every answer passes."""

from __future__ import annotations

import socket
from collections.abc import Awaitable, Callable

from aiohttp import web
from aiohttp.typedefs import Middleware

from towline._version import __version__
from towline.puller import Puller
from towline.server import info, models, pull, registry
from towline.server.errors import SECRETS, Handler, Refused, is_registry
from towline.server.origins import Policy, cors_headers, is_loopback, preflight_headers, single
from towline.settings import Settings

OnPrepare = Callable[[web.Request, web.StreamResponse], Awaitable[None]]


def create_app(settings: Settings, puller: Puller, *, loopback: bool | None = None) -> web.Application:
    """The daemon's application over this puller, which stays the caller's to close.

    `loopback` says whether it is reachable from this machine alone; left out, the settings' host tells.
    """
    if loopback is None:
        loopback = is_loopback(settings.listen.host)
    policy = Policy(check_hosts=loopback, origins=settings.origins, host_name=socket.gethostname())
    serves_registry = loopback if settings.serve_registry is None else settings.serve_registry
    app = web.Application(middlewares=[_guard(policy)])
    app[SECRETS] = settings.secrets
    app.add_routes(info.routes(settings))
    app.add_routes(models.routes(puller.store))
    app.add_routes(pull.routes(puller))
    app.add_routes(registry.routes(puller.store, enabled=serves_registry))
    app.on_response_prepare.append(_common_headers(policy))
    return app


def _guard(policy: Policy) -> Middleware:
    """Refuses foreign hosts and origins, and answers preflights, before any handler runs."""

    @web.middleware
    async def guard(request: web.Request, handler: Handler) -> web.StreamResponse:
        host = single(request.headers.getall("Host", ()))
        if host is None or not policy.host_allowed(host):
            raise Refused(
                403, "requests for this Host are refused; use localhost or the address of this machine", code="DENIED"
            )
        origin = single(request.headers.getall("Origin", ()))
        if origin is None or (origin and not policy.origin_allowed(origin, host)):
            raise Refused(403, "web pages of this origin are refused; set OLLAMA_ORIGINS to allow them", code="DENIED")
        if request.method == "OPTIONS":
            wanted = request.headers.get("Access-Control-Request-Headers", "")
            return web.Response(status=204, headers=preflight_headers(wanted) if origin else None)
        return await handler(request)

    return guard


def _common_headers(policy: Policy) -> OnPrepare:
    """Adds what all answers carry, streamed ones, files and errors included."""

    async def add(request: web.Request, response: web.StreamResponse) -> None:
        host = single(request.headers.getall("Host", ()))
        origin = single(request.headers.getall("Origin", ()))
        if host is not None and origin and policy.host_allowed(host) and policy.origin_allowed(origin, host):
            response.headers.update(cors_headers(origin))
        response.headers["Server"] = f"towline/{__version__}"
        if is_registry(request):
            response.headers["Docker-Distribution-Api-Version"] = "registry/2.0"

    return add
