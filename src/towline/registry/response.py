"""The answer to one request: its status, its headers, and its body straight from the connection."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Collection
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING

from towline.errors import SourceBusy, SourceLied
from towline.registry.failures import FAILURES, translated
from towline.registry.message import Undelimited, body, read_head
from towline.registry.wire import TICK, Allowance, Wire

if TYPE_CHECKING:
    from towline.registry.http import Call

REDIRECTS = frozenset((301, 302, 303, 307, 308))
MAX_REDIRECTS = 5
"""Of one question: a registry, its blob host, and a few between."""

_DRAIN_BYTES = 16 << 10
"""What is read to its end where it is not wanted: less time than a new connection takes."""

_DAY = 86400.0


class Response:
    """The answer of `host` to one request, made when its head is there; one thread reads. `release` takes the
    connection back, and is told whether it can be used again.
    """

    def __init__(self, call: Call, wire: Wire, method: str, *, host: str, release: Callable[..., None]) -> None:
        """Waits for the head. Raises what `FAILURES` names."""
        head = read_head(wire)
        self.host = host
        self.peer = call.address.ip if call.address is not None else ""
        """The address that sent it."""
        self.status = head.status
        self.headers = head.headers
        self._call = call
        self._wire = wire
        self._persistent = head.persistent
        self._body = body(head, method)
        self._release = release
        self._released = False
        self._touched = False
        self._allowed_silence: float | None = None

    @property
    def redirect(self) -> str | None:
        """Where it points, by its status and its `Location`; None where it is the answer itself."""
        return self.headers.get("Location") or None if self.status in REDIRECTS else None

    @property
    def busy(self) -> bool:
        """Whether its status is one that waiting may cure."""
        return self.status in (408, 429) or self.status >= 500

    @property
    def retry_after(self) -> float | None:
        """Seconds to wait by its `Retry-After`."""
        return retry_after(self.headers.get("Retry-After"))

    @property
    def web_page(self) -> bool:
        """Whether it says that it is one: what proxies, captive portals and wrong addresses send."""
        return (self.headers.get("Content-Type") or "").partition(";")[0].strip().lower() in (
            "text/html",
            "application/xhtml+xml",
        )

    @property
    def secrets(self) -> Collection[str]:
        """What the requests of this conversation carried, and nobody is to be told."""
        return self._call.secrets

    @property
    def announced(self) -> int | None:
        """How many bytes the body has, where that is told."""
        return self._body.announced

    def allow_silence(self, seconds: float) -> None:
        """Once the body has begun, so long a silence is its end; until then, the allowance of the question holds."""
        self._allowed_silence = seconds

    def readinto(self, buffer: memoryview) -> int | None:
        """Fills the start of `buffer` with what has arrived; 0 is the end of the body, None tells that nothing came for
        a moment.

        Raises SourceBusy when the connection breaks or is silent for too long, Cancelled.
        """
        try:
            count = self._body.readinto(self._wire, buffer)
        except FAILURES as error:
            self._call.check()
            raise translated(error, self.host) from None
        self._call.check()
        if count:
            self._touched = True
            if self._allowed_silence is not None:
                self._wire.allowance.left = self._allowed_silence
        if self._body.ended:
            self._let_go(reusable=self._persistent and self._wire.idle)
        return count

    def ends(self) -> bool:
        """Whether nothing more of the body comes, as far as can be told within a moment. Raises Cancelled."""
        if self._body.ended:
            return True
        self._hurry()
        try:
            return not self.readinto(memoryview(bytearray(1)))
        except SourceBusy:
            return True

    def read(self, limit: int, landed: Callable[[int], None] = lambda _: None) -> bytes:
        """The whole body; `landed` is told of each part. Raises SourceLied if it is longer than `limit` bytes, else as
        `readinto` does.
        """
        buffer = memoryview(bytearray(min(limit + 1, 64 << 10)))
        content = bytearray()
        while (count := self.readinto(buffer)) != 0:
            content += buffer[: count or 0]
            landed(count or 0)
            if len(content) > limit:
                raise SourceLied(f"{self.host} sends more than {limit} bytes")
        return bytes(content)

    def glance(self, limit: int) -> bytes:
        """The first bytes of the body, as far as they come within a moment: of an answer that is not what was wanted.
        Raises Cancelled.
        """
        buffer = memoryview(bytearray(limit))
        filled = 0
        self._hurry()
        with contextlib.suppress(*FAILURES):
            while filled < limit and (count := self._body.readinto(self._wire, buffer[filled:])):
                filled += count
        self._call.check()
        return bytes(buffer[:filled])

    def close(self) -> None:
        """The connection is kept where little is left to read, as after a redirect: a new one costs more."""
        if self._released:
            return
        if not self._touched and (self.announced or 0) <= _DRAIN_BYTES and not isinstance(self._body, Undelimited):
            with contextlib.suppress(*FAILURES):
                self._drain()
        self._let_go(reusable=self._body.ended and self._persistent and self._wire.idle)

    def _drain(self) -> None:
        rest = memoryview(bytearray(_DRAIN_BYTES))
        self._hurry()
        while len(rest) and (count := self._body.readinto(self._wire, rest)):
            rest = rest[count:]

    def _hurry(self) -> None:
        """What comes now is not worth more than a moment, whatever else comes meanwhile."""
        self._wire.allowance = Allowance(min(TICK, self._wire.allowance.left))

    def _let_go(self, *, reusable: bool) -> None:
        if not self._released:
            self._released = True
            self._call._let_go()
            self._release(reusable=reusable)


def retry_after(text: str | None) -> float | None:
    """Seconds to wait by a `Retry-After` header, a number or a date (RFC 9110, section 10.2.3), a day at most."""
    text = (text or "").strip()
    if text.isascii() and text.isdigit():
        return min(float(text), _DAY)
    try:
        until = parsedate_to_datetime(text)
        return min(max((until - datetime.now(UTC)).total_seconds(), 0.0), _DAY)
    except (TypeError, ValueError, OverflowError):
        return None
