"""A blob that may hold other bytes than were verified: it is hashed before anyone calls it present."""

from __future__ import annotations

import errno
import hashlib
import os
from collections.abc import Callable
from typing import Protocol

from towline.errors import StoreError, store_error
from towline.files.regular import Irregular, open_regular
from towline.model.manifest import Descriptor
from towline.store.verified import Stamp, stamp

_STEP = 1 << 20
"""Bytes between two looks at whether anybody still waits: milliseconds."""

_TRIES = 3


class Fetch(Protocol):
    """What fetches the blob where it proved wrong."""

    @property
    def completed(self) -> int:
        """Bytes to show."""


class Recheck:
    """The hashing of a blob of the store, as watchers see it."""

    def __init__(self, blob: Descriptor, path: str) -> None:
        self.blob = blob
        self.stamp: Stamp | None = None
        """What the file was when the last reading of it began; None where there was none to read."""
        self._path = path
        self._shown = 0
        self._fetch: Fetch | None = None

    @property
    def completed(self) -> int:
        """Bytes to show: never falls, and is the blob's size only once its digest is verified."""
        return max(self._shown, self._fetch.completed) if self._fetch is not None else self._shown

    def run(self, check: Callable[[], None]) -> bool:
        """Hashes the file, on this thread; whether it is the blob. `check` is called all the time, and may raise.

        One that is written to meanwhile is hashed again, a few times. Raises StoreError where it cannot be read.
        """
        for _ in range(_TRIES):
            try:
                right, steady = self._read(check)
            except (FileNotFoundError, Irregular):
                self.stamp = None
                return False
            except OSError as error:
                raise _unreadable(error, self.blob) from None
            if right:
                self._shown = self.blob.size
            if right or steady:
                return right
        return False

    def fetch(self, fetch: Fetch) -> None:
        """It is not the blob, which is fetched again: what is shown goes on when that has caught up."""
        self._fetch = fetch

    def _read(self, check: Callable[[], None]) -> tuple[bool, bool]:
        """Whether the bytes are right, and whether the file is the same after as before."""
        buffer = memoryview(bytearray(_STEP))
        hashed, count = hashlib.sha256(), 0
        with open(open_regular(self._path), "rb", buffering=0) as file:
            there = os.fstat(file.fileno())
            self.stamp = stamp(there)
            while count < self.blob.size and (length := file.readinto(buffer)):
                check()
                hashed.update(buffer[:length])
                count += length
                self._shown = max(self._shown, min(count, self.blob.size - 1))
            right = there.st_size == self.blob.size and hashed.hexdigest() == self.blob.digest.hex
            return right, stamp(os.fstat(file.fileno())) == self.stamp


def _unreadable(error: OSError, blob: Descriptor) -> StoreError:
    """A file that cannot be read may be whole, on a disk with a fault: it is not for towline to remove."""
    if error.errno != errno.EIO:
        return store_error(error)
    return StoreError(
        f"the file of {blob.digest.short} in the store cannot be read; check its disk, or remove "
        f"blobs/{blob.digest.file_name} and pull again"
    )
