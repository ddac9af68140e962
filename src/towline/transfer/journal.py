"""What of a growing file is to be believed, block by block, written beside it as the blocks are.

The file is a header and records of 32 bytes each, so that a torn or missing one costs only itself:

    header   magic, version, the blob's size, its digest, xxh3 of these
    record   start (u64), length (u32), flags (u32), xxh3 of the block's bytes (u64), xxh3 of the record (u64)

A record is appended after its block was written and neither is waited for: after a power cut any of them may be lost
or torn. The record's own checksum finds a bad record; the block's checksum finds bad bytes under a good one, when the
front of the hash reaches them. SHA-256 alone decides whether a blob is right.
"""

from __future__ import annotations

import contextlib
import errno
import os
import struct
import threading
from bisect import bisect_left, insort
from collections.abc import Iterable
from dataclasses import dataclass

import xxhash

from towline.files.confined import AnyPath, open_file, unlink
from towline.files.regular import open_unlinked
from towline.model.digest import Digest

BLOCK_BYTES = 1 << 20
"""The largest block, and the usual one: what is lost at most when a connection's last bytes were not written."""

_MAGIC = b"towline\x01"
_HEADER = struct.Struct("<8sQ32sQ")
_RECORD = struct.Struct("<QIIQQ")
_BODY = struct.Struct("<QIIQ")
_MAX_RECORDS = 1 << 24


@dataclass(frozen=True, slots=True, order=True)
class Block:
    """Bytes [start, start + length) of the file, and the xxh3 that they had when they were written."""

    start: int
    length: int
    checksum: int

    @property
    def stop(self) -> int:
        """The first byte after it."""
        return self.start + self.length

    def matches(self, data: memoryview | bytes) -> bool:
        """Whether these are the bytes that were written."""
        return len(data) == self.length and checksum(data) == self.checksum


def checksum(data: memoryview | bytes) -> int:
    """xxh3, 64 bits: 0.04 s a GB, where CRC-32 takes 0.24."""
    return xxhash.xxh3_64_intdigest(data)


def _header(size: int, digest: Digest) -> bytes:
    known = _HEADER.pack(_MAGIC, size, bytes.fromhex(digest.hex), 0)[:-8]
    return known + checksum(known).to_bytes(8, "little")


class Journal:
    """The journal of one growing file. Appending is safe from threads; opening needs the staging's lock."""

    def __init__(self, path: AnyPath, size: int, digest: Digest) -> None:
        self._path = path
        self._header = _header(size, digest)
        self._size = size
        self._lock = threading.Lock()
        self._file: int | None = None

    def recover(self) -> list[Block]:
        """The blocks that were written before, in order, without overlaps: none where there is no journal.

        Where blocks overlap the later one counts, and the earlier is left out whole. A journal of something else, or
        one that cannot be read, counts as none and is begun anew.
        """
        blocks = read(self._path, self._header, self._size)
        if blocks is None:
            self.reset()
        return blocks or []

    def append(self, start: int, data: memoryview) -> None:
        """Notes a block that was just written. Raises OSError."""
        body = _BODY.pack(start, len(data), 0, checksum(data))
        record = body + checksum(body).to_bytes(8, "little")
        with self._lock:
            if self._file is None:
                self._file = self._open()
            written = os.write(self._file, record)
            if written != len(record):
                os.ftruncate(self._file, os.fstat(self._file).st_size - written)
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    def reset(self) -> None:
        """Forgets every block."""
        self.close()
        with contextlib.suppress(FileNotFoundError):
            unlink(self._path)

    def close(self) -> None:
        """Any number of times."""
        if self._file is not None:
            os.close(self._file)
            self._file = None

    def _open(self) -> int:
        file = open_file(self._path, os.O_APPEND)
        try:
            size = os.fstat(file).st_size
            if size == 0:
                if os.write(file, self._header) != len(self._header):
                    os.ftruncate(file, 0)
                    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            elif (torn := (size - _HEADER.size) % _RECORD.size) != 0:
                # The records after a torn one are found again only where they start at a whole multiple.
                os.ftruncate(file, size - torn)
        except BaseException:
            os.close(file)
            raise
        return file


def read(path: AnyPath, header: bytes, size: int) -> list[Block] | None:
    """The blocks of a journal with this header; None where there is no such journal."""
    try:
        with open(open_unlinked(path), "rb") as file:
            if file.read(_HEADER.size) != header:
                return None
            raw = file.read(_MAX_RECORDS * _RECORD.size)
    except OSError:
        return None
    return _settled(_valid(raw, size))


def journaled_bytes(path: AnyPath, size: int, digest: Digest) -> int:
    """How many bytes the journal of another process says are on disk: for showing, no more."""
    return sum(block.length for block in read(path, _header(size, digest), size) or ())


class Follower:
    """How much another process's journal tells of, read as it grows: for showing, no more."""

    def __init__(self, path: AnyPath, size: int, digest: Digest) -> None:
        self._path = path
        self._size = size
        self._header = _header(size, digest)
        self._read_to = 0
        self._told = 0

    def bytes(self) -> int:
        """Of the blob, on disk by the journal's word; 0 where there is none."""
        try:
            with open(open_unlinked(self._path), "rb") as file:
                if os.fstat(file.fileno()).st_size < self._read_to:
                    self._read_to = self._told = 0
                if not self._read_to:
                    if file.read(_HEADER.size) != self._header:
                        return 0
                    self._read_to = _HEADER.size
                file.seek(self._read_to)
                raw = file.read(_MAX_RECORDS * _RECORD.size)
        except OSError:
            return 0
        whole = raw[: len(raw) - len(raw) % _RECORD.size]
        self._read_to += len(whole)
        self._told += sum(block.length for block in _valid(whole, self._size))
        return min(self._told, self._size)


def _valid(raw: bytes, size: int) -> Iterable[Block]:
    for at in range(0, len(raw) - _RECORD.size + 1, _RECORD.size):
        start, length, flags, block_sum, record_sum = _RECORD.unpack_from(raw, at)
        good = record_sum == checksum(raw[at : at + _BODY.size])
        if good and flags == 0 and 0 < length <= BLOCK_BYTES and start + length <= size:
            yield Block(start, length, block_sum)


def _settled(blocks: Iterable[Block]) -> list[Block]:
    settled: list[Block] = []
    for block in blocks:
        at = bisect_left(settled, block.start, key=lambda other: other.stop - 1)
        while at < len(settled) and settled[at].start < block.stop:
            del settled[at]
        insort(settled, block)
    return settled
