"""The `Range` header, decided apart from any file (RFC 9110, section 14)."""

from __future__ import annotations

import re
from dataclasses import dataclass

# One range only: several in one answer need multipart, which no client of a registry asks for. 30 digits are more
# than any size; Python would refuse to read thousands.
_ONE = re.compile(r"bytes=[ \t]*([0-9]{0,30})-([0-9]{0,30})[ \t]*\Z", re.IGNORECASE)


class Unsatisfiable(Exception):
    """The range asked for lies wholly outside of the file: 416."""


@dataclass(frozen=True, slots=True)
class Span:
    """Bytes [start, stop) of a file; `0 <= start < stop <= size`."""

    start: int
    stop: int

    @property
    def length(self) -> int:
        """In bytes, at least 1."""
        return self.stop - self.start


def select(header: str | None, size: int) -> Span | None:
    """The part of a file of this size that a `Range` header asks for; None for the whole file.

    A header that is malformed, in another unit or names several ranges is ignored, as the RFC allows. Raises
    Unsatisfiable.
    """
    match = _ONE.match(header) if header else None
    if match is None or match.group(1, 2) == ("", ""):
        return None
    first, last = match.group(1, 2)
    if first == "":
        return _suffix(int(last), size)
    start = int(first)
    if last and int(last) < start:
        return None
    if start >= size:
        raise Unsatisfiable
    return Span(start, min(int(last) + 1, size) if last else size)


def _suffix(length: int, size: int) -> Span | None:
    if length == 0:
        raise Unsatisfiable
    return Span(max(0, size - length), size) if size else None
