"""Ranges against what they model: a set of bytes."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from towline.transfer.segments import Ranges

SIZE = 40

pairs = st.tuples(st.integers(0, SIZE), st.integers(0, SIZE))
steps = st.lists(st.tuples(st.sampled_from(["add", "remove"]), pairs), max_size=30)


def build(operations: list[tuple[str, tuple[int, int]]]) -> tuple[Ranges, set[int]]:
    """Ranges and the set of bytes after the same steps."""
    ranges, model = Ranges(), set[int]()
    for operation, (start, stop) in operations:
        if operation == "add":
            ranges.add(start, stop)
            model |= set(range(start, stop))
        else:
            ranges.remove(start, stop)
            model -= set(range(start, stop))
    return ranges, model


@given(steps)
def test_ranges_hold_the_bytes_that_a_set_would(operations: list[tuple[str, tuple[int, int]]]) -> None:
    ranges, model = build(operations)
    assert {byte for start, stop in ranges for byte in range(start, stop)} == model


@given(steps)
def test_ranges_are_sorted_disjoint_and_never_touch(operations: list[tuple[str, tuple[int, int]]]) -> None:
    found = list(build(operations)[0])
    assert all(start < stop for start, stop in found)
    assert all(one[1] < other[0] for one, other in itertools.pairwise(found))


@given(steps)
def test_total_counts_the_bytes_and_emptiness_is_seen(operations: list[tuple[str, tuple[int, int]]]) -> None:
    ranges, model = build(operations)
    assert ranges.total == len(model)
    assert bool(ranges) == bool(model)


@given(steps, st.integers(0, SIZE))
def test_a_run_ends_at_the_first_byte_that_is_not_there(
    operations: list[tuple[str, tuple[int, int]]], start: int
) -> None:
    ranges, model = build(operations)
    assert ranges.run_from(start) == next(byte for byte in range(start, SIZE + 2) if byte not in model)


@given(steps.filter(lambda operations: bool(build(operations)[0])))
def test_the_first_range_is_the_lowest(operations: list[tuple[str, tuple[int, int]]]) -> None:
    ranges, _ = build(operations)
    assert ranges.first() == min(ranges)


def test_nothing_has_no_first_range() -> None:
    with pytest.raises(IndexError):
        Ranges().first()
