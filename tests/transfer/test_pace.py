"""How many connections a transfer finds worth its while."""

from __future__ import annotations

from collections.abc import Callable

from towline.transfer.pace import FIRST_WINDOW, Pace


def settle(pace: Pace, throughput: Callable[[int], float], *, seconds: float = 5.0) -> list[int]:
    """Runs the pace against a link that brings `throughput(connections)` bytes a second; tells what it tried."""
    tried = []
    step = FIRST_WINDOW / 4
    for tick in range(int(seconds / step)):
        tried.append(pace.connections)
        pace.received(int(throughput(pace.connections) * step), tick * step)
    return tried


class TestClimbing:
    def test_it_begins_with_one(self) -> None:
        assert Pace(8).connections == 1

    def test_it_stays_with_one_where_a_second_brings_nothing(self) -> None:
        tried = settle(Pace(8), lambda _: 1e9)
        assert max(tried) == 2
        assert tried.count(1) > tried.count(2)

    def test_it_takes_all_it_may_where_each_brings_its_share(self) -> None:
        pace = Pace(8)
        settle(pace, lambda connections: 25e6 * connections)
        assert pace.connections == 8

    def test_it_stops_where_the_link_is_full(self) -> None:
        pace = Pace(16)
        tried = settle(pace, lambda connections: min(25e6 * connections, 100e6))
        assert tried.count(4) > len(tried) / 2
        assert max(tried) == 8

    def test_it_never_goes_beyond_its_most(self) -> None:
        assert max(settle(Pace(5), lambda connections: 1e6 * connections)) == 5

    def test_it_looks_again_later_when_the_link_has_room_now(self) -> None:
        pace = Pace(8)
        settle(pace, lambda _: 1e6, seconds=2)
        assert pace.connections == 1
        step = FIRST_WINDOW / 4
        for tick in range(int(20 / step)):
            pace.received(int(1e6 * pace.connections * step), 2 + tick * step)
        assert pace.connections == 8


class TestTypical:
    def test_it_is_what_one_connection_brings(self) -> None:
        pace = Pace(1)
        settle(pace, lambda _: 5e6)
        assert 4e6 < pace.typical < 6e6

    def test_it_fades_when_the_link_becomes_slow(self) -> None:
        pace = Pace(1)
        settle(pace, lambda _: 5e6)
        for tick in range(100):
            pace.received(1000, 5 + tick / 10)
        assert pace.typical < 50_000
