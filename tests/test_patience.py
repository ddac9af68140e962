"""How long a pull waits for its sources."""

from __future__ import annotations

from towline.patience import Patience


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
