"""The head of a GGUF file."""

from __future__ import annotations

import contextlib
import io
import struct
import time
import tracemalloc
from pathlib import Path
from typing import Any

import gguf as peer
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.model.ggufs import gguf_bytes, head, text, value
from towline.model import gguf
from towline.model.gguf import Omitted, read, read_until


def read_bytes(data: bytes, **options: Any) -> gguf.Gguf:
    return read(io.BytesIO(data), **options)


def test_every_kind_of_value_is_read() -> None:
    scalars = {
        "u8": (struct.pack("<IB", 0, 255), 255),
        "i8": (struct.pack("<Ib", 1, -1), -1),
        "u16": (struct.pack("<IH", 2, 65535), 65535),
        "i16": (struct.pack("<Ih", 3, -2), -2),
        "u32": (struct.pack("<II", 4, 1 << 31), 1 << 31),
        "i32": (struct.pack("<Ii", 5, -3), -3),
        "f32": (struct.pack("<If", 6, 0.5), 0.5),
        "bool": (struct.pack("<IB", 7, 1), True),
        "string": (value("Grüße"), "Grüße"),
        "array": (value([1, 2, 3]), [1, 2, 3]),
        "u64": (struct.pack("<IQ", 10, (1 << 64) - 1), (1 << 64) - 1),
        "i64": (struct.pack("<Iq", 11, -4), -4),
        "f64": (struct.pack("<Id", 12, 1e300), 1e300),
        "strings": (value(["a", "", "c"]), ["a", "", "c"]),
        "nested": (value([[1], [2, 3]]), [[1], [2, 3]]),
    }
    found = read_bytes(gguf_bytes({key: data for key, (data, _) in scalars.items()}, tensors=7))
    assert found.metadata == {key: expected for key, (_, expected) in scalars.items()}
    assert found.metadata["bool"] is True
    assert (found.version, found.tensor_count) == (3, 7)


def test_the_table_of_tensors_begins_where_the_metadata_end() -> None:
    data = gguf_bytes({"a": ["x"] * 2000, "b": 1})
    assert read_bytes(data).tensors_at == len(data) - 64


def test_the_architectures_own_keys_are_found() -> None:
    found = read_bytes(gguf_bytes({"general.architecture": "llama", "llama.context_length": 8192}, version=2))
    assert (found.architecture, found.own("context_length"), found.own("x")) == ("llama", 8192, None)


def test_without_an_architecture_there_is_none() -> None:
    assert read_bytes(gguf_bytes({"general.architecture": 4})).architecture == ""


def test_long_values_are_passed_over() -> None:
    metadata = {
        "strings": [f"token {number}" for number in range(50_000)],
        "numbers": list(range(50_000)),
        "long": "x" * (2 << 20),
        "nested": [[number] for number in range(2000)],
        "after": "here",
    }
    found = read_bytes(gguf_bytes(metadata)).metadata
    assert found == {
        "strings": Omitted(50_000),
        "numbers": Omitted(50_000),
        "long": Omitted(2 << 20),
        "nested": Omitted(2000),
        "after": "here",
    }


def test_long_arrays_are_kept_on_request() -> None:
    tokens = [f"token {number}" for number in range(5000)]
    assert read_bytes(gguf_bytes({"tokens": tokens}), longest_array=5000).metadata["tokens"] == tokens


def test_a_whole_vocabulary_is_passed_over_quickly() -> None:
    data = gguf_bytes({"tokens": struct.pack("<IIQ", 9, 8, 500_000) + text("Ġtoken") * 500_000, "after": 1})
    started = time.perf_counter()
    assert read_bytes(data).metadata["after"] == 1
    assert time.perf_counter() - started < 2


def test_strings_larger_than_the_window_are_passed_over() -> None:
    assert read_bytes(gguf_bytes({"big": ["x" * 200_000] * 1025, "after": 1})).metadata["after"] == 1


def test_a_file_of_the_reference_writer_reads_the_same(tmp_path: Path) -> None:
    path = tmp_path / "model.gguf"
    writer = peer.GGUFWriter(path, "llama")
    writer.add_context_length(8192)
    writer.add_embedding_length(576)
    writer.add_rope_freq_base(100_000.0)
    writer.add_tokenizer_model("gpt2")
    writer.add_token_list(["<s>", "</s>", "a"])
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.close()
    with path.open("rb") as file:
        found = read(file)
    assert found.own("context_length") == 8192
    assert found.own("rope.freq_base") == 100_000.0
    assert found.metadata["tokenizer.ggml.tokens"] == ["<s>", "</s>", "a"]


def test_of_a_key_that_comes_twice_the_last_value_counts() -> None:
    assert read_bytes(head(2) + text("a") + value(1) + text("a") + value(2)).metadata == {"a": 2}


def test_a_version_to_come_is_read_like_the_last_one() -> None:
    assert read_bytes(gguf_bytes({"a": 1}, version=9)).metadata == {"a": 1}


def test_what_follows_a_prefix_is_left_alone_once_the_architecture_is_known() -> None:
    pairs = {"tokenizer.first": 1, "general.architecture": "llama", "llama.a": 2, "tokenizer.x": 3, "llama.b": 4}
    whole = gguf_bytes(pairs)
    cut = whole[: whole.index(b"tokenizer.x") + 11]
    found = read_until(io.BytesIO(cut), "tokenizer.").metadata
    assert found == {"tokenizer.first": 1, "general.architecture": "llama", "llama.a": 2}


@pytest.mark.parametrize(
    ("data", "told"),
    [
        (b"", "not a GGUF file"),
        (b"GGUF", "not a GGUF file"),
        (b"GGML" + bytes(100), "not a GGUF file"),
        (b"<html>not a model at all</html>", "not a GGUF file"),
        (head(0, version=1), "version 1"),
        (head(0, version=0), "version 0"),
        (head(0, order=">"), "big-endian"),
        (head(0, version=2, order=">"), "big-endian"),
        (b"GGUF\x03\x00\x00\x00", "ends within"),
        (head(1 << 63), "metadata pairs"),
        (head(70_000) + bytes(1_000_000), "metadata pairs"),
        (head(5), "metadata pairs"),
        (head(0, tensors=1 << 60), "tensors"),
        (head(1) + struct.pack("<Q", 1 << 62) + bytes(64), "key of"),
        (head(1) + struct.pack("<Q", 60_000) + bytes(64), "ends within"),
        (head(1) + text("a") + struct.pack("<I", 13) + bytes(64), "unknown type 13"),
        (head(1) + text("a") + struct.pack("<IQ", 8, (1 << 64) - 1) + bytes(64), "ends within"),
        (head(1) + text("a") + struct.pack("<IIQ", 9, 4, (1 << 64) - 1) + bytes(64), "ends within"),
        (head(1) + text("a") + struct.pack("<IIQ", 9, 8, (1 << 64) - 1) + bytes(64), "more than it can hold"),
        (head(1) + text("a") + struct.pack("<IIQ", 9, 8, 1 << 24) + bytes(64), "more than it can hold"),
        (head(1) + text("a") + struct.pack("<IIQQ", 9, 8, 2000, (1 << 64) - 1) + bytes(4000), "ends within"),
        (head(1) + text("a") + (struct.pack("<I", 9) + struct.pack("<IQ", 9, 1) * 50_000), "nests arrays"),
    ],
)  # fmt: skip
def test_a_file_that_contradicts_itself_is_refused(data: bytes, told: str) -> None:
    with pytest.raises(ValueError, match=told):
        read_bytes(data)


@given(st.integers(0, 400))
def test_every_truncation_is_noticed(length: int) -> None:
    whole = gguf_bytes({"general.architecture": "llama", "list": ["a", "bc"], "n": 1, "long": ["x"] * 10})
    whole = whole[: len(whole) - 64]
    cut = whole[: min(length, len(whole) - 1)]
    with pytest.raises(ValueError, match="GGUF"):
        read_bytes(cut, longest_array=5)


@given(st.data())
def test_flipped_bytes_raise_value_errors_alone(data: st.DataObject) -> None:
    whole = bytearray(gguf_bytes({"general.architecture": "llama", "list": ["a", "bc"], "n": 1, "s": [[1], [2]]}))
    for _ in range(data.draw(st.integers(1, 4))):
        whole[data.draw(st.integers(4, len(whole) - 1))] = data.draw(st.integers(0, 255))
    with contextlib.suppress(ValueError):
        read_bytes(bytes(whole), longest_array=1)


@given(st.binary(max_size=200))
def test_random_bytes_raise_value_errors_alone(tail: bytes) -> None:
    with contextlib.suppress(ValueError):
        read_bytes(b"GGUF\x03\x00\x00\x00" + tail)


def test_a_file_that_is_all_small_arrays_does_not_take_all_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gguf, "MAX_KEPT_BYTES", 1 << 20)
    inner = struct.pack("<IQ", 4, 1000) + bytes(4000)
    data = head(1) + text("a") + struct.pack("<IIQ", 9, 9, 1000) + inner * 1000
    tracemalloc.start()
    try:
        with pytest.raises(ValueError, match="metadata"):
            read_bytes(data)
        assert tracemalloc.get_traced_memory()[1] < 2 << 20
    finally:
        tracemalloc.stop()
