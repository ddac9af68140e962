"""What an earlier run left, in few bytes however much that is."""

from __future__ import annotations

import random
import tracemalloc

from hypothesis import given
from hypothesis import strategies as st

from towline.model.checksums import BLOCK_BYTES, blocks_in, empty_table
from towline.transfer.recovered import Block, Recovered

SIZE = 64

pieces = st.lists(
    st.tuples(st.integers(0, SIZE - 2), st.integers(1, 20)).map(
        lambda drawn: Block(drawn[0], min(drawn[1], SIZE - drawn[0]), drawn[0] * 100 + drawn[1])
    ),
    max_size=12,
)


@given(pieces)
def test_of_pieces_that_overlap_the_later_one_counts(found: list[Block]) -> None:
    standing: list[Block] = []
    for new in found:
        standing = [old for old in standing if old.stop <= new.start or new.stop <= old.start] + [new]
    recovered = Recovered(SIZE, pieces=found)
    assert sorted([*recovered.blocks(), *recovered.pieces()]) == sorted(standing)


def test_pieces_that_are_a_whole_block_are_taken_for_one() -> None:
    size = BLOCK_BYTES + 10
    recovered = Recovered(size, pieces=[Block(BLOCK_BYTES, 10, 2), Block(0, BLOCK_BYTES, 1)])
    assert list(recovered.sums) == [1, 2]
    assert not list(recovered.pieces())


def test_neighbours_are_told_of_as_one_range() -> None:
    sums = empty_table(5 * BLOCK_BYTES)
    sums[0] = sums[1] = sums[3] = 1
    recovered = Recovered(5 * BLOCK_BYTES, sums, [Block(2 * BLOCK_BYTES + 7, 5, 1), Block(2 * BLOCK_BYTES + 12, 1, 1)])
    assert list(recovered.ranges()) == [
        (0, 2 * BLOCK_BYTES),
        (3 * BLOCK_BYTES, 4 * BLOCK_BYTES),
        (2 * BLOCK_BYTES + 7, 2 * BLOCK_BYTES + 13),
    ]


def test_a_block_that_is_disbelieved_is_gone_and_no_other() -> None:
    sums = empty_table(3 * BLOCK_BYTES)
    sums[0] = sums[1] = 1
    piece = Block(2 * BLOCK_BYTES, 7, 3)
    recovered = Recovered(3 * BLOCK_BYTES, sums, [piece])
    recovered.disbelieve(Block(0, BLOCK_BYTES, 1))
    assert recovered.at(0) is None
    assert recovered.at(BLOCK_BYTES) == Block(BLOCK_BYTES, BLOCK_BYTES, 1)
    recovered.disbelieve(piece)
    assert recovered.at(2 * BLOCK_BYTES) is None


def test_pieces_in_any_order_are_found_where_they_begin() -> None:
    found = [Block(start, 1, start + 1) for start in range(0, 40_000, 2)]
    random.Random(1).shuffle(found)
    recovered = Recovered(40_000, pieces=found)
    assert [piece.start for piece in recovered.pieces()] == list(range(0, 40_000, 2))
    assert recovered.at(20_000) == Block(20_000, 1, 20_001)
    assert recovered.at(20_001) is None
    assert recovered.next_piece(20_000) == 20_002
    assert recovered.next_piece(39_998) == 40_000


def test_fifty_gigabytes_take_eight_bytes_a_block() -> None:
    size = 50 * 10**9
    tracemalloc.start()
    recovered = Recovered(size)
    for index in range(blocks_in(size)):
        recovered.sums[index] = 1
    assert list(recovered.ranges()) == [(0, size)]
    assert tracemalloc.get_traced_memory()[1] < 2 << 20
    tracemalloc.stop()
