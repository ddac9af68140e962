"""The answer to one request: its status, its headers, and its body straight from the connection."""

from __future__ import annotations

import contextlib
import io
import time
from collections.abc import Mapping
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING, Any

from towline.errors import SourceLied
from towline.registry.failures import FAILURES, translated

if TYPE_CHECKING:
    from towline.registry.http import Call

REDIRECTS = frozenset((301, 302, 303, 307, 308))
MAX_REDIRECTS = 5
"""Of one question: a registry, its blob host, and a few between."""

_COPY_STEP = 128 << 10
"""Bytes of a body without a length that are asked for at once: they are copied."""

_TLS_STEP = 256 << 10
_TLS_SECONDS = 0.02
"""Records are read on, up to so many bytes or seconds: more would keep what has come from being used."""

_DRAIN_BYTES = 16 << 10
"""What is read to its end where it is not wanted: less time than a new connection takes."""

_LULL = 0.5
"""Seconds without a byte that are told."""

_DAY = 86400.0


class Response:
    """The answer to one request of `host`. `headers` compares names without regard to case."""

    def __init__(self, call: Call, raw: Any, host: str) -> None:
        self.host = host
        self._call = call
        self._raw = raw
        self.status: int = raw.status
        self.headers: Mapping[str, str] = raw.headers
        original = raw._original_response
        # Set where the body's bytes can be taken straight from the connection: they are as many as announced.
        self._direct = (
            original if original is not None and not original.chunked and original.length is not None else None
        )
        if self._direct is None:
            raw._pool = None  # urllib3 would give the connection back by itself, while `cancel` still means this call
        self._socket: Any = call._socket
        self._tls = getattr(call._socket, "_sslobj", None)
        self._touched = False
        self._past_headers = False
        self._patience: float | None = None
        self._silence = 0.0

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

    def be_patient(self, seconds: float) -> None:
        """Allows the body to be silent for so many seconds, where that is less than its request allowed, and has
        `readinto` tell of it in between.
        """
        if self._socket is None:
            return
        allowed = self._socket.gettimeout()
        patience = seconds if allowed is None else min(allowed, seconds)
        if self._direct is not None:
            self._patience = patience
        self._socket.settimeout(min(patience, _LULL) if self._direct is not None else patience)

    def readinto(self, buffer: memoryview) -> int | None:
        """Fills the start of `buffer` with what has arrived, waiting for at least one byte; 0 is the end of the body.
        After `be_patient` it is None where nothing came for a moment, and may be called again.

        Raises SourceBusy when the connection breaks or is silent for too long, Cancelled.
        """
        try:
            count = self._receive(buffer)
        except FAILURES as error:
            self._call.check()
            raise translated(error, self.host) from None
        self._call.check()
        return count

    def read(self, limit: int) -> bytes:
        """The whole body. Raises SourceLied if it is longer than `limit` bytes, else as `readinto` does."""
        buffer = bytearray(min(limit + 1, 64 << 10))
        body = bytearray()
        while count := self.readinto(memoryview(buffer)):
            body += buffer[:count]
            if len(body) > limit:
                raise SourceLied(f"{self.host} sends more than {limit} bytes")
        return bytes(body)

    def _receive(self, buffer: memoryview) -> int | None:
        if self._direct is None:
            data = self._raw.read1(min(len(buffer), _COPY_STEP))
            buffer[: len(data)] = data
            return len(data)
        left: int = self._direct.length
        if not left:
            return 0
        try:
            count = self._receive_some(self._direct, buffer[:left])
        except TimeoutError:
            self._silence += _LULL
            if self._patience is None or self._silence >= self._patience:
                raise
            self._past_headers = True  # http.client's buffer is empty, and of no use after a wait that was in vain
            return None
        self._touched = True
        self._silence = 0.0
        self._direct.length = left - count
        if count == 0:
            raise ConnectionResetError("the body ended early")
        if count == left:
            self._give_back(self._direct)
        return count

    def _receive_some(self, direct: Any, room: memoryview) -> int:
        # urllib3's own `readinto` allocates and copies, http.client's waits until the buffer is full.
        if not self._past_headers:
            # What came with the headers lies in http.client's buffer. A read as large as that leaves nothing in it, and
            # a larger one would wait for more, and lose it where nothing comes.
            self._past_headers = len(room) >= io.DEFAULT_BUFFER_SIZE
            count: int = direct.fp.readinto1(room[: io.DEFAULT_BUFFER_SIZE])
        elif self._tls is not None:
            count = _read_records(self._tls, room[:_TLS_STEP])
        else:
            count = self._socket.recv_into(room)
        return count

    def _close(self) -> None:
        """The connection is kept where little is left to read, as after a redirect: a new one costs more."""
        if self._direct is not None and not self._touched and (self._direct.length or 0) <= _DRAIN_BYTES:
            with contextlib.suppress(*FAILURES):
                self._drain(self._direct)
        self._raw.close()

    def _drain(self, direct: Any) -> None:
        if not direct.length:
            self._give_back(direct)
        rest = memoryview(bytearray(direct.length or 0))
        while direct.length:
            self._receive(rest)

    def _give_back(self, direct: Any) -> None:
        direct.read()
        self._call._let_go()
        self._raw.release_conn()


def _read_records(tls: Any, buffer: memoryview) -> int:
    """Fills the buffer from a TLS connection, record by record; begins no further one after `_TLS_SECONDS`.

    A record holds 16 KiB. Going through http.client and the socket's own layers for each costs as much as deciphering
    it.
    """
    count: int = tls.read(len(buffer), buffer)
    until = time.monotonic() + _TLS_SECONDS
    while 0 < count < len(buffer) and time.monotonic() < until:
        try:
            more: int = tls.read(len(buffer) - count, buffer[count:])
        except OSError:
            break  # it will be there the next time: what came before it counts
        if not more:
            break
        count += more
    return count


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
