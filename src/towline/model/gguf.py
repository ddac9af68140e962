"""The head of a GGUF file: what a model says about itself.

The format is ggml's `docs/gguf.md`: magic, version, counts, then typed key/value pairs, then the tensors' table. Files
come from strangers: whatever the bytes, reading raises ValueError and nothing else (but for the file's own OSError),
and what it holds is bounded by `MAX_KEPT_BYTES`.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from typing import BinaryIO, Final, TypeAlias

MAGIC: Final = b"GGUF"

MAX_PAIRS: Final = 1 << 16
"""Real files have some dozens."""

MAX_KEY_BYTES: Final = (1 << 16) - 1
"""The format's own limit."""

MAX_STRING_BYTES: Final = 1 << 20
"""A longer string is passed over. The longest that matter, chat templates, have some tens of kilobytes."""

MAX_KEPT_BYTES: Final = 128 << 20
"""Of keys and values together, an element of an array counted as `_ELEMENT` more. The largest vocabularies, kept whole
(262,144 tokens with scores and types, 514,906 merges), come to 90 MB.
"""

MAX_WALKED: Final = 1 << 24
"""Elements of unknown size (strings, arrays) that are walked one by one: 1.5 s; vocabularies have under a million."""

MAX_DEPTH: Final = 4
"""Arrays in arrays. No known file nests them at all."""

_SCALARS: Final[Mapping[int, struct.Struct]] = {
    code: struct.Struct("<" + form)
    for code, form in {
        0: "B",
        1: "b",
        2: "H",
        3: "h",
        4: "I",
        5: "i",
        6: "f",
        7: "B",
        10: "Q",
        11: "q",
        12: "d",
    }.items()
}
_BOOL, _STRING, _ARRAY = 7, 8, 9
_U32, _U64 = _SCALARS[4], _SCALARS[10]
_WINDOW: Final = 1 << 16

FILE_TYPES: Final[Mapping[int, str]] = {
    0: "F32",
    1: "F16",
    2: "Q4_0",
    3: "Q4_1",
    7: "Q8_0",
    8: "Q5_0",
    9: "Q5_1",
    10: "Q2_K",
    11: "Q3_K_S",
    12: "Q3_K_M",
    13: "Q3_K_L",
    14: "Q4_K_S",
    15: "Q4_K_M",
    16: "Q5_K_S",
    17: "Q5_K_M",
    18: "Q6_K",
    19: "IQ2_XXS",
    20: "IQ2_XS",
    21: "Q2_K_S",
    22: "IQ3_XS",
    23: "IQ3_XXS",
    24: "IQ1_S",
    25: "IQ4_NL",
    26: "IQ3_S",
    27: "IQ3_M",
    28: "IQ2_S",
    29: "IQ2_M",
    30: "IQ4_XS",
    31: "IQ1_M",
    32: "BF16",
    36: "TQ1_0",
    37: "TQ2_0",
    38: "MXFP4_MOE",
    39: "NVFP4",
    40: "Q1_0",
}
"""`general.file_type` by llama.cpp's `llama_ftype`, under the names that Ollama shows (its `fs/gguf`)."""

# What Python needs for an element of a list, about.
_ELEMENT: Final = 64

# Bytes that the smallest pair takes: key length, an empty key, type, a byte.
_SMALLEST_PAIR: Final = 8 + 4 + 1


@dataclass(frozen=True, slots=True)
class Omitted:
    """A value that is there but was passed over for its length, in elements or bytes."""

    length: int


Value: TypeAlias = "int | float | bool | str | Omitted | list[Value]"


@dataclass(frozen=True, slots=True)
class Gguf:
    """What the head of a file says. `tensors_at` is the offset, in bytes, where the table of tensors begins."""

    version: int
    tensor_count: int
    metadata: Mapping[str, Value]
    tensors_at: int

    @property
    def architecture(self) -> str:
        """`general.architecture`, which is the prefix of the architecture's own keys; `""` where it is missing."""
        value = self.metadata.get("general.architecture")
        return value if isinstance(value, str) else ""

    @property
    def file_type(self) -> str:
        """How the weights are quantized for the most part, by `general.file_type`; `""` where that says nothing."""
        value = self.metadata.get("general.file_type")
        return FILE_TYPES.get(value, "") if isinstance(value, int) else ""

    def own(self, key: str) -> Value | None:
        """The value of `<architecture>.<key>`; None without an architecture."""
        return self.metadata.get(f"{self.architecture}.{key}") if self.architecture else None


def read(file: BinaryIO, *, longest_array: int = 1024) -> Gguf:
    """Reads the metadata of a seekable binary file; its position afterwards is undefined.

    Arrays of more than `longest_array` elements become `Omitted`; of a key that comes twice the last value counts.
    Raises ValueError for a file that is not GGUF of version 2 or later in little-endian order, or that contradicts
    itself. Versions to come are read like version 3, as Ollama reads them.
    """
    return _Reader(file, longest_array).gguf()


def read_until(file: BinaryIO, prefix: str, *, longest_array: int = 1024) -> Gguf:
    """Like `read`, but leaves alone the first key with this prefix, once the architecture is known, and all behind it.

    Writers put a model's own keys before its vocabulary, which is most of the head: half a million strings are not
    walked to learn that a key is missing. `tensors_at` is where it stopped.
    """
    return _Reader(file, longest_array, prefix).gguf()


class _Reader:
    """A cursor over the file with a window of its own: most fields are a few bytes long."""

    def __init__(self, file: BinaryIO, longest_array: int, until: str | None = None) -> None:
        self._file = file
        self._longest_array = longest_array
        self._until = until
        self._size = file.seek(0, os.SEEK_END)
        self._at = 0
        self._window = b""
        self._window_at = 0
        self._kept = 0
        self._walked = 0

    def gguf(self) -> Gguf:
        version = self._version()
        tensor_count, pairs = self._count(_U64), self._count(_U64)
        if pairs > MAX_PAIRS or pairs * _SMALLEST_PAIR > self._size:
            raise ValueError(f"the GGUF file claims {pairs} metadata pairs, more than it can hold")
        if tensor_count > self._size:
            raise ValueError(f"the GGUF file claims {tensor_count} tensors, more than it can hold")
        metadata: dict[str, Value] = {}
        for _ in range(pairs):
            key = self._key()
            if self._until and key.startswith(self._until) and metadata.get("general.architecture"):
                break
            metadata[key] = self._value(self._count(_U32), 0)
        return Gguf(version, tensor_count, metadata, self._at)

    def _version(self) -> int:
        if self._size < 8 or self._take(4) != MAGIC:
            raise ValueError("not a GGUF file")
        version = self._count(_U32)
        if version & 0xFFFF == 0 and version:
            raise ValueError("the GGUF file is big-endian, which no common machine runs")
        if version < 2:
            raise ValueError(f"the GGUF file has version {version}; versions from 2 on can be read")
        return version

    def _key(self) -> str:
        length = self._count(_U64)
        if length > MAX_KEY_BYTES:
            raise ValueError(f"the GGUF file has a metadata key of {length} bytes")
        return self._keep(length).decode("utf-8", "replace")

    def _value(self, kind: int, depth: int) -> Value:
        if kind == _STRING:
            length = self._count(_U64)
            if length > MAX_STRING_BYTES:
                self._skip(length)
                return Omitted(length)
            return self._keep(length).decode("utf-8", "replace")
        if kind == _ARRAY:
            return self._array(depth + 1)
        value = self._number(_scalar(kind))
        return bool(value) if kind == _BOOL else value

    def _array(self, depth: int) -> Value:
        if depth > MAX_DEPTH:
            raise ValueError("the GGUF file nests arrays too deeply")
        kind, count = self._count(_U32), self._count(_U64)
        if count <= self._longest_array:
            self._charge(count * _ELEMENT)
            return [self._value(kind, depth) for _ in range(count)]
        self._skip_elements(kind, count, depth)
        return Omitted(count)

    def _skip_elements(self, kind: int, count: int, depth: int) -> None:
        if kind == _STRING:
            self._walk(count)
            self._skip_strings(count)
        elif kind == _ARRAY:
            self._walk(count)
            for _ in range(count):
                self._array(depth + 1)
        else:
            self._skip(_scalar(kind).size * count)

    def _skip_strings(self, count: int) -> None:
        """Steps over strings. Written out, without a call for each: vocabularies have hundreds of thousands."""
        unpack, window, at = _U64.unpack_from, self._window, self._at - self._window_at
        for _ in range(count):
            if at < 0 or at + 8 > len(window):
                self._at = self._window_at + at
                self._fill(8)
                window, at = self._window, 0
            at += 8 + unpack(window, at)[0]
        self._at = self._window_at + at
        self._skip(0)

    def _walk(self, count: int) -> None:
        self._walked += count
        if self._walked > MAX_WALKED or count > self._size:
            raise ValueError(f"the GGUF file claims an array of {count} elements, more than it can hold")

    def _charge(self, amount: int) -> None:
        self._kept += amount
        if self._kept > MAX_KEPT_BYTES:
            raise ValueError(f"the GGUF file has more than {MAX_KEPT_BYTES >> 20} MiB of metadata")

    def _keep(self, length: int) -> bytes:
        self._charge(length)
        return self._take(length)

    def _count(self, form: struct.Struct) -> int:
        return int(self._number(form))

    def _number(self, form: struct.Struct) -> int | float:
        number: int | float = form.unpack(self._take(form.size))[0]
        return number

    def _skip(self, length: int) -> None:
        self._at += length
        if self._at > self._size:
            raise ValueError("the GGUF file ends within its metadata")

    def _take(self, length: int) -> bytes:
        start = self._at - self._window_at
        if start < 0 or start + length > len(self._window):
            self._fill(length)
            start = 0
        self._at += length
        return self._window[start : start + length]

    def _fill(self, length: int) -> None:
        """Moves the window to the cursor; raises ValueError unless it then holds this many bytes."""
        if self._at + length > self._size:
            raise ValueError("the GGUF file ends within its metadata")
        self._file.seek(self._at)
        self._window, self._window_at = self._file.read(max(length, _WINDOW)), self._at
        if len(self._window) < length:
            raise ValueError("the GGUF file ends within its metadata")


def _scalar(kind: int) -> struct.Struct:
    form = _SCALARS.get(kind)
    if form is None:
        raise ValueError(f"the GGUF file has a value of the unknown type {kind}")
    return form
