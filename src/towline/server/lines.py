"""A streamed answer of lines, each of which reaches its reader when it is sent."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import islice

from aiohttp import HttpVersion11, web

_A_WRITE = 256
"""Lines that are handed to the system at once, some 50 KB."""

_HEADERS = {
    "Content-Type": "application/x-ndjson",
    # nginx, and what is built on it, keeps lines back until it has some thousands of bytes, unless it is told.
    "X-Accel-Buffering": "no",
    "Cache-Control": "no-store",
}


class Lines(web.StreamResponse):
    """Lines of NDJSON as they come. Each is a chunk of its own, as some clients take a chunk for an object; any number
    of them is one write, as thousands of small writes are what a stream costs.
    """

    _length_check = False  # as aiohttp's WebSockets have it: no length and no chunks of its own, they are made here

    def __init__(self, request: web.BaseRequest) -> None:
        super().__init__(headers=_HEADERS)
        self._in_chunks = request.version >= HttpVersion11
        if self._in_chunks:
            self.headers["Transfer-Encoding"] = "chunked"
        else:
            self.force_close()  # the end of the connection is the end of the stream

    async def send(self, lines: Iterable[bytes]) -> None:
        """Sends them and waits until the client has taken most of it: never more than some 100 KB are in memory.

        Raises ConnectionError where the client left, or reads nothing for so long that its connection was closed.
        """
        chunks = (b"%x\r\n%b\r\n" % (len(line), line) for line in lines) if self._in_chunks else iter(lines)
        while write := b"".join(islice(chunks, _A_WRITE)):
            await self.write(write)

    async def end(self) -> None:
        """Ends the stream. Raises ConnectionError like `send`."""
        if self._in_chunks:
            await self.write(b"0\r\n\r\n")
        await self.write_eof()
