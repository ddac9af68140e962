"""What events add up to."""

from __future__ import annotations

import pytest

from towline.cli.tally import SILENT, Speed, Tally, time_left
from towline.model.digest import Digest
from towline.model.events import Progress, Status

WEIGHTS, LICENSE = Digest.of(b"weights"), Digest.of(b"license")


def test_counts_layers_and_bytes() -> None:
    tally = Tally(0)
    for event in (Status("pulling manifest"), Progress(WEIGHTS, 100, 40), Progress(LICENSE, 7, 7)):
        tally.take(event, 0)
    assert (tally.total, tally.completed, tally.here, tally.fetched) == (107, 47, 47, 0)
    assert (tally.finished_layers, tally.unfinished_layers) == (1, 1)
    tally.take(Progress(WEIGHTS, 100, 100), 1)
    assert (tally.completed, tally.fetched, tally.unfinished_layers) == (107, 60, 0)


def test_a_repeated_event_counts_once() -> None:
    tally = Tally(0)
    for moment in range(3):
        tally.take(Progress(WEIGHTS, 100, 100), moment)
    assert (tally.completed, tally.finished_layers) == (100, 1)


def test_an_empty_layer_is_complete() -> None:
    tally = Tally(0)
    tally.take(Progress(WEIGHTS, 0, 0), 0)
    assert tally.unfinished_layers == 0


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


class TestStates:
    """What a layer waits for, beside another one."""

    def state(self, completed: int, silent: float, *, here: int = 0, other_moves: bool = False) -> str:
        """Of a layer of 1000 bytes that came so far, and got no byte for so many seconds."""
        tally = Tally(0)
        tally.take(Progress(LICENSE, 1000, 0), 0)
        tally.take(Progress(WEIGHTS, 1000, here), 0)
        tally.take(Progress(WEIGHTS, 1000, completed), 0)
        if other_moves:
            tally.take(Progress(LICENSE, 1000, 500), silent)
        return tally.state(tally.layers[WEIGHTS], silent)

    def test_one_that_moved_just_now_waits_for_nothing(self) -> None:
        assert self.state(500, SILENT / 2) == ""

    def test_one_that_got_nothing_while_another_moves_is_queued(self) -> None:
        assert self.state(300, 10, here=300, other_moves=True) == "queued"

    def test_one_that_got_nothing_while_nothing_moves_waits(self) -> None:
        assert self.state(300, 10, here=300) == "waiting"

    @pytest.mark.parametrize(
        ("seconds", "said"),
        [
            (4, "silent 4s"),
            (99.9, "silent 99s"),
            (100, "silent 1:40"),
            (300, "silent 5:00"),
            (3599, "silent 59:59"),
            (86400, "silent >1 h"),
        ],
    )
    def test_one_whose_bytes_stopped_says_for_how_long(self, seconds: float, said: str) -> None:
        assert self.state(300, seconds) == said

    def test_one_that_has_all_bytes_is_being_verified_from_the_first_moment(self) -> None:
        assert self.state(999, 0) == self.state(999, 20) == "verifying"

    def test_one_of_a_single_byte_that_has_not_come_is_not_being_verified(self) -> None:
        tally = Tally(0)
        tally.take(Progress(WEIGHTS, 1, 0), 0)
        assert tally.state(tally.layers[WEIGHTS], 10) == "waiting"

    def test_one_that_is_done_waits_for_nothing(self) -> None:
        assert self.state(1000, 99) == ""


class TestSilence:
    """What is said of layers, and of all of them, while no byte comes."""

    def pull(self, *layers: tuple[int, int]) -> Tally:
        """Layers of 1000 bytes, here and then come, at 0 s and at 1 s."""
        tally = Tally(0)
        for number, (here, _) in enumerate(layers):
            tally.take(Progress(Digest.of(b"%d" % number), 1000, here), 0)
        for number, (_, completed) in enumerate(layers):
            tally.take(Progress(Digest.of(b"%d" % number), 1000, completed), 1)
        return tally

    def test_there_is_a_speed_while_bytes_come_and_none_after(self) -> None:
        tally = self.pull((0, 500), (0, 0))
        layer = tally.layers[Digest.of(b"0")]
        assert layer.speed(1.5) == tally.speed(1.5) == pytest.approx(500 / 1.5)
        assert layer.speed(1 + SILENT) is tally.speed(1 + SILENT) is None

    def test_the_speed_after_a_silence_does_not_count_the_silence(self) -> None:
        tally = self.pull((0, 500))
        layer = tally.layers[Digest.of(b"0")]
        for moment, completed in ((4, 600), (5, 800)):
            tally.take(Progress(layer.digest, 1000, completed), moment)
        assert layer.speed(5) == tally.speed(5) == 200

    def test_what_was_here_before_gives_no_speed(self) -> None:
        assert self.pull((500, 500)).speed(2) is None

    def test_what_is_verified_has_no_speed(self) -> None:
        tally = self.pull((0, 999))
        assert tally.layers[Digest.of(b"0")].speed(1.5) is None

    def test_layers_without_a_byte_of_late_wait(self) -> None:
        tally = self.pull((0, 500), (0, 0), (0, 999), (1000, 1000))
        assert tally.waiting_layers(1.5) == 1
        assert tally.waiting_layers(1 + SILENT) == 2

    def test_a_silence_lasts_from_the_last_byte_on(self) -> None:
        tally = self.pull((0, 500), (0, 0))
        assert tally.silence(1 + SILENT / 2) == 0
        assert tally.silence(11) == 10

    def test_verifying_is_no_silence(self) -> None:
        assert self.pull((0, 999), (0, 1000)).silence(60) == 0
