"""The plan of a blob: every byte is fetched once, whatever fails."""

from __future__ import annotations

import itertools
from collections.abc import Iterator

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from towline.transfer.segments import DUEL_AGE, SEGMENT_BYTES, STEAL_BYTES, Plan, Ranges, Segment

MIB = 1 << 20


def overlap(ranges: Iterator[tuple[int, int]] | list[tuple[int, int]]) -> bool:
    ordered = sorted(ranges)
    return any(one[1] > other[0] for one, other in itertools.pairwise(ordered))


class PlanMachine(RuleBasedStateMachine):
    """Connections that take segments, write, fail, give up and are overtaken, in any order and at any time.

    `writing` holds what was claimed and neither landed nor failed: those bytes belong to the one who writes them.
    """

    def __init__(self) -> None:
        super().__init__()
        self.now = 0.0
        self.plan = Plan(0)
        self.writing: list[tuple[Segment, int, int]] = []

    @initialize(
        size=st.integers(0, 12 * MIB),
        done=st.lists(st.tuples(st.integers(0, 12 * MIB), st.integers(0, 3 * MIB)), max_size=4),
        segment_bytes=st.sampled_from([1 * MIB, 3 * MIB, SEGMENT_BYTES]),
    )
    def begin(self, size: int, done: list[tuple[int, int]], segment_bytes: int) -> None:
        on_disk = [(min(start, size), min(start + length, size)) for start, length in done]
        self.plan = Plan(size, on_disk, segment_bytes=segment_bytes)

    @rule(seconds=st.sampled_from([0.0, 0.01, 0.3, 0.6, 1.1, 5.0]))
    def time_passes(self, seconds: float) -> None:
        self.now += seconds

    @rule(whole=st.sampled_from([False, False, False, True]))
    def take(self, whole: bool) -> None:
        segment = self.plan.next(self.now, whole=whole)
        if segment is not None:
            assert segment.remaining > 0
            assert segment in self.plan.active

    @precondition(lambda self: self.plan.active)
    @rule(data=st.data(), count=st.sampled_from([1, 1000, 300_000, MIB, 4 * MIB]), counted=st.booleans())
    def bytes_come(self, data: st.DataObject, count: int, counted: bool) -> None:
        segment = data.draw(st.sampled_from(self.plan.active))
        if counted or segment.rival is not None:
            self.plan.received(segment, count, self.now)
        before = segment.pos
        start, claimed = self.plan.claim(segment, count)
        assert start == before
        assert 0 <= claimed <= count
        if claimed:
            self.writing.append((segment, start, start + claimed))

    @precondition(lambda self: self.writing)
    @rule(data=st.data())
    def a_write_ends(self, data: st.DataObject) -> None:
        _, start, stop = self.writing.pop(data.draw(st.integers(0, len(self.writing) - 1)))
        self.plan.landed(start, stop)

    @precondition(lambda self: self.writing)
    @rule(data=st.data())
    def a_write_fails(self, data: st.DataObject) -> None:
        _, start, stop = self.writing.pop(data.draw(st.integers(0, len(self.writing) - 1)))
        self.plan.unclaim(start, stop)

    @precondition(lambda self: self.plan.done)
    @rule(data=st.data())
    def bytes_on_disk_prove_wrong(self, data: st.DataObject) -> None:
        start, stop = data.draw(st.sampled_from(list(self.plan.done)))
        self.plan.unclaim(start, min(stop, start + MIB))

    @precondition(lambda self: self.plan.active)
    @rule(data=st.data())
    def a_connection_gives_up(self, data: st.DataObject) -> None:
        idle = [s for s in self.plan.active if all(s is not writer for writer, _, _ in self.writing)]
        if idle:
            self.plan.release(data.draw(st.sampled_from(idle)))

    @invariant()
    def every_byte_is_done_missing_claimed_or_being_written_and_only_one_of_these(self) -> None:
        done, missing = list(self.plan.done), list(self.plan._missing)
        claimed = list({(s.pos, s.stop) for s in self.plan.active if s.remaining})
        assert len(claimed) == len([s for s in self.plan.active if s.remaining]) - self._duels()
        writing = [(start, stop) for _, start, stop in self.writing]
        everything = done + missing + claimed + writing
        assert not overlap(everything)
        assert sum(stop - start for start, stop in everything) == self.plan.size

    def _duels(self) -> int:
        rivals = [segment for segment in self.plan.active if segment.rival is not None]
        assert all(each.rival and each.rival.rival is each and each.rival in self.plan.active for each in rivals)
        assert all(each.rival and (each.rival.pos, each.rival.stop) == (each.pos, each.stop) for each in rivals)
        return len(rivals) // 2

    def teardown(self) -> None:
        """Whatever has happened: connections that work finish it."""
        for _, start, stop in self.writing:
            self.plan.landed(start, stop)
        for segment in list(self.plan.active):
            self.plan.release(segment)
        for segment in iter(lambda: self.plan.next(self.now), None):
            self.plan.landed(segment.pos, sum(self.plan.claim(segment, segment.remaining)))
            self.plan.release(segment)
        assert self.plan.complete


TestPlanMachine = PlanMachine.TestCase
TestPlanMachine.settings = settings(max_examples=150, stateful_step_count=40, deadline=None)


def fetch(plan: Plan, segment: Segment, count: int) -> None:
    """So many bytes of a segment arrive, without a delay, and are written."""
    plan.received(segment, count, segment.started)
    start, claimed = plan.claim(segment, count)
    plan.landed(start, start + claimed)


def take(plan: Plan, now: float) -> Segment:
    segment = plan.next(now)
    assert segment is not None
    return segment


class TestOrder:
    def test_segments_are_handed_out_in_the_order_of_the_blob(self) -> None:
        plan = Plan(3 * SEGMENT_BYTES + 1)
        assert [take(plan, 0).pos for _ in range(4)] == [0, SEGMENT_BYTES, 2 * SEGMENT_BYTES, 3 * SEGMENT_BYTES]

    def test_bytes_on_disk_are_left_out(self) -> None:
        plan = Plan(10, [(0, 2), (5, 8)])
        assert [(s.pos, s.stop) for s in (take(plan, 0), take(plan, 0))] == [(2, 5), (8, 10)]

    def test_what_a_connection_gave_up_is_handed_out_before_what_comes_later(self) -> None:
        plan = Plan(2 * SEGMENT_BYTES)
        first = take(plan, 0)
        fetch(plan, first, 5)
        plan.release(first)
        assert take(plan, 0).pos == 5

    def test_a_source_that_ignores_ranges_is_asked_for_all_up_to_the_next_bytes_on_disk(self) -> None:
        plan = Plan(5 * SEGMENT_BYTES, [(4 * SEGMENT_BYTES, 5 * SEGMENT_BYTES)])
        segment = plan.next(0, whole=True)
        assert segment is not None
        assert (segment.pos, segment.stop) == (0, 4 * SEGMENT_BYTES)

    def test_there_is_nothing_for_a_second_stream_of_such_a_source(self) -> None:
        plan = Plan(SEGMENT_BYTES)
        assert plan.next(0, whole=True) is not None
        assert plan.next(9, whole=True) is None

    def test_an_empty_blob_is_complete_and_has_no_segment(self) -> None:
        assert Plan(0).complete
        assert Plan(0).next(0) is None


class TestSharing:
    def test_a_free_connection_takes_the_second_half_of_what_is_left(self) -> None:
        plan = Plan(9 * MIB)
        first = take(plan, 0)
        fetch(plan, first, MIB)
        second = take(plan, 0.1)
        assert (second.pos, second.stop, first.stop) == (5 * MIB, 9 * MIB, 5 * MIB)

    def test_it_takes_from_the_connection_that_would_take_longest(self) -> None:
        plan = Plan(64 * MIB, segment_bytes=32 * MIB)
        slow, fast = take(plan, 0), take(plan, 0)
        fetch(plan, slow, 4 * MIB)
        fetch(plan, fast, 8 * MIB)
        stop = slow.stop
        assert take(plan, 1.5).stop == stop

    def test_what_is_less_than_two_steps_is_not_divided(self) -> None:
        plan = Plan(2 * STEAL_BYTES)
        fetch(plan, take(plan, 0), 1)
        assert plan.next(0.1) is None

    def test_what_would_be_here_before_a_new_connection_begins_is_not_divided(self) -> None:
        plan = Plan(16 * MIB)
        first = take(plan, 0)
        plan.received(first, 1, 3.0)
        plan.received(first, 3 * MIB, 3.5)
        assert plan.next(3.5) is None

    def test_a_connection_that_crawls_is_overtaken_whole(self) -> None:
        plan = Plan(MIB)
        slow = take(plan, 0)
        fetch(plan, slow, 1000)
        assert take(plan, 1.5).pos == 1000
        assert slow.remaining == 0

    def test_a_connection_that_flows_is_not(self) -> None:
        plan = Plan(2 * MIB - 1)
        flowing = take(plan, 0)
        fetch(plan, flowing, MIB)
        assert plan.next(1.5) is None

    def test_a_connection_far_slower_than_its_fellows_is_overtaken_before_what_is_missing(self) -> None:
        plan = Plan(100 * SEGMENT_BYTES)
        slow, *fast = [take(plan, 0) for _ in range(4)]
        fetch(plan, slow, 1000)
        for each in fast:
            fetch(plan, each, 8 * MIB)
        assert take(plan, 1.5).pos == 1000

    def test_among_equals_nobody_is_overtaken_while_bytes_are_missing(self) -> None:
        plan = Plan(100 * SEGMENT_BYTES)
        for each in [take(plan, 0) for _ in range(4)]:
            fetch(plan, each, 1000)
        assert take(plan, 1.5).pos == 4 * SEGMENT_BYTES

    @pytest.mark.parametrize("latency", [0.5, 1.5, 3.0, 10.0, 29.0])
    @pytest.mark.parametrize("size", [1, MIB, 40 * MIB])
    def test_a_server_that_begins_late_is_given_the_time(self, latency: float, size: int) -> None:
        """Every connection gets all its bytes `latency` seconds after it asked, unless it was overtaken before."""
        plan = Plan(size)
        now, asked = 0.0, 0
        while not plan.complete:
            while len([s for s in plan.active if s.remaining]) < 8 and plan.next(now) is not None:
                asked += 1
            for segment in list(plan.active):
                if not segment.remaining:
                    plan.release(segment)
                elif now - segment.started >= latency:
                    fetch(plan, segment, segment.remaining)
                    plan.release(segment)
            now += 0.25
            assert now <= latency + 0.25
        assert asked <= 2 * -(-size // SEGMENT_BYTES)


class TestDuels:
    def test_what_has_no_byte_after_a_while_is_asked_for_a_second_time_and_no_third(self) -> None:
        plan = Plan(8 * MIB)
        first = take(plan, 0)
        assert plan.next(DUEL_AGE - 0.1) is None
        second = take(plan, DUEL_AGE)
        assert (second.pos, second.stop) == (first.pos, first.stop) == (0, 8 * MIB)
        assert plan.next(4 * DUEL_AGE) is None

    @pytest.mark.parametrize("winner", [0, 1])
    def test_the_first_to_bring_a_byte_keeps_it(self, winner: int) -> None:
        plan = Plan(8 * MIB)
        both = take(plan, 0), take(plan, DUEL_AGE)
        won, lost = both[winner], both[1 - winner]
        assert plan.received(won, 1000, DUEL_AGE) is lost
        assert lost.overtaken
        assert not lost.remaining
        assert plan.received(lost, 1000, DUEL_AGE) is None
        assert plan.claim(lost, 1000) == (0, 0)
        plan.release(lost)
        fetch(plan, won, 8 * MIB)
        assert plan.complete

    def test_where_one_gives_up_the_other_goes_on_and_where_both_do_it_is_missing(self) -> None:
        plan = Plan(8 * MIB)
        first, second = take(plan, 0), take(plan, DUEL_AGE)
        plan.release(first)
        assert plan.next(DUEL_AGE) is None
        plan.release(second)
        again = take(plan, DUEL_AGE)
        assert (again.pos, again.stop) == (0, 8 * MIB)


class TestClaiming:
    def test_no_more_is_claimed_than_the_segment_still_has(self) -> None:
        plan = Plan(8 * MIB)
        first = take(plan, 0)
        plan.received(first, 1, 0)
        take(plan, 0)
        assert plan.claim(first, 8 * MIB) == (0, 4 * MIB)
        assert plan.claim(first, 1) == (4 * MIB, 0)

    def test_bytes_that_could_not_be_written_are_fetched_again(self) -> None:
        plan = Plan(10)
        segment = take(plan, 0)
        start, count = plan.claim(segment, 10)
        plan.unclaim(start, start + count)
        plan.release(segment)
        again = take(plan, 0)
        assert (again.pos, again.stop) == (0, 10)


class TestRate:
    @given(st.lists(st.tuples(st.floats(0, 3), st.integers(0, MIB)), max_size=20))
    def test_a_rate_is_never_negative(self, steps: list[tuple[float, int]]) -> None:
        segment = Segment(0, 100 * MIB, 0)
        now = 0.0
        for seconds, count in steps:
            now += seconds
            segment.received += count
            assert segment.rate(now) >= 0

    def test_it_is_of_the_last_half_second_not_of_the_whole_life(self) -> None:
        segment = Segment(0, 100 * MIB, 0)
        segment.received += 50 * MIB
        segment.rate(1.0)
        segment.rate(2.0)
        assert segment.rate(2.1) == 0


def test_ranges_of_a_finished_plan_are_one() -> None:
    plan = Plan(5 * SEGMENT_BYTES)
    while not plan.complete:
        segment = take(plan, 0)
        fetch(plan, segment, segment.remaining)
        plan.release(segment)
    assert list(plan.done) == list(Ranges([(0, 5 * SEGMENT_BYTES)]))
