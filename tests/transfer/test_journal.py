"""The journal: whatever happens to its file, what it tells is compared with the bytes, and costs no more than them."""

from __future__ import annotations

import itertools
import os
import random
import resource
import subprocess
import sys
import threading
from collections.abc import Iterable
from pathlib import Path

import pytest
import xxhash
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.transfer.old_journal import written_records
from towline.model.checksums import BLOCK_BYTES, TABLE_AT, Checksums, blocks_in, checksum
from towline.model.digest import Digest
from towline.transfer.journal import Journal, journaled_bytes
from towline.transfer.recovered import Block, Recovered

SIZE = 4 * BLOCK_BYTES + 1000
BYTES = random.Random(3).randbytes(SIZE)
DATA = memoryview(BYTES)
DIGEST = Digest.of(BYTES)
OTHER = Digest.of(b"other")
FIFTY_GB = 50 * 10**9
SAMPLE = 500

# The bytes of a blob come in some order, cut anywhere, and some of them twice.
cuts = st.sets(st.integers(1, SIZE - 1), min_size=1, max_size=12).map(lambda found: [0, *sorted(found), SIZE])
writes = cuts.flatmap(
    lambda found: st.lists(
        st.sampled_from([(a, min(b, a + BLOCK_BYTES)) for a, b in itertools.pairwise(found)]),
        min_size=1,
        max_size=12,
        unique=True,
    )
)


def journal_of(path: Path, steps: list[tuple[int, int]]) -> Path:
    """A new journal that tells of these writes."""
    path.unlink(missing_ok=True)
    append(path, steps)
    return path


def append(path: Path, steps: list[tuple[int, int]]) -> None:
    journal = Journal(str(path), SIZE, DIGEST)
    journal.recover()
    for start, stop in steps:
        journal.append(start, DATA[start:stop])
    journal.close()


def recover(path: Path, size: int = SIZE, digest: Digest = DIGEST) -> Recovered:
    journal = Journal(str(path), size, digest)
    recovered = journal.recover()
    journal.close()
    return recovered


def all_of(recovered: Recovered) -> list[Block]:
    return sorted([*recovered.blocks(), *recovered.pieces()])


def believed(recovered: Recovered) -> set[int]:
    """Of every `SAMPLE`th byte those that the hash would believe, as their checksum is right."""
    found: set[int] = set()
    for block in all_of(recovered):
        if block.matches(DATA[block.start : block.stop]):
            found.update(range(block.start + -block.start % SAMPLE, block.stop, SAMPLE))
    return found


def covered(steps: Iterable[tuple[int, int]]) -> int:
    return sum(stop - start for start, stop in steps)


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("journals")


class TestWhole:
    @given(writes)
    def test_every_byte_that_was_written_is_told_of_with_its_checksum_whatever_the_order(
        self, directory: Path, steps: list[tuple[int, int]]
    ) -> None:
        blocks = all_of(recover(journal_of(directory / "journal", steps)))
        assert all(block.matches(DATA[block.start : block.stop]) for block in blocks)
        assert sum(block.length for block in blocks) == covered(steps)
        assert journaled_bytes(str(directory / "journal"), SIZE, DIGEST) == covered(steps)

    @given(writes, st.data())
    def test_it_goes_on_where_another_process_ended(
        self, directory: Path, steps: list[tuple[int, int]], data: st.DataObject
    ) -> None:
        cut = data.draw(st.integers(0, len(steps)))
        path = journal_of(directory / "journal", steps[:cut])
        append(path, steps[cut:])
        blocks = all_of(recover(path))
        assert all(block.matches(DATA[block.start : block.stop]) for block in blocks)
        assert sum(block.length for block in blocks) == covered(steps)

    def test_a_block_that_fills_slowly_is_one_entry_that_is_rewritten(self, tmp_path: Path) -> None:
        path = tmp_path / "journal"
        journal = Journal(str(path), SIZE, DIGEST)
        sizes = set()
        for start in range(0, 3 * BLOCK_BYTES, 65536):
            journal.append(start, DATA[start : start + 65536])
            sizes.add(path.stat().st_size)
        journal.close()
        assert max(sizes) == TABLE_AT + 8 * blocks_in(SIZE) + 24
        assert [block.length for block in all_of(recover(path))] == [BLOCK_BYTES] * 3

    def test_what_the_hash_has_passed_is_one_entry_a_block_whatever_it_came_in(self, tmp_path: Path) -> None:
        path = tmp_path / "journal"
        cuts = [0, 900_000, 1_500_000, 1_500_001, 3_000_000, 4_000_000, SIZE]
        steps = list(itertools.pairwise(cuts))
        random.Random(1).shuffle(steps)
        append(path, [(start, stop) for start, stop in steps if stop - start <= BLOCK_BYTES])
        journal = Journal(str(path), SIZE, DIGEST)
        recovered = journal.recover()
        assert len(list(recovered.pieces())) > 3
        journal.append(1_500_001, DATA[1_500_001 : 1_500_001 + BLOCK_BYTES])
        journal.append(1_500_001 + BLOCK_BYTES, DATA[1_500_001 + BLOCK_BYTES : 3_000_000])
        for start in range(0, SIZE, BLOCK_BYTES):
            journal.passed(start, DATA[start : start + BLOCK_BYTES])
        journal.close()
        again = recover(path)
        assert [block.length for block in again.blocks()] == [BLOCK_BYTES] * 4 + [1000]
        assert not list(again.pieces())
        assert all(block.matches(DATA[block.start : block.stop]) for block in again.blocks())

    def test_what_another_program_left_is_not_told_of_though_the_hash_has_passed_it(self, tmp_path: Path) -> None:
        path = tmp_path / "journal"
        journal = Journal(str(path), SIZE, DIGEST)
        journal.append(BLOCK_BYTES, DATA[BLOCK_BYTES : 2 * BLOCK_BYTES])
        for start in range(0, SIZE, BLOCK_BYTES):
            journal.passed(start, DATA[start : start + BLOCK_BYTES])
        assert [block.start for block in recover(path).blocks()] == [BLOCK_BYTES]
        journal.seal()
        journal.close()
        assert len(list(recover(path).blocks())) == 5

    def test_blocks_of_threads_that_write_at_once_are_all_there(self, tmp_path: Path) -> None:
        journal = Journal(str(tmp_path / "journal"), SIZE, DIGEST)

        def write(worker: int) -> None:
            for start in range(worker * 1000, 4 * BLOCK_BYTES, 8000):
                journal.append(start, DATA[start : min(start + 1000, 4 * BLOCK_BYTES)])

        threads = [threading.Thread(target=write, args=(worker,)) for worker in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        journal.close()
        blocks = all_of(recover(tmp_path / "journal"))
        assert sum(block.length for block in blocks) == 4 * BLOCK_BYTES
        assert all(block.matches(DATA[block.start : block.stop]) for block in blocks)

    def test_no_journal_means_no_blocks(self, tmp_path: Path) -> None:
        assert all_of(recover(tmp_path / "journal")) == []
        assert not (tmp_path / "journal").exists()

    @pytest.mark.parametrize(("size", "digest"), [(SIZE + 1, DIGEST), (SIZE, OTHER)])
    def test_the_journal_of_something_else_is_begun_anew(self, tmp_path: Path, size: int, digest: Digest) -> None:
        path = journal_of(tmp_path / "journal", [(0, 1000)])
        assert journaled_bytes(str(path), size, digest) == 0
        assert all_of(recover(path, size, digest)) == []
        assert all_of(recover(path)) == []

    def test_reset_forgets_every_block(self, tmp_path: Path) -> None:
        journal = Journal(str(tmp_path / "journal"), SIZE, DIGEST)
        journal.append(0, DATA[:1000])
        journal.reset()
        journal.append(5, DATA[5:8])
        journal.close()
        assert all_of(recover(tmp_path / "journal")) == [Block(5, 3, checksum(DATA[5:8]))]
        assert journaled_bytes(str(tmp_path / "journal"), SIZE, DIGEST) == 3

    def test_closing_twice_is_no_matter(self, tmp_path: Path) -> None:
        journal = Journal(str(tmp_path / "journal"), SIZE, DIGEST)
        journal.append(0, DATA[:1000])
        journal.close()
        journal.close()


class TestSealed:
    def sealed(self, path: Path) -> bytes:
        journal = Journal(str(path), SIZE, DIGEST)
        for start in range(0, SIZE, 300_000):
            journal.append(start, DATA[start : start + 300_000])
        for start in range(0, SIZE, BLOCK_BYTES):
            journal.passed(start, DATA[start : start + BLOCK_BYTES])
        journal.seal()
        journal.close()
        return path.read_bytes()

    def test_it_is_the_list_of_the_blocks_checksums(self, tmp_path: Path) -> None:
        raw = self.sealed(tmp_path / "journal")
        found = Checksums.decode(raw, DIGEST, SIZE)
        assert found is not None
        expected = [DATA[at : at + BLOCK_BYTES] for at in range(0, SIZE, BLOCK_BYTES)]
        assert list(found.sums) == [xxhash.xxh3_64_intdigest(block) for block in expected]
        assert all(found.matches(index, block) for index, block in enumerate(expected))
        assert not found.matches(0, expected[1])
        assert found.encode() == raw

    def test_it_is_a_journal_too_of_all_bytes(self, tmp_path: Path) -> None:
        self.sealed(tmp_path / "journal")
        assert believed(recover(tmp_path / "journal")) == set(range(0, SIZE, SAMPLE))
        assert journaled_bytes(str(tmp_path / "journal"), SIZE, DIGEST) == SIZE

    def test_one_that_does_not_tell_of_all_bytes_is_no_list(self, tmp_path: Path) -> None:
        journal = Journal(str(tmp_path / "journal"), SIZE, DIGEST)
        journal.append(0, DATA[:BLOCK_BYTES])
        journal.seal()
        journal.close()
        assert Checksums.decode((tmp_path / "journal").read_bytes(), DIGEST, SIZE) is None

    @given(st.data())
    def test_a_damaged_list_is_none(self, directory: Path, data: st.DataObject) -> None:
        raw = bytearray(self.sealed(directory / "sealed"))
        assert Checksums.decode(bytes(raw[: data.draw(st.integers(0, len(raw) - 1))]), DIGEST, SIZE) is None
        at = data.draw(st.integers(0, len(raw) - 1).filter(lambda at: not 56 <= at < TABLE_AT))
        raw[at] ^= data.draw(st.integers(1, 255))
        assert Checksums.decode(bytes(raw), DIGEST, SIZE) is None


class TestDamaged:
    @given(writes, st.data())
    def test_a_file_that_is_cut_off_costs_only_the_entries_behind(
        self, directory: Path, steps: list[tuple[int, int]], data: st.DataObject
    ) -> None:
        path = journal_of(directory / "journal", steps)
        before = all_of(recover(path))
        os.truncate(path, data.draw(st.integers(TABLE_AT, path.stat().st_size)))
        assert set(all_of(recover(path))) <= set(before)

    @given(writes, st.lists(st.tuples(st.integers(0, 10_000), st.integers(1, 255)), min_size=1, max_size=8))
    @settings(deadline=None)
    def test_flipped_bytes_never_make_bytes_believed_that_were_not_written(
        self, directory: Path, steps: list[tuple[int, int]], flips: list[tuple[int, int]]
    ) -> None:
        path = journal_of(directory / "journal", steps)
        whole = believed(recover(path))
        raw = bytearray(path.read_bytes())
        for at, mask in flips:
            raw[at % len(raw)] ^= mask
        path.write_bytes(raw)
        recovered = recover(path)
        assert believed(recovered) <= whole
        blocks = all_of(recovered)
        assert all(one.stop <= other.start for one, other in itertools.pairwise(blocks))
        assert all(0 <= each.start < each.stop <= SIZE for each in blocks)

    def test_a_sector_that_was_lost_costs_the_blocks_that_it_tells_of(self, tmp_path: Path) -> None:
        size = 200 * BLOCK_BYTES
        journal = Journal(str(tmp_path / "journal"), size, DIGEST)
        for index in range(200):
            journal.append(index * BLOCK_BYTES, DATA[:BLOCK_BYTES])
        journal.close()
        with open(tmp_path / "journal", "r+b") as file:
            file.seek(512)
            file.write(bytes(512))
        left = [block.start // BLOCK_BYTES for block in recover(tmp_path / "journal", size).blocks()]
        assert left == [*range(56), *range(120, 200)]

    def test_a_torn_piece_costs_only_itself(self, tmp_path: Path) -> None:
        path = journal_of(
            tmp_path / "journal", [(7, 1000), (BLOCK_BYTES, BLOCK_BYTES + 5), (2 * BLOCK_BYTES, 2 * BLOCK_BYTES + 9)]
        )
        raw = bytearray(path.read_bytes())
        raw[TABLE_AT + 8 * blocks_in(SIZE) + 24 + 3] ^= 1
        path.write_bytes(raw)
        assert [block.start for block in all_of(recover(path))] == [7, 2 * BLOCK_BYTES]

    def test_the_place_of_a_torn_piece_is_used_again(self, tmp_path: Path) -> None:
        path = journal_of(tmp_path / "journal", [(0, 5), (BLOCK_BYTES, BLOCK_BYTES + 5)])
        length = path.stat().st_size
        raw = bytearray(path.read_bytes())
        raw[TABLE_AT + 8 * blocks_in(SIZE)] ^= 1
        path.write_bytes(raw)
        append(path, [(2 * BLOCK_BYTES, 2 * BLOCK_BYTES + 7)])
        assert path.stat().st_size == length
        assert [block.start for block in all_of(recover(path))] == [BLOCK_BYTES, 2 * BLOCK_BYTES]

    def test_bytes_that_proved_wrong_and_came_again_have_the_checksum_of_those_that_came(self, tmp_path: Path) -> None:
        path = tmp_path / "journal"
        journal = Journal(str(path), SIZE, DIGEST)
        journal.append(0, memoryview(bytes(BLOCK_BYTES)))
        journal.close()
        journal = Journal(str(path), SIZE, DIGEST)
        journal.recover()
        for start in (400_000, 0):
            journal.append(start, DATA[start : start + 400_000])
        journal.close()
        assert journaled_bytes(str(path), SIZE, DIGEST) == 800_000
        blocks = all_of(recover(path))
        assert [(block.start, block.length) for block in blocks] == [(0, 400_000), (400_000, 400_000)]
        assert all(block.matches(DATA[block.start : block.stop]) for block in blocks)

    @given(st.binary(max_size=400))
    def test_any_bytes_at_all_are_read_without_an_error(self, directory: Path, raw: bytes) -> None:
        path = directory / "journal"
        path.write_bytes(raw)
        assert journaled_bytes(str(path), SIZE, DIGEST) == 0
        assert all_of(recover(path)) == []

    @given(st.binary(max_size=400))
    def test_any_entries_at_all_are_read_without_an_error(self, directory: Path, raw: bytes) -> None:
        path = journal_of(directory / "journal", [(0, 100)])
        path.write_bytes(path.read_bytes()[:TABLE_AT] + raw)
        assert all(0 <= each.start < each.stop <= SIZE for each in all_of(recover(path)))

    def test_a_journal_that_is_a_folder_counts_as_none(self, tmp_path: Path) -> None:
        (tmp_path / "journal").mkdir()
        assert journaled_bytes(str(tmp_path / "journal"), SIZE, DIGEST) == 0

    def test_a_full_disk_is_an_error_and_leaves_what_was_told(self, tmp_path: Path) -> None:
        path = tmp_path / "journal"
        journal = Journal(str(path), SIZE, DIGEST)
        journal.append(0, DATA[:BLOCK_BYTES])
        soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (TABLE_AT + 8 * blocks_in(SIZE), hard))
        try:
            with pytest.raises(OSError, match="large"):
                journal.append(BLOCK_BYTES, DATA[BLOCK_BYTES : BLOCK_BYTES + 5])
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        journal.close()
        assert [block.start for block in all_of(recover(path))] == [0]


class TestOfAnOlderTowline:
    """A record of 32 bytes for each write: it is taken over once, and loses nothing."""

    STEPS = (
        (0, 100_000),
        (100_000, 900_000),
        (BLOCK_BYTES, 2 * BLOCK_BYTES),
        (2_500_000, 3_400_000),
        (SIZE - 10, SIZE),
    )

    def test_all_that_it_tells_of_is_taken_over(self, tmp_path: Path) -> None:
        path = tmp_path / "journal"
        path.write_bytes(written_records(SIZE, DIGEST, [(start, DATA[start:stop]) for start, stop in self.STEPS]))
        expected = [Block(start, stop - start, checksum(DATA[start:stop])) for start, stop in self.STEPS]
        assert journaled_bytes(str(path), SIZE, DIGEST) == covered(self.STEPS)
        assert all_of(recover(path)) == expected
        assert path.read_bytes().startswith(b"towline\x02")
        assert journaled_bytes(str(path), SIZE, DIGEST) == covered(self.STEPS)
        assert all_of(recover(path)) == expected

    def test_a_later_record_counts_and_a_torn_one_does_not(self, tmp_path: Path) -> None:
        path = tmp_path / "journal"
        raw = written_records(SIZE, DIGEST, [(0, DATA[:10]), (5, DATA[5:10]), (20, DATA[20:30]), (40, DATA[40:50])])
        path.write_bytes(raw[:-20])
        assert all_of(recover(path)) == [Block(5, 5, checksum(DATA[5:10])), Block(20, 10, checksum(DATA[20:30]))]

    def test_its_pieces_become_blocks_when_the_hash_has_passed_them(self, tmp_path: Path) -> None:
        path = tmp_path / "journal"
        steps = [(start, DATA[start : min(start + 77_777, SIZE)]) for start in range(0, SIZE, 77_777)]
        path.write_bytes(written_records(SIZE, DIGEST, steps))
        journal = Journal(str(path), SIZE, DIGEST)
        assert len(list(journal.recover().pieces())) > 50
        for start, data in steps:
            journal.passed(start, data)
        journal.close()
        again = recover(path)
        assert len(list(again.blocks())) == 5
        assert not list(again.pieces())

    def test_one_of_another_blob_counts_as_none(self, tmp_path: Path) -> None:
        path = tmp_path / "journal"
        path.write_bytes(written_records(SIZE, OTHER, [(0, DATA[:10])]))
        assert journaled_bytes(str(path), SIZE, DIGEST) == 0
        assert all_of(recover(path)) == []


_RESUME = f"""
import resource, sys
from towline.model.digest import Digest
from towline.transfer.journal import Journal, journaled_bytes
size, digest = {FIFTY_GB}, Digest({DIGEST.hex!r})
journaled_bytes("none", size, digest)
def kib():
    return int(open("/proc/self/status").read().split("VmHWM:")[1].split()[0])
before, cpu = kib(), resource.getrusage(resource.RUSAGE_SELF).ru_utime
assert journaled_bytes(sys.argv[1], size, digest) == size - size % (1 << 20)
journal = Journal(sys.argv[1], size, digest)
assert list(journal.recover().ranges()) == [(0, size - size % (1 << 20))]
print(kib() - before, resource.getrusage(resource.RUSAGE_SELF).ru_utime - cpu)
"""


def test_fifty_gigabytes_that_came_slowly_are_few_bytes_and_soon_read(tmp_path: Path) -> None:
    path = tmp_path / "journal"
    journal = Journal(str(path), FIFTY_GB, DIGEST)
    part = memoryview(bytes(BLOCK_BYTES // 2))
    for start in range(0, FIFTY_GB - FIFTY_GB % BLOCK_BYTES, len(part)):
        journal.append(start, part)
    journal.close()
    assert path.stat().st_size < 400_000
    done = subprocess.run([sys.executable, "-c", _RESUME, path], capture_output=True, text=True, check=True)
    memory, seconds = map(float, done.stdout.split())
    assert memory < 20 * 1024
    assert seconds < 1


def test_a_journal_that_cannot_be_opened_for_a_moment_is_not_thrown_away(tmp_path: Path) -> None:
    path = journal_of(tmp_path / "journal", [(0, BLOCK_BYTES)])
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    journal = Journal(str(path), SIZE, DIGEST)
    resource.setrlimit(resource.RLIMIT_NOFILE, (0, before[1]))
    try:
        with pytest.raises(OSError, match="Too many open files"):
            journal.recover()
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)
    assert [block.start for block in journal.recover().blocks()] == [0]
