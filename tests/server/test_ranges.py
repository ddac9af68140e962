"""The `Range` header, decided on values."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from towline.server.ranges import Span, Unsatisfiable, select


@pytest.mark.parametrize(
    ("header", "span"),
    [
        ("bytes=0-0", Span(0, 1)),
        ("bytes=0-99", Span(0, 100)),
        ("bytes=10-19", Span(10, 20)),
        ("bytes=10-", Span(10, 100)),
        ("bytes=99-", Span(99, 100)),
        ("bytes=0-100000000000000000000000", Span(0, 100)),
        ("bytes=-1", Span(99, 100)),
        ("bytes=-100", Span(0, 100)),
        ("bytes=-500", Span(0, 100)),
        ("Bytes= 5-6 ", Span(5, 7)),
    ],
)
def test_one_range_is_served(header: str, span: Span) -> None:
    assert select(header, 100) == span


@pytest.mark.parametrize(
    "header",
    [None, "", "bytes=-", "bytes=", "bytes=5-4", "bytes=a-b", "bytes=0-1,4-5", "items=0-1", "bytes 0-1", "bytes=0-1x",
     "bytes=" + "9" * 5000 + "-", "bytes=+1-2", "bytes=1-2-3", "bytes=١-٢"],
)  # fmt: skip
def test_what_is_no_single_range_is_ignored(header: str | None) -> None:
    assert select(header, 100) is None


@pytest.mark.parametrize("header", ["bytes=100-", "bytes=100-200", "bytes=999999999999999999999-", "bytes=-0"])
def test_a_range_outside_of_the_file_cannot_be_satisfied(header: str) -> None:
    with pytest.raises(Unsatisfiable):
        select(header, 100)


def test_an_empty_file_has_no_ranges() -> None:
    assert select("bytes=-5", 0) is None
    with pytest.raises(Unsatisfiable):
        select("bytes=0-", 0)


@given(st.text(alphabet="bytes=0123456789-, ", max_size=30), st.integers(0, 1000))
def test_a_span_lies_within_the_file(header: str, size: int) -> None:
    try:
        span = select("bytes=" + header, size)
    except Unsatisfiable:
        return
    assert span is None or 0 <= span.start < span.stop <= size
