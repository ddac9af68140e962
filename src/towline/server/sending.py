"""Sending a file whose content never changes: ranges, conditions, and the kernel's sendfile.

Not aiohttp's FileResponse: that one derives its `ETag` from the file's time, which the store renews at each
publication, and answers several ranges with 416.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import BinaryIO

from aiohttp import web

from towline.files.regular import open_regular
from towline.server.connection import STUCK_READER, Awaited, connection_of
from towline.server.errors import Refused
from towline.server.ranges import Span, Unsatisfiable, select

PIECE = 8 << 20
"""Bytes that one call of sendfile is asked to send: the step in which a reader that is stuck is found out, within
`STUCK_READER`; 14 KB/s are enough."""


@dataclass(frozen=True, slots=True)
class OpenFile:
    """A file open for reading, whoever holds it closes it, and its size in bytes when it was opened."""

    file: BinaryIO
    size: int

    @classmethod
    def open(cls, path: str | os.PathLike[str]) -> OpenFile:
        """Raises OSError, also for what is no regular file."""
        file = open(open_regular(path), "rb", buffering=0)  # noqa: SIM115  closed by the caller
        return cls(file, os.fstat(file.fileno()).st_size)


def matches(header: str | None, etag: str) -> bool:
    """Whether an `If-None-Match` names this strong tag, quotes included."""
    if header is None:
        return False
    tags = (tag.strip().removeprefix("W/") for tag in header.split(","))
    return header.strip() == "*" or etag in tags


async def send_file(
    request: web.Request, source: OpenFile, etag: str, headers: Mapping[str, str], body_headers: Mapping[str, str]
) -> web.StreamResponse:
    """Answers a GET or HEAD with the file; closes it.

    `body_headers` go with a GET's 200 and 206 only. Raises Refused for a range outside of the file.
    """
    try:
        return await _send(request, source, etag, headers, body_headers)
    finally:
        source.file.close()


async def _send(
    request: web.Request, source: OpenFile, etag: str, headers: Mapping[str, str], body_headers: Mapping[str, str]
) -> web.StreamResponse:
    common = {**headers, "ETag": etag, "Accept-Ranges": "bytes"}
    if matches(request.headers.get("If-None-Match"), etag):
        return web.Response(status=304, headers=common)
    response = web.StreamResponse(headers=common)
    if request.method == "HEAD":
        response.content_length = source.size
        await response.prepare(request)
        return response
    span = _span(request, source.size, etag)
    offset, count = (span.start, span.length) if span else (0, source.size)
    if span:
        response.set_status(206)
        response.headers["Content-Range"] = f"bytes {span.start}-{span.stop - 1}/{source.size}"
    response.headers.update(body_headers)
    response.content_length = count
    await response.prepare(request)
    if count:
        await _sendfile(request, source.file, offset, count)
    await response.write_eof()
    return response


def _span(request: web.Request, size: int, etag: str) -> Span | None:
    condition = request.headers.get("If-Range")
    if condition is not None and condition.strip() != etag:
        return None
    try:
        return select(request.headers.get("Range"), size)
    except Unsatisfiable:
        raise Refused(
            416,
            f"the range lies outside of the {size} bytes of this blob",
            code="BLOB_UNKNOWN",
            headers={"Content-Range": f"bytes */{size}"},
        ) from None


async def _sendfile(request: web.Request, file: BinaryIO, offset: int, count: int) -> None:
    loop = asyncio.get_running_loop()
    while count > 0:
        transport = request.transport
        if transport is None or transport.is_closing():
            raise ConnectionResetError("the client went away")
        piece = min(count, PIECE)
        try:
            async with connection_of(request).awaiting(Awaited.READER, STUCK_READER):
                sent = await loop.sendfile(transport, file, offset, piece)
        except TimeoutError:
            raise ConnectionResetError("the client reads nothing") from None
        if sent != piece:
            # The file was cut short meanwhile. Its length is promised already; only closing tells the client.
            raise ConnectionResetError("the file became shorter")
        offset, count = offset + piece, count - piece
