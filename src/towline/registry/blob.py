"""One blob as one endpoint has it: a source of ranges."""

from __future__ import annotations

import contextlib
import re
import threading
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager
from types import TracebackType
from typing import Self

from towline.errors import RegistryError, SourceBusy, SourceError, SourceGone, SourceLied
from towline.model.manifest import Descriptor
from towline.patience import Patience
from towline.registry.access import Access, Asking, Place, check_status
from towline.registry.endpoints import Endpoint
from towline.registry.response import Response
from towline.registry.wire import Allowance
from towline.registry.words import words_of

SUSPICIOUS = 4.0
"""Seconds of silence after which the address that a registry redirected to is asked for again by whoever comes next.
The request that waits is left alone.
"""

_CONTENT_RANGE = re.compile(r"bytes[ =]*(\d{1,18})\s*-\s*(\d{1,18})\s*(?:/\s*(\d{1,18}|\*)?)?\s*\Z", re.I | re.A)


class RegistryBlob:
    """A `BlobSource`: ranges of one blob from one endpoint, which may redirect to a host with a signed address.

    The address is kept until it fails in any way, then asked for again: such signatures expire in the middle of a
    download, and hosts die. A request may take all the `patience` to its first byte; half of it is how long the body
    may be silent after that. `served` are the hosts that have sent something to whoever wants the blob.
    """

    def __init__(
        self,
        access: Access,
        endpoint: Endpoint,
        repository: str,
        blob: Descriptor,
        patience: Patience,
        served: set[str] | None = None,
    ) -> None:
        self.name = endpoint.shown
        self.ranged = True
        self.blob = blob
        self.patience = patience
        self.served: set[str] = served if served is not None else set()
        self._access = access
        self._endpoint = endpoint
        self._repository = repository
        self._lock = threading.Lock()
        self._kept: _Kept | None = None

    def __str__(self) -> str:
        return self.name

    def __eq__(self, other: object) -> bool:
        return isinstance(other, RegistryBlob) and self._place == other._place

    def __hash__(self) -> int:
        return hash(self._place)

    @property
    def _place(self) -> tuple[Endpoint, str, Descriptor]:
        return self._endpoint, self._repository, self.blob

    def open(self, start: int, stop: int) -> RangeStream:
        """A stream of the bytes [start, stop); nothing is asked before its first `readinto`."""
        return RangeStream(self, self._access, start, stop)

    def ask(self, stream: RangeStream) -> Answer:
        """The answer that begins with the stream's bytes. Raises SourceBusy, SourceGone, SourceLied, RegistryError,
        Cancelled.
        """
        headers = {}
        if self.ranged and stream.stop - stream.start < self.blob.size:
            headers["Range"] = f"bytes={stream.start}-{stream.stop - 1}"
        allowance = Allowance.by(self.patience)
        asking = Asking(stream.call, self._endpoint, self._repository, headers, allowance, self.served)
        answer = self._from_kept_address(asking, stream) or self._from_registry(asking, stream)
        if answer.response.status != 416:
            return answer
        self.ranged = False
        if "Range" in headers and stream.start == 0:
            return self.ask(stream)
        raise SourceBusy(f"{answer.response.host} ignores ranges", retry_after=0.0)

    def forget(self, kept: _Kept | None) -> None:
        """This address failed, or is suspected to: the registry is asked for another."""
        with self._lock:
            if kept is not None and self._kept is kept:
                self._kept = None

    def _from_kept_address(self, asking: Asking, stream: RangeStream) -> Answer | None:
        """None where no address is kept, or it failed in whatever way."""
        with self._lock:
            kept = self._kept
            if kept is not None and kept.suspicious:
                kept = self._kept = None
        if kept is None:
            return None
        try:
            with kept.waited_for():
                response = self._access.follow(asking, kept.place)
            if response.redirect is None:
                return self._judged(asking, response, stream, kept)
        except (SourceError, RegistryError):
            pass
        self.forget(kept)
        return None

    def _from_registry(self, asking: Asking, stream: RangeStream) -> Answer:
        landing = self._access.get(asking, self._endpoint.url(self._repository, "blobs", str(self.blob.digest)))
        kept = _Kept(landing.place) if landing.place is not None else None
        answer = self._judged(asking, landing.response, stream, kept)
        with self._lock:
            self._kept = kept
        return answer

    def _judged(self, asking: Asking, response: Response, stream: RangeStream, kept: _Kept | None) -> Answer:
        """Raises what is wrong with an answer, as far as its head tells; 416 for a range is left to the caller."""
        if response.status == 416 and "Range" in asking.headers:
            return Answer(response, 0, kept)
        check_status(response, f"blob {self.blob.digest.short}")
        if (response.headers.get("Content-Encoding") or "").lower() not in ("", "identity"):
            raise SourceLied(f"{response.host} sends the blob compressed, which was not asked for")
        if response.status == 200:
            _check_length(response, self.blob.size, f"the manifest promises {self.blob.size}")
            if stream.start:
                self.ranged = False
                raise SourceBusy(f"{response.host} ignores ranges", retry_after=0.0)
            return Answer(response, self.blob.size, kept)
        return Answer(response, self._partial(response, stream), kept)

    def _partial(self, response: Response, stream: RangeStream) -> int:
        """How many bytes of a range an answer promises."""
        match = _CONTENT_RANGE.match((response.headers.get("Content-Range") or "").strip())
        if match is None:
            raise SourceLied(f"{response.host} does not say which bytes it sends")
        first, last, total = match.groups()
        if total not in (None, "*") and int(total) != self.blob.size:
            raise SourceLied(f"{response.host} has {total} bytes where the manifest promises {self.blob.size}")
        if int(first) != stream.start or not int(first) <= int(last) < stream.stop:
            raise SourceLied(
                f"{response.host} sends bytes {first}-{last} where {stream.start}-{stream.stop - 1} were asked for"
            )
        promised = int(last) + 1 - int(first)
        _check_length(response, promised, f"{promised} were promised")
        return promised


class _Kept:
    """A place to which the registry redirected, and since when requests to it have waited for their answers."""

    def __init__(self, place: Place) -> None:
        self.place = place
        self._since: list[float] = []

    @property
    def suspicious(self) -> bool:
        """Whether a request has waited for long."""
        return any(time.monotonic() - since > SUSPICIOUS for since in tuple(self._since))

    @contextlib.contextmanager
    def waited_for(self) -> Iterator[None]:
        """While a request waits for its answer."""
        since = time.monotonic()
        self._since.append(since)
        try:
            yield
        finally:
            self._since.remove(since)


class Answer:
    """A response that begins with the bytes asked for, how many it promises, and the address that it came from, where
    that is kept.
    """

    __slots__ = ("kept", "promised", "response")

    def __init__(self, response: Response, promised: int, kept: _Kept | None) -> None:
        self.response = response
        self.promised = promised
        self.kept = kept


class RangeStream:
    """A `ByteStream` of one range. One thread reads; any other may cancel.

    Every length is checked: a body that ends before `stop` raises, so `readinto` returns 0 at `stop` and only there.
    """

    def __init__(self, source: RegistryBlob, access: Access, start: int, stop: int) -> None:
        self.start = start
        self.stop = stop
        self.call = access.client.call()
        self._source = source
        self._left = stop - start
        self._answer: Answer | None = None
        self._silent_since: float | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.call.close()

    @property
    def waited(self) -> float:
        """See `ByteStream`."""
        return self.call.waited

    def waits_within(self, aside: AbstractContextManager[None]) -> None:
        """See `ByteStream`."""
        self.call.aside = aside

    def cancel(self) -> None:
        """From any thread: a blocked or later `readinto` raises Cancelled."""
        self.call.cancel()

    def readinto(self, buffer: memoryview) -> int | None:
        """Fills the start of `buffer`, or is None; raises SourceBusy, SourceGone, SourceLied, Cancelled."""
        answer = self._answer
        try:
            if answer is None:
                answer = self._answer = self._begin()
            return self._receive(answer, buffer[: min(self._left, answer.promised)]) if self._left else 0
        except RegistryError as error:
            raise SourceGone(str(error)) from None
        except SourceError:
            self._source.forget(answer.kept if answer is not None else None)
            raise

    def _begin(self) -> Answer:
        answer = self._source.ask(self)
        answer.response.allow_silence(self._source.patience.seconds / 2)
        return answer

    def _receive(self, answer: Answer, room: memoryview) -> int | None:
        response = answer.response
        if not answer.promised:
            raise SourceBusy(f"{response.host} sends less than it was asked for", retry_after=0.0)
        count = response.readinto(room)
        if count is None:
            self._lulled(answer)
            return None
        if not count:
            got = self.stop - self.start - self._left
            raise SourceLied(f"{response.host} ends its answer after {got} of {got + answer.promised} bytes")
        if self._left == self.stop - self.start:
            self._source.served.add(response.host)
        self._silent_since = None
        self._left -= count
        answer.promised -= count
        if not answer.promised and not response.ends():
            raise SourceLied(f"{response.host} sends more bytes than it promised")
        return count

    def _lulled(self, answer: Answer) -> None:
        now = time.monotonic()
        if self._silent_since is None:
            self._silent_since = now
        elif now - self._silent_since > SUSPICIOUS:
            self._source.forget(answer.kept)


def _check_length(response: Response, expected: int, told: str) -> None:
    if response.announced == expected:
        return
    if response.announced is not None:
        page = words_of(response) if response.web_page else ""
        raise SourceLied(f"{response.host} has {response.announced} bytes where {told}{page}")
    if response.headers.get("Content-Length") is not None:  # its words are not repeated: whose they are nobody knows
        raise SourceLied(f"{response.host} does not say in a number how many bytes it sends")
    if response.web_page:
        raise SourceLied(f"{response.host} does not send the blob{words_of(response)}")
