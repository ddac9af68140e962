"""One connection's part of a download, from a source that ignores ranges."""

from __future__ import annotations

from tests.transfer.doubles import MemorySource, MemoryStream, content
from towline.transfer.reception import Reception
from towline.transfer.segments import Plan
from towline.transfer.supplier import Supplier

SIZE = 100
HERE = 60
"""Bytes that are there already."""


class Stuttering(MemorySource):
    """It has nothing at every other look."""

    def open(self, start: int, stop: int) -> MemoryStream:
        return StutteringStream(self, start, stop)


class StutteringStream(MemoryStream):
    _looks = 0

    def readinto(self, buffer: memoryview) -> int | None:  # type: ignore[override]
        self._looks += 1
        return super().readinto(buffer) if self._looks % 2 else None


class Notes:
    """Notes what it is told."""

    step = 20

    def __init__(self) -> None:
        self.positions: list[int] = []
        self.kept = b""

    def arrived(self, count: int) -> None:
        assert count

    def skipped(self, position: int) -> None:
        self.positions.append(position)

    def gained(self, reception: Reception, count: int) -> None:
        assert len(self.positions) == HERE // self.step

    def keep(self, reception: Reception, buffer: memoryview, length: int) -> None:
        reception.plan.claim(reception.segment, length)
        self.kept += buffer[:length]


def test_what_is_there_already_is_passed_over_and_told_as_it_comes_and_not_while_nothing_does() -> None:
    data = content(SIZE)
    source, notes = Stuttering(data), Notes()
    source.ranged = False
    plan = Plan(SIZE, [(0, HERE)])
    segment = plan.next(0.0, whole=True)
    assert segment is not None
    Reception(plan, segment, Supplier(source, 1.0), notes).receive(memoryview(bytearray(SIZE)))
    assert notes.positions == [20, 40, 60]
    assert notes.kept == data[HERE:]
