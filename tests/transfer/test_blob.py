"""One blob on its way: what no server can be made to do at the right moment, with doubles for its sources."""

from __future__ import annotations

import random
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from tests.support.pulling import eventually, open_files
from tests.transfer.doubles import (
    HANGS,
    MIB,
    Download,
    Downloads,
    FolderStaging,
    MemorySource,
    MemoryStream,
    Storm,
    content,
)
from towline import patience
from towline.errors import Cancelled, DigestMismatch, SourceBusy, SourceGone, Starved, TowlineError, TransferError
from towline.model.digest import Digest
from towline.patience import Patience
from towline.transfer import download as active
from towline.transfer import pool
from towline.transfer.front import Front
from towline.transfer.growing import GrowingFile
from towline.transfer.hashing import Hashing
from towline.transfer.journal import BLOCK_BYTES, Journal
from towline.transfer.pool import MOST_ACTIVE, Pool
from towline.transfer.slots import Slots
from towline.transfer.work import LOOK_AGAIN, Room, Wanted

SIZE = 20 * MIB
DATA = content(SIZE)


@pytest.fixture
def downloads(tmp_path: Path) -> Iterator[Downloads]:
    with Downloads(tmp_path) as downloads:
        yield downloads
    assert not open_files(tmp_path)


def gone(download: Download) -> None:
    """Waits until the last thread has left."""
    eventually(lambda: not download.staging.held, "the place to be given back")


def waits(stream: MemoryStream) -> None:
    stream.cancelled.wait(HANGS)


def waits_a_little(stream: MemoryStream) -> None:
    stream.cancelled.wait(0.001)


def waits_for(gate: threading.Event) -> None:
    gate.wait(HANGS)


class TestStorms:
    @pytest.mark.parametrize("seed", range(12))
    def test_every_byte_is_right_whatever_breaks(self, downloads: Downloads, seed: int) -> None:
        sources = [MemorySource(DATA, name=f"s{n}", before_read=Storm(seed + n, trouble=0.05)) for n in range(3)]
        assert downloads.fetch(DATA, *sources).finish() == DATA

    @pytest.mark.parametrize("size", [1, 1000, MIB, MIB + 1, 3 * MIB, 4 * MIB + 1, 9 * MIB])
    @pytest.mark.parametrize("ranged", [True, False])
    def test_a_blob_of_any_size_is_right_from_sources_that_honour_ranges_and_that_do_not(
        self, downloads: Downloads, size: int, ranged: bool
    ) -> None:
        data = DATA[:size]
        source = MemorySource(data, before_read=Storm(size, trouble=0.02))
        source.ranged = ranged
        assert downloads.fetch(data, source).finish() == data

    @pytest.mark.parametrize("seed", range(8))
    def test_given_up_and_begun_again_at_any_moment_it_believes_only_what_is_true(
        self, downloads: Downloads, seed: int
    ) -> None:
        dice = random.Random(seed)
        whole = False
        while not whole:
            source = MemorySource(DATA, before_read=Storm(dice.randrange(1000), trouble=0.05))
            download = downloads.fetch(DATA, source)
            whole = came_to(download, download.transfer.completed + dice.randrange(8 * MIB))
            if not whole:
                download.handle.close()
                gone(download)
                check_journal(download)
        assert download.finish() == DATA

    def test_many_blobs_at_once_are_all_right(self, downloads: Downloads) -> None:
        blobs = [content(size, size) for size in range(1, 60_000, 600)]
        fetched = [
            downloads.fetch(data, MemorySource(data, before_read=Storm(len(data), trouble=0.02))) for data in blobs
        ]
        assert [download.finish() for download in fetched] == blobs


def came_to(download: Download, count: int) -> bool:
    """Waits until so many bytes are there; tells whether that was the end of it."""
    transfer = download.transfer
    eventually(lambda: transfer.concluded or transfer.completed >= count, f"{count} bytes to come")
    return transfer.concluded


def check_journal(download: Download) -> None:
    """What the journal tells is on disk, and is what it should be."""
    journal = Journal(download.staging.journal_path, SIZE, download.transfer.digest)
    places = (download.staging.whole, Path(download.staging.data_path))  # given up at the very end, it is whole
    data = next((place.read_bytes() for place in places if place.exists()), b"")
    recovered = journal.recover()
    for block in (*recovered.blocks(), *recovered.pieces()):
        assert block.matches(data[block.start : block.stop])
        assert data[block.start : block.stop] == DATA[block.start : block.stop]
    journal.close()


class TestJudging:
    def test_whoever_hashed_the_last_byte_judges_and_nobody_else(
        self, downloads: Downloads, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """A thread is through with hashing; before it looks whether that was all, another hashes the rest."""
        through, judged, judged_twice = threading.Event(), threading.Event(), threading.Event()
        real_step, real_finish = active.Download._step, FolderStaging.finish
        data = DATA[: 2 * BLOCK_BYTES]

        def step(download: active.Download) -> object:
            answer = real_step(download)
            if answer is None and not through.is_set():
                through.set()
                judged.wait(HANGS)
            return answer

        def finish(staging: FolderStaging, file: int) -> None:
            (judged_twice if judged.is_set() else judged).set()
            judged_twice.wait(0.3)
            real_finish(staging, file)

        def second_half_waits(stream: MemoryStream) -> None:
            if stream.at >= BLOCK_BYTES:
                through.wait(HANGS)

        monkeypatch.setattr(active.Download, "_step", step)
        monkeypatch.setattr(FolderStaging, "finish", finish)
        download = downloads.fetch(data, MemorySource(data, before_read=second_half_waits))
        assert download.finish() == data
        gone(download)
        assert not judged_twice.is_set()

    def test_an_overtaken_connection_of_the_first_try_does_no_harm_to_the_second(self, downloads: Downloads) -> None:
        """The blob proves wrong while one stream of it still hangs; it wakes in the middle of the second try."""
        wrong = bytearray(DATA)
        wrong[5] ^= 1
        bad = MemorySource(bytes(wrong), name="bad")
        hanging, wake = threading.Event(), threading.Event()
        good_may_go = threading.Event()

        def one_hangs(stream: MemoryStream) -> None:
            if stream.at > 10 * MIB and not hanging.is_set():
                hanging.set()
                wake.wait(HANGS)

        def holds(stream: MemoryStream) -> None:
            if stream.at > 3 * MIB:
                wake.set()
                good_may_go.wait(HANGS)

        bad.before_read = one_hangs
        good = MemorySource(DATA, name="good", before_read=holds)
        download = downloads.fetch(DATA, bad, good)
        assert wake.wait(30)
        eventually(lambda: bad.open_now == 0, "the hanging connection to leave")
        good_may_go.set()
        assert download.finish() == DATA

    def test_a_source_that_is_wrong_twice_is_an_error_and_nothing_is_kept(self, downloads: Downloads) -> None:
        source = MemorySource(bytes(SIZE))
        download = downloads.fetch(DATA, source)
        with pytest.raises(DigestMismatch, match="memory"):
            download.finish()
        download.handle.close()
        gone(download)
        assert source.sent == 2 * SIZE
        assert download.staging.discarded == 1
        assert not list(download.staging.folder.iterdir())

    def test_a_source_that_is_wrong_is_left_for_one_that_is_not(self, downloads: Downloads) -> None:
        sources = [MemorySource(bytes(SIZE), name="wrong"), MemorySource(DATA, name="right")]
        assert downloads.fetch(DATA, *sources).finish() == DATA

    def test_where_the_only_other_source_is_gone_a_bit_flipped_on_the_way_is_fetched_again_from_the_first(
        self, downloads: Downloads
    ) -> None:
        flipped = bytearray(DATA)
        flipped[7] ^= 1
        once = MemorySource(bytes(flipped), name="first")

        def right_the_second_time(stream: MemoryStream) -> None:
            if once.sent >= SIZE:
                once.data = DATA

        def refuse(stream: MemoryStream) -> None:
            raise SourceGone("it is gone")

        once.before_read = right_the_second_time
        other = MemorySource(DATA, name="other", before_read=refuse)
        assert downloads.fetch(DATA, once, other).finish() == DATA


class TestEnding:
    def test_an_error_that_nobody_expected_ends_the_download_and_no_thread(self, downloads: Downloads) -> None:
        def fail(stream: MemoryStream) -> None:
            raise ZeroDivisionError

        for _ in range(3):
            with pytest.raises(TransferError, match="by a fault in towline"):
                downloads.fetch(DATA, MemorySource(DATA, before_read=fail)).finish()
        assert downloads.fetch(DATA[:MIB], MemorySource(DATA[:MIB])).finish() == DATA[:MIB]

    def test_work_that_fails_where_nothing_should_leaves_its_thread_to_others(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def fails(*_: object) -> None:
            raise MemoryError

        with Downloads(tmp_path, connections=1) as downloads:
            with monkeypatch.context() as failing:
                failing.setattr(active.Download, "_fetch", fails)
                download = downloads.fetch(DATA, MemorySource(DATA))
                with pytest.raises(Starved):
                    download.finish()
                download.handle.close()
            other = content(2 * MIB)
            assert downloads.fetch(other, MemorySource(other)).finish() == other

    def test_cancelling_ends_streams_that_wait(self, downloads: Downloads) -> None:
        source = MemorySource(DATA, before_read=lambda stream: (stream.cancelled.wait(HANGS) and None) or None)
        download = downloads.fetch(DATA, source)
        eventually(lambda: source.open_now > 0, "a stream to be open")
        download.handle.close()
        gone(download)
        assert isinstance(download.transfer.error, Cancelled)
        assert source.open_now == 0

    def test_the_last_of_two_who_wait_for_a_blob_ends_it_and_not_the_first(self, downloads: Downloads) -> None:
        gate = threading.Event()
        source = MemorySource(DATA, before_read=lambda _: waits_for(gate))
        one, two = downloads.fetch(DATA, source), downloads.fetch(DATA, source)
        assert one.transfer is two.transfer
        one.handle.close()
        assert not two.transfer.concluded
        gate.set()
        assert two.finish() == DATA

    def test_whoever_joins_brings_further_sources(self, downloads: Downloads) -> None:
        def busy(stream: MemoryStream) -> None:
            raise SourceBusy("later")

        one = downloads.fetch(DATA, MemorySource(DATA, name="busy", before_read=busy))
        two = downloads.fetch(DATA, MemorySource(DATA, name="good"))
        assert two.finish() == DATA
        one.handle.close()

    def test_a_listener_is_called_once_however_late_it_comes(self, downloads: Downloads) -> None:
        calls: list[str] = []
        download = downloads.fetch(DATA, MemorySource(DATA))
        download.transfer.listen(lambda: calls.append("early"))
        download.finish()
        download.transfer.listen(lambda: calls.append("late"))
        assert calls == ["early", "late"]

    def test_without_any_source_it_is_an_error_at_once(self, downloads: Downloads) -> None:
        with pytest.raises(TransferError, match="no source is known"):
            downloads.fetch(DATA).finish()

    def test_closing_the_pool_ends_what_is_under_way(self, tmp_path: Path) -> None:
        with Downloads(tmp_path) as downloads:
            source = MemorySource(DATA, before_read=waits)
            download = downloads.fetch(DATA, source)
            eventually(lambda: source.open_now > 0, "a stream to be open")
        assert isinstance(download.transfer.error, Cancelled)
        assert not download.staging.held


class TestGivingBack:
    def test_a_place_that_a_hashing_thread_gives_back_is_taken_by_a_receiver_that_waits_for_one(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """All places are taken by blobs that came and wait for the hash, and every receiving thread is idle."""
        monkeypatch.setattr(active, "INLINE_BYTES", 0)
        data, goes_on, real = content(BLOCK_BYTES), threading.Event(), Front.feed
        blobs = [bytes([number]) + data for number in range(MOST_ACTIVE + 20)]

        def feed(front: Front, piece: memoryview) -> None:
            goes_on.wait(HANGS)
            real(front, piece)

        monkeypatch.setattr(Front, "feed", feed)

        def idle(pool: Pool) -> bool:
            return pool._idle == len(pool._workers) > 0 and pool._schedule.due is None

        with Downloads(tmp_path) as downloads:
            fetched = downloads.fetch_all(blobs, MemorySource)
            eventually(lambda: idle(downloads.pool), "the receivers to be idle")
            goes_on.wait(2 * LOOK_AGAIN)  # from here on none looks by itself
            came = [each for each in fetched if each.transfer.begun]
            assert len(came) == MOST_ACTIVE
            goes_on.set()
            # Before the first is let go, which looks for another to begin as well: a pull lets all go at its end.
            assert all(each.over.wait(20) for each in fetched)
            assert [each.finish() for each in fetched] == blobs

    def test_one_that_has_no_place_yet_keeps_none_from_more_connections(self, tmp_path: Path) -> None:
        with Downloads(tmp_path) as downloads:
            pool = downloads.pool
            pool._terms = replace(pool._terms, large=Room(pool._terms.large.slots, Slots(1, pool._freed)))
            source = MemorySource(DATA, before_read=waits_a_little, step=1 << 18)
            data = content(BLOCK_BYTES + 1)
            first, second = downloads.fetch_all(
                [DATA, data], lambda each: source if each == DATA else MemorySource(each)
            )
            assert first.finish() == DATA
            assert second.finish() == data
        assert source.most_open > 1

    def test_a_host_that_hangs_keeps_no_other_from_a_thread(self, tmp_path: Path) -> None:
        hung = [content(1000, seed) for seed in range(8)]
        with Downloads(tmp_path, connections=4, per_host=4) as downloads:
            for data in hung:
                downloads.fetch(data, MemorySource(data, name="hangs", before_read=waits))
            eventually(lambda: len(downloads.pool._workers) == 4, "all threads to be taken")
            other = downloads.fetch(DATA, MemorySource(DATA, name="well"))

            def over() -> bool:
                downloads.pool.nudge()
                return other.over.is_set()

            eventually(over, "the other to come")
            assert other.finish() == DATA

    def test_a_listener_that_raises_keeps_no_other_from_hearing(self, downloads: Downloads) -> None:
        goes_on, heard = threading.Event(), threading.Event()
        download = downloads.fetch(DATA, MemorySource(DATA, before_read=lambda _: waits_for(goes_on)))
        download.transfer.listen(lambda: 1 // 0)  # type: ignore[arg-type]
        download.transfer.listen(heard.set)
        goes_on.set()
        assert download.finish() == DATA
        assert heard.wait(20)


class TestBounds:
    def test_no_blob_gets_more_connections_than_it_may(self, tmp_path: Path) -> None:
        source = MemorySource(DATA, step=50_000, before_read=waits_a_little)
        with Downloads(tmp_path, connections=3) as downloads:
            downloads.fetch(DATA, source).finish()
        assert source.most_open <= 3

    def test_no_host_gets_more_connections_than_it_may_and_only_a_few_blobs_are_begun_that_wait_for_one(
        self, tmp_path: Path
    ) -> None:
        asked, answers = threading.Semaphore(0), threading.Event()

        def waits(stream: MemoryStream) -> None:
            asked.release()
            answers.wait(HANGS)

        blobs = [content(10_000, seed) for seed in range(20)]
        with Downloads(tmp_path, connections=8, per_host=2) as downloads:
            fetched = [downloads.fetch(data, MemorySource(data, before_read=waits)) for data in blobs]
            begun = [asked.acquire(timeout=20), asked.acquire(timeout=20), asked.acquire(timeout=0.3)]
            held = sum(download.staging.held for download in fetched)
            answers.set()
            assert [download.finish() for download in fetched] == blobs
        assert begun == [True, True, False]
        assert held <= 8

    def test_where_a_registry_asks_to_wait_no_more_blobs_are_begun_than_may_be(self, tmp_path: Path) -> None:
        busy = threading.Event()

        def waits(_: MemoryStream) -> None:
            if not busy.is_set():
                raise SourceBusy("asks to wait", retry_after=0.5)

        blobs = [content(1000, seed) for seed in range(MOST_ACTIVE + 40)]
        with Downloads(tmp_path, connections=4) as downloads:
            fetched = downloads.fetch_all(blobs, lambda data: MemorySource(data, before_read=waits))
            eventually(lambda: sum(each.staging.held for each in fetched) == MOST_ACTIVE, "all that may be are begun")
            held = [sum(each.staging.held for each in fetched) for _ in range(20) if not busy.wait(0.01)]
            busy.set()
            assert [each.finish() for each in fetched] == blobs
        assert max(held) <= MOST_ACTIVE

    def test_a_source_that_is_free_again_is_asked_though_another_asks_to_wait(self, tmp_path: Path) -> None:
        """Both are of one blob: the first has its one connection busy with another blob, the second says later."""
        first, goes_on = threading.Event(), threading.Event()

        def holds(_: MemoryStream) -> None:
            first.set()
            goes_on.wait(HANGS)

        def later(_: MemoryStream) -> None:
            raise SourceBusy("asks to wait", retry_after=3600.0)

        one, two = content(10_000, 1), content(10_000, 2)
        with Downloads(tmp_path, connections=4, per_host=1) as downloads:
            holding = downloads.fetch(one, MemorySource(one, name="a", before_read=holds))
            assert first.wait(20)
            waiting = downloads.fetch(two, MemorySource(two, name="a"), MemorySource(two, name="b", before_read=later))
            assert not waiting.over.wait(1.5)
            goes_on.set()
            assert waiting.finish() == two
            assert holding.finish() == one

    def test_a_small_blob_is_hashed_before_a_large_one_is_through(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """The only hashing thread is in the middle of the large one when the small one has come whole."""
        large, small = content(64 * MIB, 1), content(5 * MIB, 2)
        begun, goes_on, order, real = threading.Event(), threading.Event(), list[str](), Front.feed

        def feed(front: Front, data: memoryview) -> None:
            begun.set()
            goes_on.wait(HANGS)
            real(front, data)

        monkeypatch.setattr(Front, "feed", feed)
        with Downloads(tmp_path, hashers=1) as downloads:
            one = downloads.fetch(large, MemorySource(large))
            one.transfer.listen(lambda: order.append("large"))
            assert begun.wait(20)
            other = downloads.fetch(small, MemorySource(small))
            other.transfer.listen(lambda: order.append("small"))
            eventually(lambda: other.transfer.completed == len(small) - 1, "all of the small one came")
            goes_on.set()
            assert other.finish() == small
            assert one.finish() == large
        assert order == ["small", "large"]

    def test_a_source_that_ignores_ranges_gets_one_stream_at_a_time(self, downloads: Downloads) -> None:
        source = MemorySource(DATA)
        source.ranged = False
        downloads.fetch(DATA, source).finish()
        assert source.most_open == 1
        assert source.opened == [(0, SIZE)]

    def test_what_is_fetched_is_what_is_missing(self, downloads: Downloads) -> None:
        source = MemorySource(DATA)
        downloads.fetch(DATA, source).finish()
        assert source.sent < SIZE + 8 * MIB

    def test_completed_never_falls_and_is_whole_only_at_the_end(self, downloads: Downloads) -> None:
        wrong = bytearray(DATA)
        wrong[-1] ^= 1
        sources = [MemorySource(bytes(wrong), name="wrong"), MemorySource(DATA, name="right")]
        download = downloads.fetch(DATA, *sources)
        seen = [0]
        while not download.over.wait(0.0005):
            seen.append(download.transfer.completed)
            assert seen[-1] < SIZE or download.transfer.concluded
        assert seen == sorted(seen)
        assert download.finish() == DATA

    def test_a_place_that_another_process_has_is_waited_for(self, downloads: Downloads) -> None:
        digest = Digest.of(DATA)
        staging = FolderStaging(downloads.folder / "held")
        staging.free = False
        source = MemorySource(DATA)
        (handle,) = downloads.pool.fetch([Wanted(digest, SIZE, [source], staging)], object(), Patience(20.0))
        download = Download(handle, staging)
        assert not download.over.wait(0.3)
        assert not source.opened
        staging.free = True
        assert download.finish() == DATA

    def test_a_place_whose_holder_gives_signs_of_life_is_waited_for_and_one_whose_holder_does_not_says_so(
        self, downloads: Downloads, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(patience, "LASTING", 1.0)
        staging = FolderStaging(downloads.folder / "held")
        staging.free = False
        download = begun(downloads, staging)
        eventually(lambda: download.transfer.pulse().waits, "it to follow")
        eventually(lambda: not download.transfer.pulse().rests, "the last sign to be long ago")
        assert "another process holds the download" in download.transfer.trouble
        staging.sign()
        eventually(lambda: download.transfer.pulse().rests, "the sign to be seen")
        assert download.transfer.pulse().received == 0
        staging.free = True
        assert download.finish() == DATA

    def test_a_place_that_no_thread_has_time_to_look_at_waits_for_its_turn_and_for_no_source(
        self, tmp_path: Path
    ) -> None:
        gate = threading.Event()
        staging = FolderStaging(tmp_path / "held")
        staging.free = False
        with Downloads(tmp_path, connections=1) as downloads:
            following = begun(downloads, staging)
            eventually(lambda: following.transfer.pulse().waits, "it to follow")
            other = downloads.fetch(DATA[:MIB], MemorySource(DATA[:MIB], before_read=lambda _: waits_for(gate)))
            eventually(lambda: not following.transfer.pulse().waits, "the only thread to be taken")
            gate.set()
            assert other.finish() == DATA[:MIB]
            staging.free = True
            assert following.finish() == DATA


class SlowStaging(FolderStaging):
    """Its disk takes as long as the test wants, at the step that the test names."""

    def __init__(self, folder: Path, step: str) -> None:
        super().__init__(folder)
        self.step = step
        self.waiting, self.gate = threading.Event(), threading.Event()

    def _wait(self, step: str) -> None:
        if step == self.step:
            self.waiting.set()
            assert self.gate.wait(30)

    def leftover(self) -> list[tuple[int, int]]:
        self._wait("leftover")
        return super().leftover()

    def forget_leftover(self) -> None:
        self._wait("forget")

    def finish(self, file: int) -> None:
        self._wait("finish")
        super().finish(file)


class Inherited(FolderStaging):
    """Another program has left all of it, and nothing of that is right."""

    def leftover(self) -> list[tuple[int, int]]:
        Path(self.data_path).write_bytes(bytes(SIZE))
        return [(0, SIZE)]


def begun(downloads: Downloads, staging: FolderStaging, *sources: MemorySource, patient: bool = False) -> Download:
    """The download of the blob in this place."""
    wanted = Wanted(Digest.of(DATA), SIZE, sources or [MemorySource(DATA)], staging)
    (handle,) = downloads.pool.fetch([wanted], object(), Patience(20.0, endless=patient))
    return Download(handle, staging)


class TestSigns:
    """What a holder tells those who follow."""

    @pytest.fixture(autouse=True)
    def often(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(pool, "SIGN_SECONDS", 0.05)

    def test_one_who_does_nothing_but_wait_for_his_sources_gives_none(self, downloads: Downloads) -> None:
        source = MemorySource(DATA, before_read=waits)
        download = downloads.fetch(DATA, source)
        eventually(lambda: source.open_now > 0, "a stream to be open")
        seen = [-1, download.staging.signs]
        while seen[-1] != seen[-2]:
            assert not download.over.wait(0.5)
            seen.append(download.staging.signs)
            assert len(seen) < 20

    @pytest.mark.parametrize("step", ["leftover", "finish"])
    def test_one_who_waits_for_his_disk_gives_them(self, downloads: Downloads, step: str) -> None:
        staging = SlowStaging(downloads.folder / "slow", step)
        download = begun(downloads, staging)
        assert staging.waiting.wait(20)
        assert download.transfer.pulse().rests
        before = staging.signs
        eventually(lambda: staging.signs > before + 2, "signs of life")
        staging.gate.set()
        assert download.finish() == DATA

    def test_a_place_that_was_let_go_is_signed_for_until_it_is_given_back_and_is_no_other_process_s(
        self, downloads: Downloads
    ) -> None:
        staging = SlowStaging(downloads.folder / "slow", "finish")
        download = begun(downloads, staging)
        assert staging.waiting.wait(20)
        download.handle.close()
        before = staging.signs
        eventually(lambda: staging.signs > before + 2, "signs of life")
        theirs = FolderStaging(staging.folder)
        theirs.free = False
        again = begun(downloads, theirs)
        eventually(lambda: again.transfer.pulse().waits, "it to follow")
        assert "an earlier download" in again.transfer.trouble
        staging.gate.set()
        eventually(lambda: not downloads.pool._terms.places, "the place to be given back")
        theirs.free = True
        assert again.finish() == DATA


class TestFaults:
    """What nobody expects ends the download, and leaves nothing behind."""

    def check_over(self, downloads: Downloads, download: Download, error: type[TowlineError]) -> None:
        with pytest.raises(error):
            download.finish()
        gone(download)
        assert not downloads.pool._terms.large.slots._taken
        assert not download.transfer.pulse().rests

    def test_while_a_block_is_hashed_by_the_thread_that_received_it(
        self, downloads: Downloads, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(GrowingFile, "hashed", lambda *_: 1 // 0)
        download = downloads.fetch(DATA[: 2 * MIB], MemorySource(DATA[: 2 * MIB]))
        self.check_over(downloads, download, TransferError)

    def test_while_a_block_is_handed_to_one_that_hashes(
        self, downloads: Downloads, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(Hashing, "soon", lambda *_: 1 // 0)
        self.check_over(downloads, downloads.fetch(DATA, MemorySource(DATA)), TransferError)

    def test_while_a_connection_is_about_to_begin(self, downloads: Downloads, monkeypatch: pytest.MonkeyPatch) -> None:
        def none(*_: object) -> None:
            raise MemoryError

        monkeypatch.setattr(active, "Reception", none)
        self.check_over(downloads, downloads.fetch(DATA, MemorySource(DATA)), Starved)

    def test_while_the_place_is_taken(self, downloads: Downloads, monkeypatch: pytest.MonkeyPatch) -> None:
        def none(*_: object) -> None:
            raise MemoryError

        monkeypatch.setattr("towline.transfer.blob.Download", none)
        self.check_over(downloads, downloads.fetch(DATA, MemorySource(DATA)), Starved)


class TestAnew:
    def test_while_the_disk_forgets_wrong_bytes_nobody_waits_for_it(self, downloads: Downloads) -> None:
        staging = SlowStaging(downloads.folder / "slow", "forget")
        source = MemorySource(bytes(SIZE))
        download = begun(downloads, staging, source)
        assert staging.waiting.wait(20)
        source.data = DATA
        asked = threading.Thread(target=download.transfer.silent, args=(0.0,), daemon=True)
        asked.start()
        asked.join(5)
        assert not asked.is_alive()
        staging.gate.set()
        assert download.finish() == DATA

    def test_what_comes_then_is_not_far_ahead_of_the_hash(
        self, downloads: Downloads, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        hashed, goes_on, real = [0], threading.Event(), Front.feed

        def feed(front: Front, piece: memoryview) -> None:
            if hashed[0] >= SIZE:
                goes_on.wait(HANGS)
            hashed[0] += len(piece)
            real(front, piece)

        monkeypatch.setattr(Front, "feed", feed)
        monkeypatch.setattr(active, "LEAD_BYTES", 2 * MIB)
        source = MemorySource(DATA, step=MIB // 4)
        download = begun(downloads, Inherited(downloads.folder / "inherited"), source)
        eventually(lambda: source.sent > 2 * MIB, "it to be fetched anew")
        assert not download.over.wait(0.7)
        assert source.sent < SIZE - 4 * MIB
        goes_on.set()
        assert download.finish() == DATA


class TestWhatIsToldOfIt:
    @pytest.mark.parametrize("size", [1000, SIZE])
    @pytest.mark.parametrize("final_first", [True, False])
    def test_of_several_failures_the_one_that_somebody_can_act_on(
        self, downloads: Downloads, size: int, final_first: bool
    ) -> None:
        def refuses(_: MemoryStream) -> None:
            raise SourceGone("your plan ended; renew it")

        def is_busy(_: MemoryStream) -> None:
            raise SourceBusy("503 of the other")

        data, tried = DATA[:size], threading.Event()
        final, busy = MemorySource(data, name="final", before_read=refuses), MemorySource(data, name="busy")

        def counts(stream: MemoryStream) -> None:
            if len(busy.opened) > 2 and final.opened:
                tried.set()
            is_busy(stream)

        busy.before_read = counts
        download = downloads.fetch(data, *((final, busy) if final_first else (busy, final)))
        assert tried.wait(20)
        assert "renew it" in download.transfer.trouble
        download.handle.close()

    def test_one_that_lost_its_connection_to_another_waits_for_its_turn_and_for_no_source(self, tmp_path: Path) -> None:
        reading, breaks, goes_on = threading.Event(), threading.Event(), threading.Event()

        def once(stream: MemoryStream) -> None:
            if not breaks.is_set():
                reading.set()
                breaks.wait(HANGS)
                raise SourceBusy("broken", retry_after=0.7)

        other_data = content(2 * MIB, 7)
        with Downloads(tmp_path, connections=4, per_host=1) as downloads:
            download = downloads.fetch(DATA, MemorySource(DATA, name="a", before_read=once))
            assert reading.wait(20)
            other = downloads.fetch(
                other_data, MemorySource(other_data, name="a", before_read=lambda _: waits_for(goes_on))
            )
            breaks.set()
            eventually(lambda: not download.transfer.pulse().waits, "it to wait for its turn")
            goes_on.set()
            assert other.finish() == other_data
            assert download.finish() == DATA

    def test_only_those_who_wait_for_it_are_patient(self, downloads: Downloads) -> None:
        def refuses(_: MemoryStream) -> None:
            raise SourceBusy("refused", refused=True)

        staging = FolderStaging(downloads.folder / "refused")
        source = MemorySource(DATA, before_read=refuses)
        download = begun(downloads, staging, source)
        patient = begun(downloads, staging, source, patient=True)
        assert not download.over.wait(2.0)  # twice what sources that refuse are given
        patient.handle.close()
        assert download.over.wait(10)
        assert "refused" in str(download.transfer.error)
