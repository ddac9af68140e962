"""Connections a host."""

from __future__ import annotations

from towline.transfer.slots import Slots


def test_a_host_gets_so_many_and_others_are_not_counted() -> None:
    slots = Slots(2)
    assert [slots.take("a"), slots.take("a"), slots.take("a")] == [True, True, False]
    assert not slots.free("a")
    assert slots.take("b")


def test_what_is_given_back_can_be_taken_again() -> None:
    slots = Slots(1)
    assert slots.take("a")
    slots.give_back("a")
    assert slots.free("a")
    assert slots.take("a")
