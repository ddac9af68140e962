"""The journal: whatever happens to its file, it never tells of a block that was not written."""

from __future__ import annotations

import hashlib
import itertools
import os
import random
import threading
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from towline.model.digest import Digest
from towline.transfer.journal import BLOCK_BYTES, Block, Journal, checksum, journaled_bytes

HEADER, RECORD = 56, 32
SIZE = 64
DIGEST = Digest(hashlib.sha256(b"x").hexdigest())
OTHER = Digest(hashlib.sha256(b"y").hexdigest())

writes = st.lists(st.tuples(st.integers(0, SIZE - 1), st.integers(1, 20), st.integers(0, 255)), min_size=1, max_size=12)


def block(start: int, length: int, byte: int) -> tuple[int, bytes]:
    return start, bytes([byte]) * min(length, SIZE - start)


def written(blocks: list[tuple[int, bytes]]) -> set[Block]:
    return {Block(start, len(data), checksum(data)) for start, data in blocks}


def journal_of(directory: Path, blocks: list[tuple[int, bytes]], *, name: str = "journal") -> Path:
    path = directory / name
    path.unlink(missing_ok=True)
    append(path, blocks)
    return path


def append(path: Path, blocks: list[tuple[int, bytes]]) -> None:
    journal = Journal(str(path), SIZE, DIGEST)
    for start, data in blocks:
        journal.append(start, memoryview(data))
    journal.close()


def recover(path: Path, size: int = SIZE, digest: Digest = DIGEST) -> list[Block]:
    journal = Journal(str(path), size, digest)
    blocks = journal.recover()
    journal.close()
    return blocks


def check(recovered: list[Block]) -> None:
    """In order, without overlaps, inside the file."""
    assert all(one.stop <= other.start for one, other in itertools.pairwise(recovered))
    assert all(0 <= each.start < each.stop <= SIZE for each in recovered)


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("journals")


class TestWhole:
    @given(writes)
    def test_later_blocks_win_over_those_that_they_overlap(
        self, directory: Path, steps: list[tuple[int, int, int]]
    ) -> None:
        blocks = [block(*step) for step in steps]
        standing: list[Block] = []
        for start, data in blocks:
            new = Block(start, len(data), checksum(data))
            standing = [old for old in standing if old.stop <= new.start or new.stop <= old.start] + [new]
        assert recover(journal_of(directory, blocks)) == sorted(standing)

    def test_blocks_of_threads_that_write_at_once_are_all_there(self, tmp_path: Path) -> None:
        journal = Journal(str(tmp_path / "journal"), 8 * 1000, DIGEST)
        data = memoryview(b"x")

        def write(worker: int) -> None:
            for index in range(500):
                journal.append(worker * 1000 + index, data)

        threads = [threading.Thread(target=write, args=(worker,)) for worker in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        journal.close()
        assert len(recover(tmp_path / "journal", 8 * 1000)) == 8 * 500

    def test_no_journal_means_no_blocks(self, tmp_path: Path) -> None:
        assert recover(tmp_path / "journal") == []
        assert not (tmp_path / "journal").exists()

    @pytest.mark.parametrize(("size", "digest"), [(SIZE + 1, DIGEST), (SIZE, OTHER)])
    def test_the_journal_of_something_else_is_begun_anew(self, tmp_path: Path, size: int, digest: Digest) -> None:
        path = journal_of(tmp_path, [(0, b"abc")])
        assert recover(path, size, digest) == []
        assert recover(path) == []

    def test_reset_forgets_every_block(self, tmp_path: Path) -> None:
        path = tmp_path / "journal"
        journal = Journal(str(path), SIZE, DIGEST)
        journal.append(0, memoryview(b"abc"))
        journal.reset()
        journal.append(5, memoryview(b"abc"))
        journal.close()
        assert recover(path) == [Block(5, 3, checksum(b"abc"))]

    def test_a_follower_sees_how_many_bytes_are_there(self, tmp_path: Path) -> None:
        path = journal_of(tmp_path, [(0, b"abc"), (10, b"de"), (0, b"abc")])
        assert journaled_bytes(str(path), SIZE, DIGEST) == 5
        assert journaled_bytes(str(path), SIZE, OTHER) == 0
        assert journaled_bytes(str(tmp_path / "none"), SIZE, DIGEST) == 0

    def test_closing_twice_is_no_matter(self, tmp_path: Path) -> None:
        journal = Journal(str(tmp_path / "journal"), SIZE, DIGEST)
        journal.append(0, memoryview(b"abc"))
        journal.close()
        journal.close()


class TestDamaged:
    @given(writes, st.data())
    def test_a_torn_tail_costs_only_the_records_that_it_reaches(
        self, directory: Path, steps: list[tuple[int, int, int]], data: st.DataObject
    ) -> None:
        blocks = [block(*step) for step in steps]
        path = journal_of(directory, blocks)
        length = data.draw(st.integers(0, path.stat().st_size))
        os.truncate(path, length)
        whole = max(0, (length - HEADER) // RECORD)
        assert recover(path) == (recover(journal_of(directory, blocks[:whole], name="whole")) if whole else [])

    @given(writes, st.lists(st.tuples(st.integers(0, 10_000), st.integers(1, 255)), min_size=1, max_size=8))
    def test_flipped_bytes_never_make_a_block_that_was_not_written(
        self, directory: Path, steps: list[tuple[int, int, int]], flips: list[tuple[int, int]]
    ) -> None:
        blocks = [block(*step) for step in steps]
        path = journal_of(directory, blocks)
        raw = bytearray(path.read_bytes())
        for at, mask in flips:
            raw[at % len(raw)] ^= mask
        path.write_bytes(raw)
        recovered = recover(path)
        assert set(recovered) <= written(blocks)
        check(recovered)

    @given(writes, st.data())
    def test_a_record_that_is_lost_in_the_middle_costs_only_itself(
        self, directory: Path, steps: list[tuple[int, int, int]], data: st.DataObject
    ) -> None:
        blocks = [block(*step) for step in steps]
        path = journal_of(directory, blocks)
        lost = data.draw(st.sets(st.integers(0, len(blocks) - 1), max_size=len(blocks)))
        raw = bytearray(path.read_bytes())
        for index in lost:  # a page that never reached the disk reads as zeros
            raw[HEADER + index * RECORD : HEADER + (index + 1) * RECORD] = bytes(RECORD)
        path.write_bytes(raw)
        kept = [each for index, each in enumerate(blocks) if index not in lost]
        assert recover(path) == (recover(journal_of(directory, kept, name="kept")) if kept else [])

    @given(writes, writes, st.data())
    def test_what_is_appended_after_a_torn_tail_is_found(
        self,
        directory: Path,
        before: list[tuple[int, int, int]],
        after: list[tuple[int, int, int]],
        data: st.DataObject,
    ) -> None:
        old, new = [block(*step) for step in before], [block(*step) for step in after]
        path = journal_of(directory, old)
        length = data.draw(st.integers(0, path.stat().st_size))
        os.truncate(path, length)
        survivors = old[: max(0, (length - HEADER) // RECORD)]
        journal = Journal(str(path), SIZE, DIGEST)
        journal.recover()
        for start, content in new:
            journal.append(start, memoryview(content))
        journal.close()
        assert recover(path) == recover(journal_of(directory, survivors + new, name="expected"))

    @given(st.binary(max_size=400))
    def test_any_bytes_at_all_are_read_without_an_error(self, directory: Path, raw: bytes) -> None:
        path = directory / "journal"
        path.write_bytes(raw)
        assert recover(path) == []

    @given(st.binary(max_size=400))
    def test_any_records_at_all_are_read_without_an_error(self, directory: Path, raw: bytes) -> None:
        path = journal_of(directory, [(0, b"abc")])
        path.write_bytes(path.read_bytes()[:HEADER] + raw)
        check(recover(path))

    def test_a_good_record_of_impossible_bytes_is_not_believed(self, tmp_path: Path) -> None:
        path = tmp_path / "journal"
        journal = Journal(str(path), SIZE, DIGEST)
        journal.append(SIZE - 1, memoryview(b"ab"))
        journal.append(0, memoryview(bytes(BLOCK_BYTES + 1)))
        journal.append(3, memoryview(b""))
        journal.append(2**64 - 1, memoryview(b"ab"))
        journal.append(7, memoryview(b"good"))
        journal.close()
        assert recover(path) == [Block(7, 4, checksum(b"good"))]

    def test_a_journal_that_is_a_folder_counts_as_none(self, tmp_path: Path) -> None:
        (tmp_path / "journal").mkdir()
        assert journaled_bytes(str(tmp_path / "journal"), SIZE, DIGEST) == 0


def test_a_journal_of_twenty_thousand_blocks_is_settled_whatever_their_order(tmp_path: Path) -> None:
    order = list(range(20_000))
    random.Random(1).shuffle(order)
    path = tmp_path / "journal"
    journal = Journal(str(path), len(order), DIGEST)
    data = memoryview(b"x")
    for start in order:
        journal.append(start, data)
    journal.close()
    assert [each.start for each in recover(path, len(order))] == sorted(order)
