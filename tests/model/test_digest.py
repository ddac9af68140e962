"""Content addresses."""

from __future__ import annotations

import hashlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from towline.model.digest import Digest

HEX = "0123456789abcdef" * 4


def test_a_digest_reads_back_from_its_text() -> None:
    digest = Digest(HEX)
    assert Digest.parse(str(digest)) == digest


def test_its_file_is_named_as_ollama_names_it() -> None:
    assert Digest(HEX).file_name == f"sha256-{HEX}"


def test_its_short_form_is_the_first_twelve_hex_digits() -> None:
    assert Digest(HEX).short == HEX[:12]


@given(st.binary())
def test_the_digest_of_bytes_is_their_sha256(data: bytes) -> None:
    assert Digest.of(data).hex == hashlib.sha256(data).hexdigest()


@pytest.mark.parametrize(
    "text",
    [
        "",
        HEX,
        "sha256:",
        f"sha256:{HEX[:-1]}",
        f"sha256:{HEX}0",
        f"sha256:{HEX.upper()}",
        f"sha256:{HEX}\n",
        f"sha256-{HEX}",
        f"SHA256:{HEX}",
        f"sha512:{HEX}{HEX}",
        f"sha256:../../../../etc/{HEX}",
        f"sha256:{'../' * 21}a",
        f"sha256::{HEX[:-1]}",
        f"sha256:{'٣' * 64}",
        f" sha256:{HEX}",
    ],
)
def test_anything_else_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="not a sha256 digest"):
        Digest.parse(text)


@given(st.text())
def test_any_text_is_a_digest_or_raises_value_error_and_nothing_else(text: str) -> None:
    for read in (Digest.parse, Digest):
        try:
            digest = read(text)
        except ValueError:
            continue
        assert digest.hex in text
