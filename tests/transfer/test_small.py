"""Blobs of up to a block: fetched whole, written once they are right, many at once from far hosts."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.pulling import eventually
from tests.transfer.doubles import HANGS, MIB, Download, Downloads, MemorySource, MemoryStream, content
from towline.errors import DigestMismatch, SourceBusy, StoreError, TransferError
from towline.transfer import small
from towline.transfer.distances import FAR, Distances
from towline.transfer.pool import MOST_THREADS, Pool
from towline.transfer.rate import Rate

DATA = content(100_000)


@pytest.fixture
def downloads(tmp_path: Path) -> Iterator[Downloads]:
    with Downloads(tmp_path) as downloads:
        yield downloads


def waits(stream: MemoryStream) -> None:
    stream.cancelled.wait(HANGS)


def waits_long_enough(stream: MemoryStream) -> None:
    stream.cancelled.wait(5 * FAR)


def wait_for(gate: threading.Event) -> None:
    gate.wait(HANGS)


def spoiled(data: bytes) -> bytes:
    return data[:-1] + bytes([data[-1] ^ 1])


def nudge_until_over(downloads: Downloads, download: Download) -> None:
    """As a pull does that looks at it now and then."""
    until = time.monotonic() + 20
    while not download.over.wait(0.1) and time.monotonic() < until:
        downloads.pool.nudge()


class TestWrongBytes:
    def test_wrong_bytes_are_fetched_from_another_source_and_never_written(self, downloads: Downloads) -> None:
        wrong, right = MemorySource(spoiled(DATA), name="wrong"), MemorySource(DATA, name="right")
        assert downloads.fetch(DATA, wrong, right).finish() == DATA
        assert wrong.sent == right.sent == len(DATA)

    def test_a_source_that_always_sends_them_is_named(self, downloads: Downloads) -> None:
        download = downloads.fetch(DATA, MemorySource(spoiled(DATA), name="wrong"))
        with pytest.raises(DigestMismatch, match="wrong sends"):
            download.finish()
        assert not os.listdir(download.staging.folder)


class TestSilence:
    def test_a_connection_that_falls_silent_in_the_middle_is_overtaken_by_a_second_one(
        self, downloads: Downloads, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(small, "DUEL_AGE", 0.3)
        monkeypatch.setattr("towline.transfer.schedule.DUEL_AGE", 0.3)
        asked: list[MemoryStream] = []

        def first_one_hangs(stream: MemoryStream) -> None:
            if stream not in asked:
                asked.append(stream)
            elif stream is asked[0]:
                stream.cancelled.wait(HANGS)

        source = MemorySource(DATA, step=1000, before_read=first_one_hangs)
        download = downloads.fetch(DATA, source)
        nudge_until_over(downloads, download)
        assert download.finish() == DATA
        assert len(asked) == 2
        assert asked[0].cancelled.is_set()

    def test_so_is_one_that_drips_and_another_source_is_asked_where_there_is_one(
        self, downloads: Downloads, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(small, "DUEL_AGE", 0.3)
        monkeypatch.setattr("towline.transfer.schedule.DUEL_AGE", 0.3)

        def drips(stream: MemoryStream) -> None:
            stream.cancelled.wait(0.02)

        slow = MemorySource(DATA, name="slow", step=1, before_read=drips)
        download = downloads.fetch(DATA, slow, MemorySource(DATA, name="quick"))
        nudge_until_over(downloads, download)
        assert download.finish() == DATA
        assert 0 < slow.sent < len(DATA) // 2
        eventually(lambda: not slow.open_now, "the connection that drips to be ended")

    def test_one_that_a_limit_of_bandwidth_has_rest_is_not(
        self, downloads: Downloads, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(small, "DUEL_AGE", 0.1)
        monkeypatch.setattr("towline.transfer.schedule.DUEL_AGE", 0.1)
        source = MemorySource(DATA, step=len(DATA) // 2)
        download = downloads.fetch(DATA, source, rate=Rate(len(DATA)))
        nudge_until_over(downloads, download)
        assert download.finish() == DATA
        assert source.sent == len(DATA)

    def test_one_that_brings_bytes_is_left_alone(self, downloads: Downloads, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(small, "DUEL_AGE", 0.2)
        monkeypatch.setattr("towline.transfer.schedule.DUEL_AGE", 0.2)

        def steady(stream: MemoryStream) -> None:
            stream.cancelled.wait(0.02)

        source = MemorySource(DATA, step=2000, before_read=steady)
        download = downloads.fetch(DATA, source)
        nudge_until_over(downloads, download)
        assert download.finish() == DATA
        assert source.most_open == 1


class TestKeeping:
    def test_what_could_not_be_made_to_last_is_not_fetched_anew(
        self, downloads: Downloads, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def fails(_: object, __: int) -> None:
            raise StoreError("the disk gives errors")

        first = downloads.fetch(DATA, MemorySource(DATA))
        with monkeypatch.context() as failing:
            failing.setattr(type(first.staging), "finish", fails)
            first = downloads.fetch(content(70_000), MemorySource(content(70_000)))
            with pytest.raises(StoreError):
                first.finish()
            first.handle.close()
        source = MemorySource(content(70_000))
        assert downloads.fetch(content(70_000), source).finish() == content(70_000)
        assert not source.opened

    def test_what_is_there_and_wrong_is(self, downloads: Downloads, tmp_path: Path) -> None:
        source = MemorySource(DATA)
        _, staging = downloads._wanted(DATA, [source])
        Path(staging.data_path).write_bytes(spoiled(DATA))
        assert downloads.fetch(DATA, source).finish() == DATA
        assert source.sent == len(DATA)

    def test_one_of_no_bytes_is_asked_of_nobody(self, downloads: Downloads) -> None:
        source = MemorySource(b"")
        assert downloads.fetch(b"", source).finish() == b""
        assert not source.opened


class TestEnding:
    def test_nobody_waits_for_one_that_is_given_up(self, downloads: Downloads) -> None:
        source = MemorySource(DATA, before_read=waits)
        download = downloads.fetch(DATA, source)
        eventually(lambda: source.open_now == 1, "it to be asked for")
        download.handle.close()
        eventually(lambda: not download.staging.held, "the place to be given back")
        assert source.open_now == 0

    def test_a_source_that_ends_early_is_asked_again_until_it_is_given_up(self, downloads: Downloads) -> None:
        def ends(stream: MemoryStream) -> None:
            raise SourceBusy("refuses", refused=True)

        with pytest.raises(TransferError, match="refuses"):
            downloads.fetch(DATA, MemorySource(DATA, before_read=ends)).finish()


class TestDistances:
    def test_a_host_is_far_while_none_of_its_answers_came_soon(self) -> None:
        distances = Distances()
        assert not distances.any_far
        distances.note("a", 3 * FAR)
        assert distances.far("a")
        assert distances.any_far
        distances.note("a", FAR / 2)
        assert not distances.any_far
        distances.note("a", 9 * FAR)
        assert not distances.far("a")

    def test_more_are_asked_for_at_once_from_a_far_host_but_no_more_of_large_ones(self, tmp_path: Path) -> None:
        gate = threading.Event()
        sources: list[MemorySource] = []

        def source(data: bytes) -> MemorySource:
            sources.append(MemorySource(data, name="far", before_read=lambda _: wait_for(gate)))
            return sources[-1]

        def asked() -> int:
            return sum(each.open_now for each in sources)

        with Downloads(tmp_path, connections=4, per_host=4) as downloads:
            far = MemorySource(DATA, name="far", before_read=waits_long_enough)
            assert downloads.fetch(DATA, far).finish() == DATA
            small_ones = [content(1000, seed) for seed in range(60)]
            fetched = downloads.fetch_all(small_ones, source)
            eventually(lambda: asked() == 4 * MOST_THREADS, "as many as may be to be asked for")
            gate.set()
            assert [each.finish() for each in fetched] == small_ones
            gate.clear()
            large_ones = [content(MIB + 1, seed) for seed in range(12)]
            fetched = downloads.fetch_all(large_ones, source)
            eventually(lambda: asked() == 4, "as many as may be to be asked for")
            assert not gate.wait(0.3)
            assert asked() == 4
            gate.set()
            assert [each.finish() for each in fetched] == large_ones


def test_a_thread_that_ends_by_a_fault_keeps_neither_its_turn_nor_its_place(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    failed, real = threading.Event(), Pool._next

    def fails(pool: Pool) -> object:
        if pool._desk._holder == threading.get_ident() and not failed.is_set():  # in its own turn, and not another's
            failed.set()
            raise MemoryError
        return real(pool)

    monkeypatch.setattr(Pool, "_next", fails)
    with Downloads(tmp_path, connections=1) as downloads:
        pool, first = downloads.pool, downloads.fetch(DATA, MemorySource(DATA))
        assert failed.wait(20)
        eventually(lambda: not pool._workers, "it to be gone")
        assert not pool._desk._lock.locked()  # nor does it go by the next one, which may have the same number
        assert first.finish() == DATA
        other = content(70_000)
        assert downloads.fetch(other, MemorySource(other)).finish() == other


class TestIdleThreads:
    def test_none_wakes_for_what_is_over(self, downloads: Downloads, monkeypatch: pytest.MonkeyPatch) -> None:
        """Each small blob is looked at again after a while, in case its source has fallen silent by then: once it is
        over, that wakes nobody, least of all every thread that has nothing to do.
        """
        monkeypatch.setattr("towline.transfer.schedule.DUEL_AGE", 0.8)
        looks = 0
        choose = downloads.pool._schedule.choose

        def counted(now: float, *, small: bool) -> object:
            nonlocal looks
            looks += 1
            return choose(now, small=small)

        monkeypatch.setattr(downloads.pool._schedule, "choose", counted)
        gate = threading.Event()
        held = downloads.fetch(DATA, MemorySource(DATA, before_read=lambda _: wait_for(gate)))
        for other in downloads.fetch_all([content(size) for size in range(2000, 2100)], MemorySource):
            other.finish()
        looks = 0
        held.over.wait(1.0)
        assert looks < 50
        gate.set()
        assert held.finish() == DATA
