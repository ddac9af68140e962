"""What events add up to."""

from __future__ import annotations

import pytest

from towline.cli.tally import SILENT, Layer, Speed, Tally, time_left
from towline.model.digest import Digest
from towline.model.events import Progress, Status

WEIGHTS, LICENSE = Digest.of(b"weights"), Digest.of(b"license")


def test_counts_layers_and_bytes() -> None:
    tally = Tally(0)
    for event in (Status("pulling manifest"), Progress(WEIGHTS, 100, 40), Progress(LICENSE, 7, 7)):
        tally.take(event, 0)
    assert (tally.total, tally.completed, tally.here, tally.fetched) == (107, 47, 47, 0)
    assert (tally.finished_layers, tally.waiting) == (1, 1)
    tally.take(Progress(WEIGHTS, 100, 100), 1)
    assert (tally.completed, tally.fetched, tally.waiting) == (107, 60, 0)


def test_a_repeated_event_counts_once() -> None:
    tally = Tally(0)
    for moment in range(3):
        tally.take(Progress(WEIGHTS, 100, 100), moment)
    assert (tally.completed, tally.finished_layers) == (100, 1)


def test_an_empty_layer_is_complete() -> None:
    tally = Tally(0)
    tally.take(Progress(WEIGHTS, 0, 0), 0)
    assert tally.waiting == 0


def test_a_speed_is_unknown_at_first() -> None:
    speed = Speed()
    assert speed.at(1) is None
    speed.add(1000, 1)
    assert speed.at(1) is None


def test_a_speed_leaves_out_what_was_there_before() -> None:
    speed = Speed()
    speed.add(1_000_000, 0)
    speed.add(1_000_200, 2)
    assert speed.at(2) == 100


def test_a_speed_falls_to_nothing_when_nothing_moves() -> None:
    speed = Speed()
    for moment in range(3):
        speed.add(moment * 100, moment)
    for moment in range(3, 20):
        speed.add(200, moment)
    assert speed.at(20) == 0


def test_a_speed_remembers_the_last_moments_only() -> None:
    speed = Speed()
    for step in range(1000):
        speed.add(step * 10, step / 10)
    assert speed.at(99.9) == pytest.approx(100, rel=0.05)


def test_the_time_left_is_unknown_while_nothing_moves() -> None:
    assert time_left(100, None) is None
    assert time_left(100, 0) is None
    assert time_left(0, 10) is None
    assert time_left(100, 10) == 10


class TestWaiting:
    """What a layer waits for."""

    def layer(self, completed: int, *, here: int = 0) -> Layer:
        return Layer(Digest("0" * 64), 1000, here, completed, moved=10.0)

    def test_one_that_moves_waits_for_nothing(self) -> None:
        assert self.layer(500).waits(10.0 + SILENT / 2) == ""

    def test_one_that_got_nothing_yet_is_queued(self) -> None:
        assert self.layer(300, here=300).waits(20.0) == "queued"

    def test_one_whose_bytes_stopped_is_silent(self) -> None:
        assert self.layer(300).waits(17.0) == "silent 7 s"

    def test_one_that_has_all_bytes_is_being_verified(self) -> None:
        assert self.layer(999).waits(20.0) == "verifying"

    def test_one_that_is_done_waits_for_nothing(self) -> None:
        assert self.layer(1000).waits(99.0) == ""
