"""Numbers as people read them; the examples are in the docstrings."""

from __future__ import annotations

import doctest

from hypothesis import given
from hypothesis import strategies as st

from towline import sizes
from towline.cli import frame, options, text, units

SIZES = st.integers(0, 1 << 46)


def test_the_examples_hold() -> None:
    for module in (sizes, units, text, frame, options):
        assert doctest.testmod(module).failed == 0


@given(SIZES, SIZES)
def test_a_percentage_is_100_only_when_all_is_there(first: int, second: int) -> None:
    part, whole = sorted((first, second))
    assert (units.percent(part, whole) == 100) == (part == whole)


@given(SIZES, SIZES)
def test_sizes_and_shares_keep_their_columns(first: int, second: int) -> None:
    part, whole = sorted((first, second))
    assert len(units.share(part, whole)) <= 13
    assert len(units.size(whole)) <= 7


@given(st.floats(0, 1e15))
def test_times_keep_their_column(seconds: float) -> None:
    assert len(units.clock(seconds)) <= 8
