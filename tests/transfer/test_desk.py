"""Taking turns: one at a time, but for those who would have to wait for one that hangs."""

from __future__ import annotations

import threading

from tests.support.pulling import eventually
from tests.transfer.doubles import HANGS
from towline.transfer.desk import Desk


class Visitor:
    """A thread that has one turn, for as long as it is not told to leave."""

    def __init__(self, desk: Desk) -> None:
        self.inside, self.leaves = threading.Event(), threading.Event()
        self.thread = threading.Thread(target=self._visit, args=[desk])
        self.thread.start()

    def _visit(self, desk: Desk) -> None:
        with desk:
            self.inside.set()
            assert self.leaves.wait(HANGS)

    def leave(self) -> None:
        self.leaves.set()
        self.thread.join(20)


def test_who_hangs_holds_up_nobody_and_turns_are_taken_again_afterwards() -> None:
    desk = Desk()
    hangs = Visitor(desk)
    assert hangs.inside.wait(20)
    others = [Visitor(desk) for _ in range(20)]
    assert all(other.inside.wait(20) for other in others)
    for other in others:
        other.leave()
    hangs.leave()
    with desk:
        assert desk._holder == threading.get_ident()
    assert not desk._lock.locked()


def test_others_have_their_turn_while_one_is_away() -> None:
    desk = Desk()
    with desk:
        with desk.away:
            other = Visitor(desk)
            assert other.inside.wait(20)
            other.leave()
        assert desk._holder == threading.get_ident()


def test_who_got_no_turn_gives_none_back() -> None:
    desk = Desk()
    hangs = Visitor(desk)
    assert hangs.inside.wait(20)
    with desk, desk.away:
        pass
    assert desk._lock.locked()
    hangs.leave()
    eventually(lambda: not desk._lock.locked(), "the turn to be given back")


def test_who_takes_no_turn_gets_none_by_being_away() -> None:
    desk = Desk()
    with desk.away:
        pass
    assert not desk._lock.locked()
