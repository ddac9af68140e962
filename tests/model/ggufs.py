"""GGUF files made byte by byte, so that they can be wrong in any place."""

from __future__ import annotations

import struct
from collections.abc import Mapping
from typing import Any


def text(value: str | bytes) -> bytes:
    """A string with its length."""
    data = value.encode() if isinstance(value, str) else value
    return struct.pack("<Q", len(data)) + data


def value(of: Any) -> bytes:
    """A value with its type: int as uint32 (int64 if it does not fit), float as float64; bytes as they are."""
    if isinstance(of, bytes):
        return of
    if isinstance(of, bool):
        return struct.pack("<IB", 7, of)
    if isinstance(of, int):
        return struct.pack("<II", 4, of) if 0 <= of < 1 << 32 else struct.pack("<Iq", 11, of)
    if isinstance(of, float):
        return struct.pack("<Id", 12, of)
    if isinstance(of, str):
        return struct.pack("<I", 8) + text(of)
    parts = [value(element) for element in of]
    kind = parts[0][:4] if parts else struct.pack("<I", 4)
    return struct.pack("<I", 9) + kind + struct.pack("<Q", len(parts)) + b"".join(part[4:] for part in parts)


def head(pairs: int, *, version: int = 3, tensors: int = 0, order: str = "<") -> bytes:
    """Everything in front of the pairs."""
    return b"GGUF" + struct.pack(f"{order}IQQ", version, tensors, pairs)


def gguf_bytes(metadata: Mapping[str, Any], *, version: int = 3, tensors: int = 0) -> bytes:
    """A file of metadata alone."""
    pairs = b"".join(text(key) + value(of) for key, of in metadata.items())
    return head(len(metadata), version=version, tensors=tensors) + pairs + bytes(64)
