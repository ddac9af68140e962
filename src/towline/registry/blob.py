"""One blob as one endpoint has it: a source of ranges."""

from __future__ import annotations

import re
import threading
from types import TracebackType
from typing import Self

from towline.errors import RegistryError, SourceBusy, SourceGone, SourceLied
from towline.model.manifest import Descriptor
from towline.registry.access import Access, Asking, check_status
from towline.registry.endpoints import Endpoint
from towline.registry.response import Response

SILENCE = 5.0
"""Seconds without a byte in the middle of a body after which the connection is given up: another goes on from there.
To begin an answer, a registry that has to fetch it elsewhere first gets longer."""

_CONTENT_RANGE = re.compile(r"bytes (\d{1,18})-(\d{1,18})/(\d{1,18}|\*)\Z")


class RegistryBlob:
    """A `BlobSource`: ranges of one blob from one endpoint, which may redirect to a host with a signed address.

    The address is kept until it is refused, then asked for again: such signatures expire in the middle of a download.
    """

    def __init__(self, access: Access, endpoint: Endpoint, repository: str, blob: Descriptor, timeout: float) -> None:
        self.name = endpoint.shown
        self.ranged = True
        self._access = access
        self._endpoint = endpoint
        self._repository = repository
        self._blob = blob
        self._timeout = timeout
        self._lock = threading.Lock()
        self._address: str | None = None

    def __str__(self) -> str:
        return self.name

    def __eq__(self, other: object) -> bool:
        return isinstance(other, RegistryBlob) and self._place == other._place

    def __hash__(self) -> int:
        return hash(self._place)

    @property
    def _place(self) -> tuple[Endpoint, str, Descriptor]:
        return self._endpoint, self._repository, self._blob

    def open(self, start: int, stop: int) -> RangeStream:
        """A stream of the bytes [start, stop); nothing is asked before its first `readinto`."""
        return RangeStream(self, start, stop)

    @property
    def _url(self) -> str:
        return self._endpoint.url(self._repository, "blobs", str(self._blob.digest))

    def _request(self, stream: RangeStream) -> Response:
        headers = {"Range": f"bytes={stream.start}-{stream.stop - 1}", "Accept-Encoding": "identity"}
        asking = Asking(stream.call, self._endpoint, self._repository, headers, self._timeout)
        return self._checked(self._from_kept_address(asking) or self._from_registry(asking))

    def _from_kept_address(self, asking: Asking) -> Response | None:
        """None where no address is kept, or it has expired."""
        with self._lock:
            address = self._address
        if address is None:
            return None
        response = self._access.follow(asking, address, after=self._url)
        if response.status not in (400, 401, 403, 404, 410) and response.redirect is None:
            return response
        with self._lock:
            if self._address == address:
                self._address = None
        return None

    def _from_registry(self, asking: Asking) -> Response:
        """A host that refuses an address just signed is asked once more: signatures can be that short-lived."""
        landing = self._access.get(asking, self._url)
        if landing.url != self._url and landing.response.status in (403, 404):
            landing = self._access.get(asking, self._url)
        if landing.url != self._url and landing.response.status in (200, 206):
            with self._lock:
                self._address = landing.url
        return landing.response

    def _checked(self, response: Response) -> Response:
        check_status(response, f"blob {self._blob.digest.short}")
        return response


class RangeStream:
    """A `ByteStream` of one range. One thread reads; any other may cancel.

    Every length is checked: a body that ends before `stop` raises, so `readinto` returns 0 at `stop` and only there.
    """

    def __init__(self, blob: RegistryBlob, start: int, stop: int) -> None:
        self.start = start
        self.stop = stop
        self.call = blob._access.client.call()
        self._source = blob
        self._left = stop - start
        self._response: Response | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.call.close()

    def cancel(self) -> None:
        """From any thread: a blocked or later `readinto` raises Cancelled."""
        self.call.cancel()

    def readinto(self, buffer: memoryview) -> int | None:
        """Fills the start of `buffer`, or is None; raises SourceBusy, SourceGone, SourceLied, Cancelled."""
        try:
            if self._response is None:
                self._response = self._begin()
                self._response.be_patient(SILENCE)
            if self._left == 0:
                return 0
            count = self._response.readinto(buffer[: self._left])
        except RegistryError as error:
            raise SourceGone(str(error)) from None
        if count is None:
            return None
        if count == 0:
            raise SourceBusy(f"the connection to {self._response.host} was lost")
        self._left -= count
        return count

    def _begin(self) -> Response:
        response = self._source._request(self)
        if response.headers.get("Content-Encoding", "identity").lower() not in ("", "identity"):
            raise SourceLied(f"{response.host} sends the blob compressed, which was not asked for")
        if response.status == 200:
            self._check_length(response, self._source._blob.size)
            if self.start == 0:
                return response
            self._source.ranged = False
            raise SourceBusy(f"{response.host} ignores ranges", retry_after=0.0)
        match = _CONTENT_RANGE.match(response.headers.get("Content-Range", "").strip())
        if match is None:
            raise SourceLied(f"{response.host} does not say which bytes it sends")
        first, last, total = match.groups()
        if total not in ("*", str(self._source._blob.size)):
            raise SourceLied(f"{response.host} has {total} bytes where the manifest promises {self._source._blob.size}")
        if int(first) != self.start or int(last) >= self.stop:
            raise SourceLied(
                f"{response.host} sends bytes {first}-{last} where {self.start}-{self.stop - 1} were asked for"
            )
        self._check_length(response, int(last) + 1 - int(first))
        return response

    def _check_length(self, response: Response, expected: int) -> None:
        length = response.headers.get("Content-Length")
        if length is not None and length.strip() != str(expected):
            raise SourceLied(f"{response.host} has {length[:20]!a} bytes where {expected} were promised")
