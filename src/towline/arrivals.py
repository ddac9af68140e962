"""The blobs that a pull awaits.

Each that is whole is held fast at once, by the thread that made it so: for thousands of small ones, to hand each to the
pull's own thread costs as much as to fetch it.
"""

from __future__ import annotations

import threading
from collections.abc import Collection, Mapping
from functools import partial
from types import TracebackType
from typing import Self

from towline.errors import TowlineError
from towline.model.digest import Digest
from towline.model.manifest import Descriptor
from towline.patience import Pulse
from towline.store.publication import Publication
from towline.transfer.blob import BlobTransfer
from towline.transfer.pool import Handle
from towline.transfer.work import meaning


class Arrivals:
    """A context manager; nothing is held fast after its end. `wake` is set when all have come, or one failed. `active`
    are the transfers of all pulls whose turn has come.
    """

    def __init__(
        self,
        awaited: Mapping[Descriptor, Handle],
        publication: Publication,
        wake: threading.Event,
        active: Collection[BlobTransfer],
    ) -> None:
        self.transfers: Mapping[Digest, BlobTransfer] = {blob.digest: each.transfer for blob, each in awaited.items()}
        self.found: Mapping[Digest, int] = {blob.digest: each.found for blob, each in awaited.items()}
        """Bytes of each that were on disk at the beginning."""
        self.error: TowlineError | None = None
        """Of the first that failed."""
        self._awaited = awaited
        self._active = active
        self._left = len(awaited)
        self._publication = publication
        self._wake = wake
        self._lock = threading.Lock()
        self._closed = False

    @property
    def _under_way(self) -> list[BlobTransfer]:
        """Those whose turn has come."""
        return [each for each in list(self._active) if self.transfers.get(each.digest) is each]

    def __enter__(self) -> Self:
        for blob, handle in self._awaited.items():
            handle.transfer.listen(partial(self._note, blob, handle.transfer))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with self._lock:
            self._closed = True

    @property
    def over(self) -> bool:
        """Whether all have come, or one failed."""
        return not self._left or self.error is not None

    def pulse(self) -> Pulse:
        """What all of them do, at a glance. To be called by one thread."""
        pulses = [transfer.pulse() for transfer in self._under_way]
        return Pulse(
            sum(pulse.received for pulse in pulses),
            sum(pulse.stirred for pulse in pulses),
            waits=any(pulse.waits for pulse in pulses),
            rests=any(pulse.rests for pulse in pulses),
        )

    @property
    def trouble(self) -> str:
        """What the first of them waits for that waits for a source, for a sentence."""
        under_way = self._under_way or [each for each in self.transfers.values() if not each.concluded]
        waits = next((each for each in under_way if each.pulse().waits), under_way[0] if under_way else None)
        return waits.trouble if waits is not None else "nothing is left to wait for"

    def _note(self, blob: Descriptor, transfer: BlobTransfer) -> None:
        """The transfer of the blob is over. On any thread."""
        with self._lock:
            if self._closed:
                return
            error = transfer.error or self._hold(blob)
            self.error = self.error or error
            self._left -= 1
        if self.over:
            self._wake.set()

    def _hold(self, blob: Descriptor) -> TowlineError | None:
        try:
            self._publication.fetched(blob)
        except Exception as error:  # noqa: BLE001 - see `meaning`
            return meaning(error, blob.digest)
        return None
