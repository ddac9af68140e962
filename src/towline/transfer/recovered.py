"""What an earlier run left of a growing file: blocks, each to be believed once its bytes match its checksum."""

from __future__ import annotations

from array import array
from bisect import bisect_left, bisect_right, insort
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from towline.model.checksums import BLOCK_BYTES, checksum, empty_table


@dataclass(frozen=True, slots=True, order=True)
class Block:
    """Bytes [start, start + length) of the file, at most `BLOCK_BYTES`, and the xxh3 that they had when written."""

    start: int
    length: int
    checksum: int

    @property
    def stop(self) -> int:
        """The first byte after it."""
        return self.start + self.length

    def matches(self, data: memoryview | bytes) -> bool:
        """Whether these are the bytes that were written."""
        return len(data) == self.length and checksum(data) == self.checksum


class Recovered:
    """Blocks that are whole, in a table, and pieces of others, sorted: 8 bytes for a block, 20 for a piece, as there
    are many. None overlaps another. Not safe from threads by itself.
    """

    def __init__(self, size: int, sums: array[int] | None = None, pieces: Iterable[Block] = ()) -> None:
        """`sums` as in `model.checksums`; the pieces are of other blocks. Of those that overlap the later one counts,
        and the earlier is left out whole; one that is a whole block is taken for that.
        """
        self.size = size
        self.sums = sums if sums is not None else empty_table(size)
        self._starts, self._lengths, self._checksums = array("Q"), array("I"), array("Q")
        for piece in _settled(pieces):
            index = piece.start // BLOCK_BYTES
            if piece.start == index * BLOCK_BYTES and piece.length == self._length(index):
                self.sums[index] = piece.checksum
            else:
                self._starts.append(piece.start)
                self._lengths.append(piece.length)
                self._checksums.append(piece.checksum)

    def blocks(self) -> Iterator[Block]:
        """What is whole, in order."""
        for index, value in enumerate(self.sums):
            if value:
                yield Block(index * BLOCK_BYTES, self._length(index), value)

    def pieces(self) -> Iterator[Block]:
        """What is not, in order."""
        for fields in zip(self._starts, self._lengths, self._checksums, strict=True):
            yield Block(*fields)

    def ranges(self) -> Iterator[tuple[int, int]]:
        """All of it, as half-open ranges, neighbouring blocks as one; sorted but for the pieces, which come last."""
        yield from _runs(self.blocks())
        yield from _runs(self.pieces())

    def at(self, position: int) -> Block | None:
        """The block or piece that begins there."""
        index, within = divmod(position, BLOCK_BYTES)
        if not within and index < len(self.sums) and self.sums[index]:
            return Block(position, self._length(index), self.sums[index])
        at = bisect_left(self._starts, position)
        if at < len(self._starts) and self._starts[at] == position:
            return Block(position, self._lengths[at], self._checksums[at])
        return None

    def next_piece(self, position: int) -> int:
        """Where the first piece after `position` begins; the file's end where there is none."""
        at = bisect_right(self._starts, position)
        return self._starts[at] if at < len(self._starts) else self.size

    def disbelieve(self, block: Block) -> None:
        """It did not match."""
        index, within = divmod(block.start, BLOCK_BYTES)
        if not within and self.sums[index]:
            self.sums[index] = 0
            return
        at = bisect_left(self._starts, block.start)
        del self._starts[at], self._lengths[at], self._checksums[at]

    def _length(self, index: int) -> int:
        return min(BLOCK_BYTES, self.size - index * BLOCK_BYTES)


def _runs(blocks: Iterable[Block]) -> Iterator[tuple[int, int]]:
    """Where they are, each with its neighbours as one."""
    start = stop = 0
    for block in blocks:
        if block.start != stop:
            if stop:
                yield start, stop
            start = block.start
        stop = block.stop
    if stop:
        yield start, stop


def _settled(pieces: Iterable[Block]) -> Iterator[Block]:
    """Those that no later one overlaps, in order. Kept in arrays: a slow download may have left many."""
    starts, lengths, checksums = array("Q"), array("I"), array("Q")
    for piece in pieces:
        starts.append(piece.start)
        lengths.append(piece.length)
        checksums.append(piece.checksum)
    touching: list[int] = []
    reached = 0
    for at in [*sorted(range(len(starts)), key=starts.__getitem__), None]:
        if touching and (at is None or starts[at] >= reached):
            yield from _latest(Block(starts[i], lengths[i], checksums[i]) for i in sorted(touching))
            touching.clear()
        if at is not None:
            touching.append(at)
            reached = max(reached, starts[at] + lengths[at])


def _latest(blocks: Iterable[Block]) -> list[Block]:
    latest: list[Block] = []
    for block in blocks:
        at = bisect_left(latest, block.start, key=lambda other: other.stop - 1)
        while at < len(latest) and latest[at].start < block.stop:
            del latest[at]
        insort(latest, block)
    return latest
