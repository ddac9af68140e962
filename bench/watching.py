"""`python -m bench.watching PORT MODEL COUNT`: so many clients of one pull in one process, as cheap as they can be.

Prints what `bench.figures.watchers.Seen` holds, as JSON.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time

_SUCCESS = b'{"status":"success"}'


async def watch(port: int, name: str) -> float | None:
    """When (of `time.monotonic`) success came; None when the stream ended without it. Nothing is parsed."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    body = json.dumps({"model": name}).encode()
    lines = ("POST /api/pull HTTP/1.1", f"Host: 127.0.0.1:{port}", f"Content-Length: {len(body)}", "Connection: close")
    writer.write("\r\n".join([*lines, "", ""]).encode() + body)
    tail = b""
    ended: float | None = None
    while data := await reader.read(64 << 10):
        tail = (tail + data)[-256:]
        if ended is None and _SUCCESS in tail:
            ended = time.monotonic()
    writer.close()
    return ended


async def run(port: int, name: str, count: int) -> dict[str, float]:
    """All of them at once."""
    start = time.monotonic()
    ends = await asyncio.gather(*(watch(port, name) for _ in range(count)))
    finals = [end for end in ends if end is not None]
    return {
        "seconds": min(finals, default=0.0) - start,
        "last": max(finals, default=0.0) - start,
        "finals": len(finals),
        "cpu": time.process_time(),
    }


if __name__ == "__main__":
    print(json.dumps(asyncio.run(run(int(sys.argv[1]), sys.argv[2], int(sys.argv[3])))))
