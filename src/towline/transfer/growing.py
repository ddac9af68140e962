"""A blob on disk while it grows: its file, its journal, and what earlier runs and other programs left of it."""

from __future__ import annotations

import errno
import logging
import os
import time
from dataclasses import dataclass

from towline.files.confined import open_file
from towline.model.digest import Digest
from towline.transfer import disk
from towline.transfer.journal import BLOCK_BYTES, Block, Journal, journaled_bytes
from towline.transfer.protocols import Staging

WRITEBACK_BYTES = 16 << 20
"""Bytes after which the disk is asked to begin writing them."""

SIGN_SECONDS = 0.5
"""While something moves: between two signs of life for other processes, and two looks whether the place is there."""

_CLOSED = -1

_log = logging.getLogger("towline")


@dataclass(frozen=True, slots=True)
class Found:
    """What is there already: `blocks` by the journal, each with its checksum; `extents` by another program's word."""

    blocks: list[Block]
    extents: list[tuple[int, int]]

    @property
    def ranges(self) -> list[tuple[int, int]]:
        """All of it, as half-open ranges; they may touch and overlap."""
        return [*self.extents, *((block.start, block.stop) for block in self.blocks)]


def promised(staging: Staging, digest: Digest, size: int) -> int:
    """Bytes that are there at a glance, without the lock: all only where the whole blob is."""
    if staging.is_whole():
        return size
    if size <= BLOCK_BYTES:
        return 0
    return min(journaled_bytes(staging.journal_path, size, digest) + staging.promised(), size - 1)


class GrowingFile:
    """The file in a staging. Writing and reading are safe from threads; the rest is for one at a time, with the lock.

    Blobs of up to a block have no journal, and nothing of them is recovered: to fetch them again costs less.
    """

    def __init__(self, staging: Staging, digest: Digest, size: int, *, writeback: bool) -> None:
        self._staging = staging
        self._size = size
        self._large = size > BLOCK_BYTES
        self._writeback = writeback
        self._journal = Journal(staging.journal_path, size, digest)
        self._file = _CLOSED
        self._begun = 0
        self._signed = 0.0

    def open(self) -> Found:
        """Opens or makes the file, and tells what of it is to be believed until it is hashed. Raises OSError."""
        if not self._large:
            self._file = open_file(self._staging.data_path, os.O_TRUNC)
            return Found([], [])
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
        self._sign()

    def read(self, buffer: memoryview, start: int) -> None:
        """Fills the buffer with what was written. Raises OSError."""
        disk.read_all(self._file, buffer, start)

    def settle(self, stop: int) -> None:
        """The bytes before `stop` will stay: has the disk begin with them, so that little is left for the end."""
        self._sign()
        if self._writeback and stop - self._begun >= WRITEBACK_BYTES:
            disk.start_writeback(self._file, self._begun, stop - self._begun)
            self._begun = stop

    def finish(self) -> None:
        """What was written is verified: makes it last, and then the whole blob. Raises StoreError."""
        self._staging.sign()
        self._staging.finish(self._file)

    def _sign(self) -> None:
        now = time.monotonic()
        if now - self._signed >= SIGN_SECONDS:
            self._signed = now
            self._staging.sign()
            if not os.path.samestat(os.fstat(self._file), os.stat(self._staging.data_path)):
                raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT))

    def forget(self) -> None:
        """Nothing that was written, or left, is to be believed any longer. Raises OSError."""
        self._journal.reset()
        self._staging.forget_leftover()
        self._begun = 0
        self._signed = 0.0

    def close(self, *, keep: bool) -> None:
        """Closes the file and gives the place back; without `keep`, what was written is removed. Once."""
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
