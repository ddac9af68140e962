"""A journal as towlines before wrote it: a record of 32 bytes for each write, appended. Read once, and never written.

header   magic, the blob's size, its digest, xxh3 of these
record   start (u64), length (u32), flags (u32), xxh3 of the block's bytes (u64), xxh3 of the record (u64)
"""

from __future__ import annotations

import struct
from collections.abc import Iterator

import xxhash

from towline.model.checksums import BLOCK_BYTES, KNOWN_AT, identity, known
from towline.model.digest import Digest
from towline.transfer.recovered import Block

_MAGIC = b"towline\x01"
_RECORD = struct.Struct("<QIIQQ")
_BODY_BYTES = _RECORD.size - 8


def are_in(raw: bytes, size: int, digest: Digest) -> bool:
    """Whether this is the beginning of such a journal, of this blob."""
    return raw[:KNOWN_AT] == identity(size, digest, _MAGIC)


def recorded(raw: bytes, size: int) -> Iterator[Block]:
    """What the records of a journal tell, the later last; a torn or a lost one costs only itself."""
    stop = len(raw) - (len(raw) - KNOWN_AT) % _RECORD.size
    for at in range(KNOWN_AT, stop, _RECORD.size):
        start, length, flags, checksum, check = _RECORD.unpack_from(raw, at)
        good = check == xxhash.xxh3_64_intdigest(raw[at : at + _BODY_BYTES])
        if good and flags == 0 and 0 < length <= BLOCK_BYTES and start + length <= size:
            yield Block(start, length, known(checksum))


def recorded_bytes(raw: bytes) -> int:
    """How many bytes they tell of, at a glance: the lengths, without a look at anything else."""
    whole = len(raw) - (len(raw) - KNOWN_AT) % _RECORD.size
    return sum(length for _, length, _, _, _ in _RECORD.iter_unpack(memoryview(raw)[KNOWN_AT:whole]))
