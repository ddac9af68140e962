"""The contiguous hash, over fresh bytes and over blocks that an earlier run left."""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Iterable

from hypothesis import given
from hypothesis import strategies as st

from towline.model.checksums import BLOCK_BYTES, checksum
from towline.model.digest import Digest
from towline.transfer.front import Front
from towline.transfer.recovered import Block, Recovered

CONTENT = hashlib.shake_256(b"front").digest(300)


def recovered_block(start: int, stop: int, *, damaged: bool = False) -> Block:
    return Block(start, stop - start, checksum(CONTENT[start:stop]) ^ damaged)


def front_over(blocks: Iterable[Block]) -> Front:
    return Front(Recovered(len(CONTENT), pieces=blocks))


cuts = st.lists(st.integers(0, len(CONTENT)), max_size=12).map(lambda found: sorted({0, *found, len(CONTENT)}))


@given(cuts, st.data())
def test_it_is_the_sha256_of_the_whole_whichever_blocks_were_recovered(found: list[int], data: st.DataObject) -> None:
    pieces = list(itertools.pairwise(found))
    kept = data.draw(st.lists(st.sampled_from(pieces), unique=True).map(sorted))
    damaged = data.draw(st.sets(st.sampled_from(pieces)))
    front = front_over(recovered_block(*piece, damaged=piece in damaged) for piece in kept)
    while front.position < len(CONTENT):
        length, block = front.step(len(CONTENT))
        content = CONTENT[front.position : front.position + length]
        if block is None or block.matches(content):
            front.feed(memoryview(content))
        else:
            front.disbelieve(block)
    assert front.digest() == Digest.of(CONTENT)


@given(cuts, st.data())
def test_only_damaged_blocks_are_disbelieved(found: list[int], data: st.DataObject) -> None:
    pieces = list(itertools.pairwise(found))
    damaged = data.draw(st.sets(st.sampled_from(pieces)))
    front = front_over(recovered_block(*piece, damaged=piece in damaged) for piece in pieces)
    disbelieved = set()
    while front.position < len(CONTENT):
        length, block = front.step(len(CONTENT))
        content = CONTENT[front.position : front.position + length]
        if block is None or block.matches(content):
            front.feed(memoryview(content))
        else:
            disbelieved.add((block.start, block.stop))
            front.disbelieve(block)
    assert disbelieved == damaged


def test_a_step_stops_before_a_recovered_block() -> None:
    assert front_over([recovered_block(10, 20)]).step(300) == (10, None)


def test_a_step_stops_where_the_bytes_on_disk_do() -> None:
    assert front_over([recovered_block(10, 20)]).step(7) == (7, None)


def test_a_recovered_block_is_one_step() -> None:
    block = recovered_block(0, 20)
    assert front_over([block]).step(300) == (20, block)


def test_a_step_is_never_longer_than_a_block() -> None:
    assert Front().step(10 * BLOCK_BYTES) == (BLOCK_BYTES, None)


def test_a_step_from_within_a_block_ends_with_it() -> None:
    front = Front()
    front.feed(memoryview(bytes(1000)))
    assert front.step(10 * BLOCK_BYTES) == (BLOCK_BYTES - 1000, None)


def test_a_whole_block_that_was_recovered_is_one_step_and_what_is_behind_it_another() -> None:
    block = Block(0, BLOCK_BYTES, 1)
    front = Front(Recovered(2 * BLOCK_BYTES, pieces=[block]))
    assert front.step(2 * BLOCK_BYTES) == (BLOCK_BYTES, block)
    front.feed(memoryview(bytes(BLOCK_BYTES)))
    assert front.step(2 * BLOCK_BYTES) == (BLOCK_BYTES, None)
