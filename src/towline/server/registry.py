"""`/v2/`: the OCI distribution pull API over the local store (section 6 of the contract)."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Sequence
from urllib.parse import urlencode

import msgspec
from aiohttp import web

from towline.model.manifest import OCI_MANIFEST, Manifest
from towline.server import oci, shortage
from towline.server.errors import Refused, json_response
from towline.server.sending import OpenFile, matches, send_file
from towline.server.shelf import Shelf
from towline.store.store import Store, StoredModel

_MEDIA_TYPE = re.compile(r"[A-Za-z0-9][A-Za-z0-9!#$&^_.+-]{0,126}/[A-Za-z0-9][A-Za-z0-9!#$&^_.+-]{0,126}\Z")


def routes(store: Store, *, enabled: bool) -> list[web.RouteDef]:
    """The routes of this module; not `enabled`, they say how to enable them."""
    endpoints = _Endpoints(store)

    async def answer(request: web.Request) -> web.StreamResponse:
        if not enabled:
            raise Refused(
                403,
                "this towline does not serve its models to others; set TOWLINE_SERVE_REGISTRY=1 where it runs",
                code="DENIED",
            )
        if request.method not in ("GET", "HEAD"):
            raise Refused(405, "this registry is read-only; use GET or HEAD", headers={"Allow": "GET, HEAD"})
        return await endpoints.answer(request, request.match_info.get("path", ""))

    return [web.route("*", "/v2", answer), web.route("*", "/v2/{path:.*}", answer)]


class _Endpoints:
    def __init__(self, store: Store) -> None:
        self._store = store
        self._shelf = Shelf(store)

    async def answer(self, request: web.Request, path: str) -> web.StreamResponse:
        target = oci.parse(path, request.query.get("ns", ""))
        repository = target.repository
        if target.kind == "base":
            return json_response({})
        if repository is None:
            return await self._catalog(request)
        if target.kind == "tags":
            return await self._tags(request, repository)
        if target.kind == "manifest":
            return await self._manifest(request, repository, target.reference)
        return await self._blob(request, repository, target.reference)

    async def _catalog(self, request: web.Request) -> web.Response:
        host = oci.registry_host(request.query.get("ns", ""))
        repositories = await asyncio.to_thread(self._shelf.repositories, host)
        return _page(request, "repositories", repositories, {})

    async def _tags(self, request: web.Request, repository: oci.Repository) -> web.Response:
        models = await asyncio.to_thread(self._shelf.models, repository)
        if not models:
            raise _name_unknown(repository)
        tags = sorted({model.name.tag for model in models})
        return _page(request, "tags", tags, {"name": models[0].name.repository})

    async def _manifest(self, request: web.Request, repository: oci.Repository, reference: str) -> web.Response:
        model: StoredModel | None
        if ":" in reference:
            digest = oci.digest(reference)
            model = await asyncio.to_thread(self._shelf.manifest, repository, digest)
        else:
            model = await asyncio.to_thread(self._shelf.tagged, repository, reference)
        if model is None:
            if not await asyncio.to_thread(self._shelf.models, repository):
                raise _name_unknown(repository)
            raise Refused(404, f"no manifest {reference[:80]!a} is here", code="MANIFEST_UNKNOWN")
        return _manifest_response(request, model.manifest)

    async def _blob(self, request: web.Request, repository: oci.Repository, reference: str) -> web.StreamResponse:
        digest = oci.digest(reference)
        source = await asyncio.to_thread(self._open, repository, reference)
        headers = {
            "Content-Type": "application/octet-stream",
            "Docker-Content-Digest": str(digest),
            "Cache-Control": "max-age=31536000, immutable",
        }
        # Stock Ollama takes the address of a blob's bytes from this header, redirected or not (section 6).
        location = {"Location": str(request.rel_url)}
        return await send_file(request, source, f'"{digest}"', headers, location)

    def _open(self, repository: oci.Repository, reference: str) -> OpenFile:
        blob = self._shelf.blob(repository, oci.digest(reference))
        unknown = Refused(404, f"no blob {reference} is in this repository", code="BLOB_UNKNOWN")
        if blob is None:
            raise unknown
        try:
            source = OpenFile.open(self._store.blob_path(blob.digest))
        except OSError as error:
            if shortage.what_is_short(error):
                raise
            raise unknown from None
        if source.size != blob.size:
            source.file.close()
            raise unknown
        return source


def _name_unknown(repository: oci.Repository) -> Refused:
    return Refused(404, f"no model {repository.namespace}/{repository.model} is here", code="NAME_UNKNOWN")


def _manifest_response(request: web.Request, manifest: Manifest) -> web.Response:
    headers = {"Docker-Content-Digest": str(manifest.digest), "ETag": f'"{manifest.digest}"'}
    if matches(request.headers.get("If-None-Match"), headers["ETag"]):
        return web.Response(status=304, headers=headers)
    return web.Response(body=manifest.raw, headers={**headers, "Content-Type": _media_type(manifest)})


class _MediaType(msgspec.Struct):
    media_type: str = msgspec.field(name="mediaType", default="")


def _media_type(manifest: Manifest) -> str:
    """The manifest's own; one that gives none can only be OCI's, which alone may leave it out."""
    own = msgspec.json.decode(manifest.raw, type=_MediaType).media_type
    return own if _MEDIA_TYPE.match(own) else OCI_MANIFEST


def _page(request: web.Request, key: str, entries: Sequence[str], body: dict[str, object]) -> web.Response:
    shown, more = oci.page(entries, request.query.get("n", ""), request.query.get("last", ""))
    headers = {}
    if more:
        query = {**request.query, "last": shown[-1]}
        headers["Link"] = f'<{request.rel_url.raw_path}?{urlencode(query)}>; rel="next"'
    return json_response({**body, key: shown}, headers=headers)
