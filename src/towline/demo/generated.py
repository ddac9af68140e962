"""A generated model file: a real GGUF with made-up weights, for a pull without a download from afar."""

from __future__ import annotations

import random
import struct
from pathlib import Path
from typing import BinaryIO

EMBEDDING = 64
CONTEXT = 2048

_ALIGNMENT = 32
_ROW = EMBEDDING * 4
_STEP = 1 << 20
_TOKENS = ("<unk>", "<s>", "</s>", "tow", "line", "rope", "hook", "boat")

# Value types of the format: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md
_UINT32, _FLOAT32, _STRING, _ARRAY, _UINT64 = 4, 6, 8, 9, 10
_F32 = 0


def write_gguf(target: Path | BinaryIO, *, size: int, seed: int = 0, name: str = "towline generated") -> None:
    """Writes a GGUF file, version 3, little endian, of exactly `size` bytes; like arguments give like bytes.

    It describes a llama of one embedding and one norm (F32), as large as fits. `target`, if it is open already,
    stays open. Raises ValueError for a size below about 1.4 KB, its header and two rows.
    """
    if isinstance(target, Path):
        with target.open("wb") as file:
            write_gguf(file, size=size, seed=seed, name=name)
        return
    rows = (size - len(_head(name, 0))) // _ROW - 1
    if rows < 1:
        raise ValueError(f"a generated GGUF takes at least {len(_head(name, 0)) + 2 * _ROW} bytes")
    head = _head(name, rows)
    target.write(head)
    noise = random.Random(seed)  # noqa: S311 - weights, not secrets
    for start in range(len(head), size, _STEP):
        target.write(noise.randbytes(min(_STEP, size - start)))


def _head(name: str, rows: int) -> bytes:
    """Everything before the tensors' data; its length depends on `name` alone."""
    values = [
        _text("general.architecture", "llama"),
        _text("general.name", name),
        _number("general.file_type", _F32),
        _number("general.alignment", _ALIGNMENT),
        _key("general.parameter_count", _UINT64) + struct.pack("<Q", (rows + 1) * EMBEDDING),
        _number("llama.context_length", CONTEXT),
        _number("llama.embedding_length", EMBEDDING),
        _number("llama.block_count", 0),
        _number("llama.feed_forward_length", 4 * EMBEDDING),
        _number("llama.attention.head_count", 4),
        _number("llama.attention.head_count_kv", 4),
        _number("llama.rope.dimension_count", EMBEDDING // 4),
        _key("llama.attention.layer_norm_rms_epsilon", _FLOAT32) + struct.pack("<f", 1e-5),
        _text("tokenizer.ggml.model", "llama"),
        _array("tokenizer.ggml.tokens", _STRING, b"".join(map(_string, _TOKENS))),
        _array("tokenizer.ggml.scores", _FLOAT32, struct.pack(f"<{len(_TOKENS)}f", *range(len(_TOKENS)))),
    ]
    tensors = [
        _tensor("output_norm.weight", (EMBEDDING,), offset=0),
        _tensor("token_embd.weight", (EMBEDDING, rows), offset=_ROW),
    ]
    counts = struct.pack("<4sIQQ", b"GGUF", 3, len(tensors), len(values))
    head = counts + b"".join(values) + b"".join(tensors)
    return head + bytes(-len(head) % _ALIGNMENT)


def _string(text: str) -> bytes:
    data = text.encode()
    return struct.pack("<Q", len(data)) + data


def _key(key: str, kind: int) -> bytes:
    return _string(key) + struct.pack("<I", kind)


def _text(key: str, value: str) -> bytes:
    return _key(key, _STRING) + _string(value)


def _number(key: str, value: int) -> bytes:
    return _key(key, _UINT32) + struct.pack("<I", value)


def _array(key: str, kind: int, items: bytes) -> bytes:
    return _key(key, _ARRAY) + struct.pack("<IQ", kind, len(_TOKENS)) + items


def _tensor(name: str, shape: tuple[int, ...], *, offset: int) -> bytes:
    return _string(name) + struct.pack(f"<I{len(shape)}QIQ", len(shape), *shape, _F32, offset)
