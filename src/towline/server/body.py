"""A request's JSON body: read, bounded, decoded. The `Content-Type` is never asked (section 1 of the contract)."""

from __future__ import annotations

import re
from typing import TypeVar

import msgspec
from aiohttp import web

from towline.errors import InvalidRequest
from towline.server.connection import Awaited, connection_of
from towline.server.errors import MAX_BODY_BYTES, Refused

BODY_TIMEOUT = 30.0
"""Seconds for a whole body to come. Real ones are there at once; a client that takes longer is stuck."""

SMALL_BYTES = 64 << 10
"""Of a body that are always taken. Real ones are smaller, and read whoever sends what beside them."""

MOST_BYTES = 32 << 20
"""That all bodies which are being read may have beyond those."""

T = TypeVar("T")


async def read_json(request: web.Request, kind: type[T], example: str) -> T:
    """Reads a JSON object of this kind. Raises InvalidRequest with a sentence that ends in how to write it.

    A body over `MAX_BODY_BYTES` raises aiohttp's own error, which `server.errors` knows, and one for which there is no
    room beside others Refused. Nothing keeps the body.
    """
    if request.headers.get("Content-Encoding", "identity").strip().lower() not in ("", "identity"):
        raise InvalidRequest("the request body is compressed, which nothing here unpacks; send it as it is")
    try:
        async with connection_of(request).awaiting(Awaited.BODY, BODY_TIMEOUT):
            body = await _read(request)
    except TimeoutError:
        raise InvalidRequest(f"the request body did not arrive within {BODY_TIMEOUT:.0f} s; send it at once") from None
    except web.RequestPayloadError:
        raise InvalidRequest("the request body is broken: its length is not what its head says") from None
    return decode(body, kind, example)


_beyond_small = 0
"""Bytes that bodies have now beyond `SMALL_BYTES` each."""


async def _read(request: web.Request) -> bytearray:
    global _beyond_small
    body, counted = bytearray(), 0
    try:
        while piece := await request.content.readany():
            body += piece
            if len(body) > MAX_BODY_BYTES:
                raise web.HTTPRequestEntityTooLarge(MAX_BODY_BYTES, len(body))
            more = max(0, len(body) - SMALL_BYTES) - counted
            counted += more
            _beyond_small += more
            if more and _beyond_small > MOST_BYTES:
                raise Refused(503, "too many large requests come in at once; send smaller ones, or try again later")
    finally:
        _beyond_small -= counted
    return body


def decode(body: bytes | bytearray, kind: type[T], example: str) -> T:
    """Decodes a body. Hostile bytes of any kind raise InvalidRequest and nothing else."""
    if not body.strip():
        raise InvalidRequest(f"missing request body; send a JSON object such as {example}")
    try:
        return msgspec.json.decode(body, type=kind)
    except msgspec.ValidationError as error:
        raise InvalidRequest(_misfit(str(error), example)) from None
    except RecursionError:
        raise InvalidRequest(f"the request body is nested too deeply; send a JSON object such as {example}") from None
    except UnicodeDecodeError:
        raise InvalidRequest(f"the request body is not UTF-8; send a JSON object such as {example}") from None
    except (msgspec.MsgspecError, ValueError):
        mark = " (it starts with a byte order mark)" if body[:3] in (b"\xef\xbb\xbf",) or body[:2] in _UTF16 else ""
        raise InvalidRequest(f"the request body is not JSON{mark}; send a JSON object such as {example}") from None


_UTF16 = (b"\xff\xfe", b"\xfe\xff")
_FIELD = re.compile(r"Expected `(?P<expected>[a-z]+)(?: \| null)?`, got `(?P<got>\w+)` - at `\$\.(?P<field>\w+)")
_KINDS = {"str": "a string", "bool": "a boolean", "int": "a number", "float": "a number", "array": "an array"}


def _misfit(message: str, example: str) -> str:
    if match := _FIELD.search(message):
        return f"{match['field']} must be {_KINDS.get(match['expected'], match['expected'])}; write it as in {example}"
    if match := re.search(r"at `\$\.(\w+)", message):
        return f"{match[1]} holds a value that cannot be; write it as in {example}"
    return f"the request body is not a JSON object; send one such as {example}"
