"""How long a pull waits for its sources."""

from __future__ import annotations

from towline.patience import LASTING, Life, Patience
from towline.store import claims


def looked(patience: Patience, *looks: tuple[float, int, bool]) -> Patience:
    for now, landed, excused in looks:
        patience.look(now, landed, excused=excused)
    return patience


def seconds(start: float, stop: float, *, landed: int = 0, excused: bool = False) -> list[tuple[float, int, bool]]:
    return [(start + step / 4, landed, excused) for step in range(int((stop - start) * 4) + 1)]


def test_it_is_out_after_so_many_seconds_without_a_byte() -> None:
    assert not looked(Patience(30), *seconds(0, 29.5)).out
    assert looked(Patience(30), *seconds(0, 30)).out


def test_each_byte_begins_it_anew() -> None:
    assert not looked(Patience(30), *seconds(0, 29), *seconds(29, 50, landed=1)).out


def test_time_spent_on_anything_else_does_not_count_and_renews_nothing() -> None:
    patience = looked(Patience(30), *seconds(0, 20), *seconds(20, 500, excused=True))
    assert not patience.out
    assert looked(patience, *seconds(500, 510)).out


def test_time_in_which_the_process_did_not_run_does_not_count() -> None:
    patience = looked(Patience(30), (0, 0, False), (3600, 0, False))
    assert patience.waited <= 1


def test_endless_patience_is_never_out_and_tells_how_long_it_waits() -> None:
    patience = looked(Patience(30, endless=True), *seconds(0, 600))
    assert not patience.out
    assert patience.waited == 600


def test_what_was_waited_before_something_else_began_does_not_count() -> None:
    patience = looked(Patience(30), *seconds(0, 29))
    patience.renew()
    assert not looked(patience, *seconds(29, 50)).out


def test_a_sign_of_life_lasts_longer_than_the_rarest_take_to_follow_one_another() -> None:
    life, beats = Life(), int(600 / claims.BEAT)
    looks = [number / 4 for number in range(int(beats * claims.BEAT * 4))]
    for now in looks:
        life.note(now // claims.BEAT, now)
        assert life.lasts(now)
    for late in (looks[-1] + each / 4 for each in range(1, int(4 * LASTING))):
        life.note(looks[-1] // claims.BEAT, late)
    assert not life.lasts(looks[-1] + LASTING)


def test_what_was_never_heard_of_is_not_alive() -> None:
    assert not Life().lasts(0.0)
