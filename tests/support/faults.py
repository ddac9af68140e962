"""What can go wrong with an answer of a registry. Each fault is a value that changes the answer before it is sent.

`after` is a number of bytes of this answer's body, not of the blob; a body that is shorter escapes the fault.
"""

from __future__ import annotations

import gzip
import itertools
import re
import threading
from dataclasses import dataclass, field
from typing import Protocol

from tests.support.wire import BEFORE, Answer, Wire


class Fault(Protocol):
    """One thing that goes wrong."""

    def apply(self, answer: Answer) -> None:
        """Changes the answer; called once for each request that the fault's rule takes, on any thread."""


@dataclass(frozen=True)
class Reset:
    """The connection is reset after so many bytes; by default before the head of the answer."""

    after: int = BEFORE

    def apply(self, answer: Answer) -> None:
        answer.turns.append((self.after, Wire.reset))


@dataclass(frozen=True)
class Close:
    """The connection closes in good order after so many bytes, whatever length was promised."""

    after: int = BEFORE

    def apply(self, answer: Answer) -> None:
        answer.turns.append((self.after, Wire.close))


@dataclass(frozen=True)
class Stall:
    """Nothing more comes after so many bytes until `release()`; by default not even the head of the answer."""

    after: int = BEFORE
    reached: threading.Event = field(default_factory=threading.Event, repr=False)
    """Set when the first answer has come to its stop."""
    _gate: threading.Event = field(default_factory=threading.Event, repr=False)

    def release(self) -> None:
        """Lets every answer that waits here go on, and those that come later through."""
        self._gate.set()

    def apply(self, answer: Answer) -> None:
        answer.turns.append((self.after, self._stall))

    def _stall(self, wire: Wire) -> None:
        self.reached.set()
        wire.wait(self._gate)


@dataclass(frozen=True)
class Slow:
    """After so many bytes the rest comes at `rate` bytes a second."""

    rate: float
    after: int = 0

    def apply(self, answer: Answer) -> None:
        answer.turns.append((self.after, self._slow))

    def _slow(self, wire: Wire) -> None:
        wire.rate = self.rate


@dataclass(frozen=True)
class Delay:
    """The answer begins so many seconds late."""

    seconds: float

    def apply(self, answer: Answer) -> None:
        answer.turns.append((BEFORE, lambda wire: wire.pause(self.seconds)))


@dataclass(frozen=True)
class Status:
    """Another status, with an OCI error for a body, and Retry-After if given."""

    status: int
    retry_after: int | str | None = None
    code: str = "UNKNOWN"

    def apply(self, answer: Answer) -> None:
        body = f'{{"errors":[{{"code":"{self.code}","message":"made to fail"}}]}}'
        _become(answer, Answer.of(self.status, body.encode()))
        if self.retry_after is not None:
            answer.headers["Retry-After"] = str(self.retry_after)


@dataclass(frozen=True)
class Replace:
    """Other content altogether, as if it were right."""

    body: bytes = field(repr=False)
    content_type: str = "application/octet-stream"
    status: int = 200

    def apply(self, answer: Answer) -> None:
        _become(answer, Answer.of(self.status, self.body, self.content_type))


def web_page() -> Replace:
    """A page where a manifest or a blob should be, as captive portals and wrong addresses send."""
    return Replace(b"<!DOCTYPE html>\n<html><body><h1>Welcome</h1></body></html>\n", "text/html")


@dataclass(frozen=True)
class Redirect:
    """Sends the client to `location`; `Redirect("http://…")` works for a manifest as well."""

    location: str
    status: int = 307
    body: bytes = b""

    def apply(self, answer: Answer) -> None:
        _become(answer, Answer.of(self.status, self.body))
        answer.headers["Location"] = self.location


@dataclass(frozen=True)
class IgnoreRange:
    """200 with the whole blob where a range was asked for."""

    def apply(self, answer: Answer) -> None:
        if answer.status == 206:
            answer.status = 200
            answer.offset, answer.body = 0, answer.whole
            answer.headers["Content-Length"] = str(len(answer.whole))
            del answer.headers["Content-Range"]


@dataclass(frozen=True)
class WrongRange:
    """A Content-Range that tells of other bytes than were asked for, or of another total; the body stays."""

    shift: int = 0
    grow: int = 0

    def apply(self, answer: Answer) -> None:
        if match := re.fullmatch(r"bytes (\d+)-(\d+)/(\d+)", answer.headers.get("Content-Range", "")):
            first, last, total = map(int, match.groups())
            value = f"bytes {first + self.shift}-{last + self.shift}/{total + self.grow}"
            answer.headers["Content-Range"] = value


@dataclass(frozen=True)
class WrongLength:
    """A Content-Length that is `by` more or less than what comes; then the connection closes."""

    by: int

    def apply(self, answer: Answer) -> None:
        answer.headers["Content-Length"] = str(len(answer.body) + self.by)
        answer.keep_alive = False


@dataclass(frozen=True)
class Longer:
    """`by` bytes too many, with a Content-Length that says so."""

    by: int = 1

    def apply(self, answer: Answer) -> None:
        answer.put(bytes(answer.body) + b"x" * self.by)


@dataclass(frozen=True)
class Shorter:
    """`by` bytes too few, with a Content-Length that says so."""

    by: int = 1

    def apply(self, answer: Answer) -> None:
        answer.put(bytes(answer.body[: -self.by]))


@dataclass(frozen=True)
class Flip:
    """The lowest bit of the byte at `offset` of the blob is flipped, in the answers that hold it."""

    offset: int

    def apply(self, answer: Answer) -> None:
        if answer.offset <= self.offset < answer.offset + len(answer.body):
            body = bytearray(answer.body)
            body[self.offset - answer.offset] ^= 1
            answer.body = memoryview(body)


@dataclass(frozen=True)
class Compressed:
    """The body comes with Content-Encoding gzip, asked for or not."""

    def apply(self, answer: Answer) -> None:
        answer.put(gzip.compress(bytes(answer.body), compresslevel=1))
        answer.headers["Content-Encoding"] = "gzip"


@dataclass(frozen=True)
class Chunked:
    """Chunked transfer encoding, without a Content-Length."""

    def apply(self, answer: Answer) -> None:
        answer.chunked = True


@dataclass(frozen=True)
class Undelimited:
    """No length at all: the body ends where the connection does."""

    def apply(self, answer: Answer) -> None:
        answer.headers.pop("Content-Length", None)
        answer.keep_alive = False


@dataclass(frozen=True)
class Before:
    """These bytes come before the head, `times` times (None: while the client listens), `pause` seconds apart."""

    data: bytes
    times: int | None = 1
    pause: float = 0.0

    def apply(self, answer: Answer) -> None:
        answer.turns.append((BEFORE, self._send))

    def _send(self, wire: Wire) -> None:
        for _ in itertools.count() if self.times is None else range(self.times):
            wire.send(self.data)
            wire.pause(self.pause)


@dataclass(frozen=True)
class EndlessTrailers:
    """A chunked body that is followed by trailers without end, `pause` seconds apart."""

    pause: float = 0.0

    def apply(self, answer: Answer) -> None:
        answer.chunked = True
        answer.turns.append((len(answer.body), self._send))

    def _send(self, wire: Wire) -> None:
        wire.send(b"0\r\n")
        while True:
            wire.send(b"X-Noise: and more of it\r\n")
            wire.pause(self.pause)


@dataclass(frozen=True)
class Header:
    """One header set to another value, or left out."""

    name: str
    value: str | None

    def apply(self, answer: Answer) -> None:
        answer.headers.pop(self.name, None)
        if self.value is not None:
            answer.headers[self.name] = self.value


def _become(answer: Answer, other: Answer) -> None:
    answer.status, answer.body, answer.headers = other.status, other.body, other.headers
    answer.offset, answer.whole = 0, other.body
