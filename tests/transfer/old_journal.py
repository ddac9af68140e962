"""A journal as the first towlines wrote it: a header, and a record of 32 bytes for each write."""

from __future__ import annotations

import struct
from collections.abc import Iterable

import xxhash

from towline.model.digest import Digest


def written_records(size: int, digest: Digest, writes: Iterable[tuple[int, memoryview | bytes]]) -> bytes:
    """The file after these writes: where each began, and its bytes."""
    header = struct.pack("<8sQ32s", b"towline\x01", size, bytes.fromhex(digest.hex))
    return _checked(header) + b"".join(
        _checked(struct.pack("<QIIQ", start, len(data), 0, xxhash.xxh3_64_intdigest(data))) for start, data in writes
    )


def _checked(fields: bytes) -> bytes:
    return fields + struct.pack("<Q", xxhash.xxh3_64_intdigest(fields))
