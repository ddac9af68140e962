"""A blob on disk while it grows: its file, its journal, and what earlier runs and other programs left of it."""

from __future__ import annotations

import contextlib
import errno
import logging
import os
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import cast

from towline.errors import TowlineError
from towline.files.confined import open_file, same_file
from towline.model.digest import Digest
from towline.transfer import disk
from towline.transfer.journal import BLOCK_BYTES, Journal, journaled_bytes
from towline.transfer.protocols import LargeStaging, Staging
from towline.transfer.recovered import Recovered
from towline.transfer.syncing import Lane, Syncing
from towline.transfer.work import Wanted, meaning

WRITEBACK_BYTES = 16 << 20
"""Bytes after which the disk is asked to begin writing them."""

SIGN_SECONDS = 0.5
"""While something moves: between two signs of life for other processes, and two looks whether the place is there."""

_CLOSED = -1

_log = logging.getLogger("towline")


@dataclass(frozen=True, slots=True)
class Found:
    """What is there already: `blocks` by the journal, each with its checksum; `extents` by another program's word."""

    blocks: Recovered
    extents: list[tuple[int, int]]

    @property
    def ranges(self) -> list[tuple[int, int]]:
        """All of it, as half-open ranges; they may touch and overlap."""
        return [*self.extents, *self.blocks.ranges()]


def promised(blob: Wanted) -> int:
    """Bytes that are there at a glance, without the lock: all only where the whole blob is."""
    if blob.staging.is_whole():
        return blob.size
    if blob.size <= BLOCK_BYTES:
        return 0
    staging = cast("LargeStaging", blob.staging)
    return min(journaled_bytes(staging.journal_path, blob.size, blob.digest) + staging.promised(), blob.size - 1)


def journaled(staging: Staging, digest: Digest, size: int) -> int:
    """Bytes of a growing blob that are written, as whoever writes them notes it; of up to a block that is none."""
    if size <= BLOCK_BYTES:
        return 0
    return min(journaled_bytes(cast("LargeStaging", staging).journal_path, size, digest), size - 1)


class GrowingFile:
    """The file in a staging. Writing, reading and signs are safe from threads; the rest is for one at a time, with the
    lock.

    What may wait for the disk longer than a moment, `finish` and `close`, returns at once: it is done by `syncing`, in
    the order in which it was asked for.

    Blobs of up to a block have no journal, and nothing of them is recovered: to fetch them again costs less.
    """

    def __init__(self, staging: LargeStaging, digest: Digest, size: int, *, writeback: bool, syncing: Syncing) -> None:
        self._staging = staging
        self._digest = digest
        self._size = size
        self._large = size > BLOCK_BYTES
        self._writeback = writeback
        self._lane = Lane(syncing)
        self._journal = Journal(staging.journal_path, size, digest)
        self._file = _CLOSED
        self._held = threading.Lock()
        self._released = False
        self._settled = 0
        self._begun = 0
        self._signed = 0.0

    def open(self) -> Found:
        """Opens or makes the file, and tells what of it is to be believed until it is hashed. May wait for the disk
        where the blob is larger than a block. Raises OSError.
        """
        if not self._large:
            self._file = open_file(self._staging.data_path, os.O_TRUNC)
            return Found(Recovered(self._size), [])
        extents = self._staging.leftover()
        self._file = open_file(self._staging.data_path)
        blocks = self._journal.recover()
        if os.fstat(self._file).st_size != self._size:
            os.ftruncate(self._file, self._size)
        return Found(blocks, extents)

    def write(self, block: memoryview, start: int) -> None:
        """Writes a block, of up to `BLOCK_BYTES`, and journals it. Raises OSError."""
        disk.write_all(self._file, block, start)
        if self._large:
            self._journal.append(start, block)
        self._look()

    def read(self, buffer: memoryview, start: int) -> None:
        """Fills the buffer with what was written. Raises OSError."""
        disk.read_all(self._file, buffer, start)

    def hashed(self, start: int, data: memoryview) -> None:
        """The hash has taken these bytes, after all that come before them, and they will stay: has the disk begin with
        them, so that little is left for the end.
        """
        with contextlib.suppress(OSError):  # `finish` tries again
            if self._sign_due():
                self.sign()
        if self._large:
            with contextlib.suppress(OSError):  # `_seal` tries again
                self._journal.passed(start, data)
        self._settled = start + len(data)
        if self._writeback and self._settled - self._begun >= WRITEBACK_BYTES and self._lane.idle:
            self._lane.soon(self._write_back)

    def _write_back(self) -> None:
        start, self._begun = self._begun, self._settled
        disk.start_writeback(self._file, start, self._begun - start)

    def finish(self, then: Callable[[TowlineError | None], None]) -> None:
        """All bytes were hashed and are right: makes them last, and then the whole blob; closes the file and gives the
        place back, and calls `then` with the error if there was one: on a thread of `syncing`, or on this one where
        that has none. What is here stays after an error too, for the next pull to try again.
        """
        self._lane.soon(partial(self._finish, then))

    def _finish(self, then: Callable[[TowlineError | None], None]) -> None:
        error: TowlineError | None = None
        try:
            self.sign()
            if self._large:
                self._seal()
            self._staging.finish(self._file)
        except Exception as caught:  # noqa: BLE001 - see `meaning`
            error = meaning(caught, self._digest)
        self._close(keep=True)
        then(error)

    def _seal(self) -> None:
        try:
            self._journal.seal()
        except OSError as error:  # the blob is as good without
            _log.warning("keeping the checksums of a blob: %s", error)

    def sign(self) -> None:
        """Leaves a sign of life for those who wait for the place. Any number of times, from any thread, also while the
        disk is waited for, and after the end, when it does nothing. Raises OSError where the place was lost.
        """
        with self._held:
            if not self._released:
                self._staging.sign()

    def _sign_due(self) -> bool:
        now = time.monotonic()
        due = now - self._signed >= SIGN_SECONDS
        if due:
            self._signed = now
        return due

    def _look(self) -> None:
        """Whether the place is still there, now and then."""
        if self._sign_due():
            self.sign()
            if not same_file(self._file, self._staging.data_path):
                raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT))

    def forget(self) -> None:
        """Nothing that was written, or left, is to be believed any longer. Raises OSError."""
        self._journal.reset()
        self._staging.forget_leftover()
        self._settled = self._begun = 0
        self._signed = 0.0

    def close(self, then: Callable[[], None] = lambda: None, *, keep: bool) -> None:
        """Closes the file and gives the place back, and calls `then`; without `keep`, what was written is removed. Any
        number of times; the first one counts.
        """
        self._lane.soon(partial(self._close, keep=keep))
        self._lane.soon(then)

    def _close(self, *, keep: bool) -> None:
        with self._held:
            if self._released:
                return
            self._released = True
        try:
            self._journal.close()
            if self._file != _CLOSED:
                os.close(self._file)
        except OSError as error:  # what was written is told by the journal, and believed only when it is read again
            _log.warning("closing a partial download: %s", error)
        finally:
            if self._file != _CLOSED and not keep:
                self._staging.discard()
            self._staging.release()
