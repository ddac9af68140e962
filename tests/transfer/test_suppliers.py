"""Whom a blob is asked of: in order, around those that pause or are crowded, and one alone after wrong bytes."""

from __future__ import annotations

from tests.transfer.doubles import MemorySource
from towline.errors import SourceBusy, SourceGone
from towline.model.digest import Digest
from towline.transfer.slots import Slots
from towline.transfer.supplier import Supplier
from towline.transfer.suppliers import Suppliers
from towline.transfer.work import CROWDED

DIGEST = Digest("0" * 64)
ONE, OTHER = MemorySource(b"", name="one"), MemorySource(b"", name="other")


def suppliers(*sources: MemorySource, slots: Slots | None = None) -> Suppliers:
    return Suppliers(DIGEST, sources, 4.0, slots or Slots(8))


def picked(asked: Suppliers, now: float = 0.0) -> Supplier:
    supplier = asked.pick(now)
    assert isinstance(supplier, Supplier)
    return supplier


class TestOrder:
    def test_the_first_is_asked_as_long_as_it_may_be(self) -> None:
        assert picked(suppliers(ONE, OTHER)).source is ONE

    def test_the_second_is_asked_while_the_first_pauses(self) -> None:
        asked = suppliers(ONE, OTHER)
        picked(asked).failed(SourceBusy("busy", retry_after=10.0), 0.0)
        assert picked(asked, 5.0).source is OTHER
        assert picked(asked, 11.0).source is ONE

    def test_a_source_that_is_offered_again_is_the_same(self) -> None:
        asked = suppliers(ONE, ONE)
        assert not asked.offer([ONE])
        assert asked.offer([OTHER])
        picked(asked).failed(SourceGone("gone"), 0.0)
        assert picked(asked).source is OTHER

    def test_with_none_it_is_said_that_none_is_known(self) -> None:
        assert suppliers().pick(0.0) is None
        assert "no source is known" in str(suppliers().failure)


class TestCrowded:
    def test_a_host_that_has_all_its_connections_is_passed_over(self) -> None:
        slots = Slots(1)
        asked = suppliers(ONE, OTHER, slots=slots)
        slots.take("one")
        assert picked(asked).source is OTHER

    def test_when_all_have_a_connection_that_ends_is_what_is_waited_for(self) -> None:
        slots = Slots(1)
        asked = suppliers(ONE, slots=slots)
        slots.take("one")
        assert asked.pick(0.0) == CROWDED
        slots.give_back("one")
        assert picked(asked).source is ONE

    def test_so_it_is_where_another_pauses(self) -> None:
        slots = Slots(1)
        asked = suppliers(ONE, OTHER, slots=slots)
        slots.take("one")
        picked(asked).failed(SourceBusy("busy", retry_after=10.0), 0.0)
        assert asked.pick(0.0) == CROWDED

    def test_one_that_is_gone_is_not_waited_for(self) -> None:
        slots = Slots(1)
        asked = suppliers(ONE, slots=slots)
        picked(asked).failed(SourceGone("gone"), 0.0)
        slots.take("one")
        assert asked.pick(0.0) is None


class TestWrongBytes:
    def test_one_is_asked_alone_then_and_it_is_the_least_blamed(self) -> None:
        asked = suppliers(ONE, OTHER)
        picked(asked).delivers()
        assert asked.blame()
        picked(asked).failed(SourceBusy("busy", retry_after=10.0), 0.0)
        assert asked.pick(0.0) != CROWDED
        assert not isinstance(asked.pick(0.0), Supplier)
        assert picked(asked, 11.0).source is OTHER

    def test_a_sole_source_has_one_more_try(self) -> None:
        asked = suppliers(ONE)
        picked(asked).delivers()
        assert asked.blame()
        picked(asked).delivers()
        assert not asked.blame()
        assert "what one sends" in str(asked.mismatch)

    def test_where_the_one_that_is_asked_alone_is_gone_it_is_the_others_turn(self) -> None:
        asked = suppliers(ONE, OTHER)
        picked(asked).delivers()
        asked.blame()
        picked(asked).failed(SourceGone("gone"), 0.0)
        assert asked.turn_back()
        assert picked(asked).source is ONE
        picked(asked).failed(SourceGone("gone"), 0.0)
        assert not asked.turn_back()


def test_of_several_reasons_one_that_is_no_mere_refusal_is_told() -> None:
    asked = suppliers(ONE, OTHER)
    refused = SourceBusy("one refuses connections", refused=True)
    first = picked(asked)
    for now in (0.0, 5.0):
        first.failed(refused, now)
    picked(asked).failed(SourceGone("other does not have it"), 0.0)
    assert "other does not have it" in str(asked.failure)
