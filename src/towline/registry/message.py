"""An HTTP/1.1 answer as it comes over a wire: its head, and where its body ends (RFC 9112)."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import NamedTuple, Protocol

from towline.registry.wire import Garbled, Wire

MAX_INFORMATIONAL = 10
"""Informational answers (1xx: 100 Continue, 103 Early Hints) before the one that counts."""

_STATUS = re.compile(rb"HTTP/1\.([01]) +(\d{3})(?: .*)?\Z", re.DOTALL)
_CHUNK = re.compile(rb"\s*([0-9A-Fa-f]{1,15})\s*(?:;.*)?\Z", re.DOTALL)


class Headers:
    """The header fields of an answer. Names compare without regard to case; repeated ones are joined by commas."""

    def __init__(self, lines: Iterable[bytes]) -> None:
        self._fields: dict[str, str] = {}
        name = ""
        for text in b"\n".join(lines).decode("latin-1").split("\n"):
            if not text:
                continue
            if text[0] in " \t":  # a folded line (RFC 9112, section 5.2)
                value = text
            else:
                name, colon, value = text.partition(":")
                name = name.strip().lower() if colon else ""
            if name:
                known = self._fields.get(name)
                joint = " " if text[0] in " \t" else ", "
                self._fields[name] = value.strip() if known is None else known + joint + value.strip()

    def get(self, name: str, default: str | None = None) -> str | None:
        """The value of a field, or `default`."""
        return self._fields.get(name.lower(), default)


class Head(NamedTuple):
    """What comes before the body. `persistent`: the server does not mean to close the connection after it."""

    status: int
    headers: Headers
    persistent: bool


def read_head(wire: Wire) -> Head:
    """Reads past informational answers. Raises Garbled, OSError."""
    for _ in range(MAX_INFORMATIONAL + 1):
        lines = wire.lines()
        match = _STATUS.match(lines.pop(0) if lines is not None else _line(wire))
        if match is None:
            raise Garbled("the answer is not HTTP")
        minor, status = int(match[1]), int(match[2])
        if lines is None:
            lines = []
            while line := _line(wire):
                lines.append(line)
        if not 100 <= status < 200:
            headers = Headers(lines)
            connection = (headers.get("connection") or "").lower()
            return Head(status, headers, "close" not in connection if minor else "keep-alive" in connection)
    raise Garbled("informational answers without end")


def _line(wire: Wire) -> bytes:
    while (line := wire.line()) is None:
        pass
    return line


class Body(Protocol):
    """The bytes after the head, up to where they end. `announced`: their number, where the head tells it."""

    announced: int | None
    ended: bool

    def readinto(self, wire: Wire, buffer: memoryview) -> int | None:
        """Fills the start of `buffer`; 0 at the body's end, None where nothing came for a moment.

        Raises OSError, for an end before the body's own too; Garbled.
        """


def body(head: Head, method: str) -> Body:
    """How the body of this answer is delimited (RFC 9112, section 6.3)."""
    if method == "HEAD" or head.status in (204, 304):
        return Sized(0)
    if "chunked" in (head.headers.get("transfer-encoding") or "").lower():
        return Chunked()
    lengths = {length.strip() for length in (head.headers.get("content-length") or "").split(",")}
    length = lengths.pop() if len(lengths) == 1 else ""
    return Sized(int(length)) if length.isascii() and length.isdigit() and len(length) < 19 else Undelimited()


class Sized:
    """A body of a length that was announced."""

    announced: int | None

    def __init__(self, length: int) -> None:
        self.announced = length
        self.ended = not length
        self._left = length

    def readinto(self, wire: Wire, buffer: memoryview) -> int | None:
        """See `Body`."""
        if self.ended:
            return 0
        count = wire.readinto(buffer[: self._left])
        if count == 0:
            raise ConnectionResetError("the body ended early")
        if count:
            self._left -= count
            self.ended = not self._left
        return count


class Undelimited:
    """A body that ends where the connection does."""

    announced: int | None = None

    def __init__(self) -> None:
        self.ended = False

    def readinto(self, wire: Wire, buffer: memoryview) -> int | None:
        """See `Body`."""
        if self.ended:
            return 0
        count = wire.readinto(buffer)
        self.ended = count == 0
        return count


class Chunked:
    """A body in chunks, each with its length (RFC 9112, section 7.1)."""

    announced: int | None = None

    def __init__(self) -> None:
        self.ended = False
        self._left = 0
        self._take = self._length

    def readinto(self, wire: Wire, buffer: memoryview) -> int | None:
        """See `Body`."""
        while not self._left:
            if self.ended:
                return 0
            line = wire.line()
            if line is None:
                return None
            self._take(line)
        count = wire.readinto(buffer[: self._left])
        if count == 0:
            raise ConnectionResetError("the body ended early")
        if count:
            self._left -= count
        return count

    def _length(self, line: bytes) -> None:
        match = _CHUNK.match(line)
        if match is None:
            raise Garbled("a chunk without a length")
        self._left = int(match[1], 16)
        self._take = self._end if self._left else self._trailer

    def _end(self, line: bytes) -> None:
        if line:
            raise Garbled("a chunk that is longer than its length")
        self._take = self._length

    def _trailer(self, line: bytes) -> None:
        self.ended = not line
