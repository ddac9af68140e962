"""A `BlobSource` over pycurl: the least that the engine can be measured with. Errors of every kind are SourceBusy."""

from __future__ import annotations

import os
import threading
from contextlib import AbstractContextManager
from types import TracebackType
from typing import Any, Self

import pycurl  # type: ignore[import-untyped]  # not a dependency: see bench.figures.clients

from towline.errors import Cancelled, SourceBusy
from towline.model.manifest import Descriptor
from towline.model.name import ModelName
from towline.registry.client import Registry
from towline.registry.endpoints import Endpoint
from towline.transfer.protocols import ByteStream

_RECEIVE_BUFFER = 512 << 10
_STEP = 256 << 10
_WAIT = 0.1


class CurlRegistry(Registry):
    """Manifests as ever, blobs through curl."""

    def source(self, endpoint: Endpoint, name: ModelName, blob: Descriptor, *_: object) -> Any:
        """The blob as this endpoint has it."""
        return CurlBlob(endpoint.url(name.repository, "blobs", str(blob.digest)))


class CurlBlob:
    """Ranges of one address."""

    def __init__(self, url: str) -> None:
        self.ranged = True
        self._url = url

    def __str__(self) -> str:
        return self._url

    def open(self, start: int, stop: int) -> ByteStream:
        """A stream of the bytes [start, stop)."""
        return CurlStream(self._url, start, stop)


class _Handles(threading.local):
    """One transfer handle a thread, used again: curl keeps the connection with it."""

    def __init__(self) -> None:
        self.multi = pycurl.CurlMulti()
        self.easy = pycurl.Curl()


_handles = _Handles()


class CurlStream:
    """One range, pulled: curl is paused while the buffer is full and goes on at the next `readinto`."""

    waited = 0.0
    """See `ByteStream`; nobody asks how far these are."""

    def __init__(self, url: str, start: int, stop: int) -> None:
        self._url, self._start, self._left = url, start, stop - start
        self._cancelled = self._begun = self._paused = False
        self._over: str | None = None
        self._room = memoryview(b"")
        self._filled = 0
        self._spilled = b""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._begun:
            _handles.multi.remove_handle(_handles.easy)
            self._begun = False

    def waits_within(self, aside: AbstractContextManager[None]) -> None:
        """See `ByteStream`; curl waits by itself."""

    def cancel(self) -> None:
        """From any thread; noticed within a tenth of a second."""
        self._cancelled = True

    def readinto(self, buffer: memoryview) -> int:
        """Fills the start of `buffer`; 0 only at the range's end."""
        if not self._left:
            return 0
        self._room, self._filled = buffer[: self._left], 0
        if self._spilled:
            self._take(self._spilled)
        elif not self._begun:
            self._begin()
        elif self._paused:
            self._paused = False
            _handles.easy.pause(pycurl.PAUSE_CONT)
        while not self._filled:
            if self._cancelled:
                raise Cancelled("stopped")
            if self._over is not None:
                raise SourceBusy(self._over or "it ended early")
            self._receive()
            if not self._filled and self._over is None:
                _handles.multi.select(_WAIT)
        self._left -= self._filled
        if not self._left:
            self._finish()
        return self._filled

    def _receive(self) -> None:
        """Takes what has arrived, up to a step of the size in which towline's own client takes it."""
        before = -1
        while before < self._filled < _STEP and self._over is None and not self._paused:
            before = self._filled
            _handles.multi.perform()
            self._look()

    def _begin(self) -> None:
        easy = _handles.easy
        easy.reset()
        easy.setopt(pycurl.URL, self._url)
        easy.setopt(pycurl.RANGE, f"{self._start}-{self._start + self._left - 1}")
        easy.setopt(pycurl.WRITEFUNCTION, self._take)
        easy.setopt(pycurl.BUFFERSIZE, _RECEIVE_BUFFER)
        easy.setopt(pycurl.HTTP_VERSION, pycurl.CURL_HTTP_VERSION_1_1)
        easy.setopt(pycurl.FAILONERROR, True)
        easy.setopt(pycurl.NOSIGNAL, True)
        if ca := os.environ.get("SSL_CERT_FILE"):
            easy.setopt(pycurl.CAINFO, ca)
        _handles.multi.add_handle(easy)
        self._begun = True

    def _take(self, data: bytes) -> int:
        """What does not fit any more is kept here; while the buffer is full, curl keeps what it has."""
        if self._filled == len(self._room):
            self._paused = True
            return int(pycurl.WRITEFUNC_PAUSE)
        fits = min(len(data), len(self._room) - self._filled)
        self._room[self._filled : self._filled + fits] = data[:fits] if fits < len(data) else data
        self._filled += fits
        self._spilled = data[fits:]
        return len(data)

    def _finish(self) -> None:
        """Lets curl see the end, so that it keeps the connection."""
        while self._over is None:
            _handles.multi.perform()
            self._look()

    def _look(self) -> None:
        _, done, failed = _handles.multi.info_read()
        if done:
            self._over = ""
        elif failed:
            self._over = str(failed[0][2])
