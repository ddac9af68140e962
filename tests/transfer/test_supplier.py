"""How a source fares: when it is asked again, and when never more."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from towline.errors import SourceBusy, SourceError, SourceGone, SourceLied
from towline.transfer.supplier import LONGEST_PAUSE, MAX_LIES, Supplier, pick

SOURCE: Any = None
"""Supplier keeps it and never looks at it."""

failures = st.one_of(
    st.just(SourceBusy("busy")),
    st.just(SourceBusy("refused", refused=True)),
    st.floats(0, 100).map(lambda seconds: SourceBusy("asked", retry_after=seconds)),
    st.just(SourceLied("lied")),
)


def supplier() -> Supplier:
    return Supplier(SOURCE, 4.0)


def test_what_is_gone_is_never_asked_again() -> None:
    each = supplier()
    each.failed(SourceGone("gone"), 0)
    assert pick([each], 1e9) is None


def test_pauses_grow_and_are_bounded() -> None:
    each = supplier()
    now, pauses = 0.0, []
    for _ in range(12):
        each.failed(SourceBusy("busy"), now)
        pauses.append(each.not_before - now)
        now = each.not_before
    assert 4 * pauses[0] < pauses[-1] <= LONGEST_PAUSE * 1.25


def test_bytes_refill_the_budget() -> None:
    each = supplier()
    for _ in range(8):
        each.failed(SourceBusy("busy"), each.not_before)
    each.delivers()
    now = each.not_before
    each.failed(SourceBusy("busy"), now)
    assert each.not_before - now < 0.5


@pytest.mark.parametrize("seconds", [0.5, 60.0])
def test_a_source_that_says_when_is_asked_then(seconds: float) -> None:
    each = supplier()
    each.failed(SourceBusy("wait", retry_after=seconds), 10)
    assert each.not_before == 10 + seconds


def test_connections_that_fail_together_are_one_failure() -> None:
    alone, together = supplier(), supplier()
    alone.failed(SourceBusy("busy"), 0)
    for _ in range(8):
        together.failed(SourceBusy("busy"), 0)
    assert together.not_before <= 0.25 * 1.25


def test_connections_that_are_lied_to_together_are_one_lie() -> None:
    each = supplier()
    for _ in range(8):
        each.failed(SourceLied("lied"), 0)
    assert each.gone is None


def test_a_source_that_lies_again_is_gone() -> None:
    each = supplier()
    for _ in range(MAX_LIES):
        assert each.gone is None
        each.failed(SourceLied("lied"), each.not_before)
    assert each.gone is not None


def test_a_lie_between_whole_answers_is_forgiven_each_time() -> None:
    each = supplier()
    for _ in range(10):
        each.failed(SourceLied("lied"), each.not_before)
        each.completes()
    assert each.gone is None


def test_bytes_alone_forgive_no_lie() -> None:
    each = supplier()
    for _ in range(MAX_LIES):
        each.delivers()
        each.failed(SourceLied("lied"), each.not_before)
    assert each.gone is not None


def test_time_in_which_nobody_asked_does_not_count_as_refused() -> None:
    each = supplier()
    each.failed(SourceBusy("refused", refused=True), 0)
    each.failed(SourceBusy("refused", refused=True), 3600)
    assert each.gone is None


def test_where_it_is_waited_out_no_number_of_refusals_is_final() -> None:
    each, now = supplier(), 0.0
    for _ in range(100):
        each.failed(SourceBusy("refused", refused=True), now, endless=True)
        assert 0 < each.not_before - now <= LONGEST_PAUSE * 1.25
        now = each.not_before
    assert each.gone is None


def test_a_source_that_refuses_is_asked_until_the_bound_and_not_longer() -> None:
    each = supplier()
    tries = [0.0]
    while each.gone is None:
        each.failed(SourceBusy("refused", refused=True), tries[-1])
        tries.append(each.not_before)
    assert tries[-2] == pytest.approx(4.0)
    assert max(later - earlier for earlier, later in pairwise(tries)) < 1.001


def test_a_refusal_after_other_trouble_starts_its_own_clock() -> None:
    each = supplier()
    each.failed(SourceBusy("refused", refused=True), 0)
    each.failed(SourceBusy("reset"), 3)
    each.failed(SourceBusy("refused", refused=True), 6)
    assert each.gone is None


def test_the_first_source_that_may_be_asked_is_picked() -> None:
    waiting, ready, other = supplier(), supplier(), supplier()
    waiting.not_before = 10
    assert pick([waiting, ready, other], 5) is ready


def test_where_all_wait_it_is_told_when_the_first_may_be_asked() -> None:
    one, other = supplier(), supplier()
    one.not_before, other.not_before = 10, 8
    assert pick([one, other], 5) == 8


def test_without_sources_none_is_picked() -> None:
    assert pick([], 0) is None


@given(st.lists(st.tuples(st.floats(0, 10), failures), max_size=30))
def test_whatever_fails_the_next_try_is_in_the_future_and_bounded(steps: list[tuple[float, SourceError]]) -> None:
    each = supplier()
    now = 0.0
    for seconds, error in steps:
        now += seconds
        each.failed(error, now)
        assert each.gone is not None or each.not_before <= now + 100
        assert each.gone is not None or each.not_before >= now


def test_a_source_that_says_at_once_is_given_a_moment_all_the_same() -> None:
    each = supplier()
    each.failed(SourceBusy("wait", retry_after=0.0), 10)
    assert each.not_before > 10
