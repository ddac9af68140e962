"""What of a growing file is to be believed, block by block, written beside it as the blocks are.

It is the table of checksums of `model.checksums`, filled in place, and behind it the pieces of blocks that are not
whole yet, rewritten as they grow:

    piece    start (u64), length (u32), xxh3 of the other fields (its lower half), xxh3 of the piece's bytes (u64)

So it takes 8 bytes for each MiB of the blob, however slowly that came. Nothing here is waited for: after a power cut
any of it may be lost or torn. What it says is compared with the bytes when the hash reaches them, so a bad entry costs
the bytes that it stands for, no more. SHA-256 alone decides whether a blob is right.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import struct
import threading
from array import array
from collections.abc import Iterator

import xxhash

from towline.files.confined import AnyPath, beside, create_file, open_file, rename, unlink
from towline.files.regular import Irregular, open_unlinked
from towline.files.sync import sync_file
from towline.model.checksums import BLOCK_BYTES as BLOCK_BYTES
from towline.model.checksums import (
    KNOWN_AT,
    TABLE_AT,
    Checksums,
    blocks_in,
    checksum,
    decode_table,
    empty_table,
    encode_table,
    identity,
    known,
    word,
)
from towline.model.digest import Digest
from towline.transfer import disk, old_journal
from towline.transfer.recovered import Block, Recovered

_PIECE = struct.Struct("<QIIQ")
_MAX_BYTES = 128 << 20


class _Piece:
    """Bytes of a block, in order, while they come; `place` is where the journal has them, counted in pieces."""

    __slots__ = ("_hash", "place", "start", "stop")

    def __init__(self, start: int, place: int) -> None:
        self.start = self.stop = start
        self.place = place
        self._hash = xxhash.xxh3_64()

    def take(self, data: memoryview) -> None:
        self._hash.update(data)
        self.stop += len(data)

    @property
    def block(self) -> Block:
        return Block(self.start, self.stop - self.start, known(self._hash.intdigest()))


class Journal:
    """The journal of one growing file. Safe from threads but for `recover` and `close`; opening needs the staging's
    lock. Whatever writes raises OSError.
    """

    def __init__(self, path: AnyPath, size: int, digest: Digest) -> None:
        self._path = path
        self._size = size
        self._digest = digest
        self._lock = threading.Lock()
        self._file: int | None = None
        self._forget()

    def _forget(self) -> None:
        self._sums = empty_table(self._size)
        self._counted = array("I", bytes(4 * blocks_in(self._size)))  # of each block, how many bytes are known
        self._known = 0
        self._pieces: dict[int, list[_Piece]] = {}  # by block
        self._places = 0
        self._free: list[int] = []
        self._passing: xxhash.xxh3_64 | None = None

    def recover(self) -> Recovered:
        """What was written before: nothing where there is no journal. Once, and first.

        A journal of something else counts as none and is begun anew. One that cannot be read for a moment, as where too
        many files are open, is not thrown away: raises OSError.
        """
        try:
            raw = _read(self._path)
        except (FileNotFoundError, Irregular):
            raw = b""
        if _is_of(raw, self._size, self._digest):
            sums = decode_table(raw[TABLE_AT:], self._size)
            recovered = Recovered(self._size, sums, self._told(raw, sums))
            self._go_on_from(recovered)
        elif old_journal.are_in(raw, self._size, self._digest):
            recovered = Recovered(self._size, pieces=old_journal.recorded(raw, self._size))
            self._go_on_from(recovered)
            self._rewrite(recovered)
        else:
            self.reset()
            recovered = Recovered(self._size)
        return recovered

    def _go_on_from(self, recovered: Recovered) -> None:
        self._sums = array("Q", recovered.sums)
        for block in itertools.chain(recovered.blocks(), recovered.pieces()):
            self._count(block.start, block.stop)

    def append(self, start: int, data: memoryview) -> None:
        """Notes bytes that were just written, up to `BLOCK_BYTES`."""
        with self._lock:
            for index, at, stop in _blocks(start, start + len(data)):
                self._note(index, at, data[at - start : stop - start])
            self._write(KNOWN_AT, word(self._known))

    def passed(self, start: int, data: memoryview) -> None:
        """Bytes that the hash has taken: all from the first, in order. So blocks that came in pieces become whole."""
        for index, at, stop in _blocks(start, start + len(data)):
            if at == index * BLOCK_BYTES:
                self._passing = None if self._sums[index] else xxhash.xxh3_64()
            if self._passing is None:
                continue
            self._passing.update(data[at - start : stop - start])
            if stop == self._stop(index):
                with self._lock:
                    self._complete(index, known(self._passing.intdigest()))
                self._passing = None

    def seal(self) -> None:
        """All bytes were passed, and had the digest: the journal becomes the list of the blob's checksums."""
        with self._lock:
            sealed = Checksums(self._digest, self._size, self._sums).encode()
            self._write(0, sealed)
            if self._file is not None:
                os.ftruncate(self._file, len(sealed))
                sync_file(self._file)

    def reset(self) -> None:
        """Forgets every block."""
        with self._lock:
            self._close()
            self._forget()
            with contextlib.suppress(FileNotFoundError):
                unlink(self._path)

    def close(self) -> None:
        """Any number of times."""
        with self._lock:
            self._close()

    def _close(self) -> None:
        if self._file is not None:
            file, self._file = self._file, None
            os.close(file)

    # Under lock

    def _note(self, index: int, start: int, part: memoryview) -> None:
        if len(part) == self._length(index):
            self._count(start, start + len(part))
            self._complete(index, checksum(part))
            return
        if self._sums[index]:  # it proved wrong since
            self._known -= self._counted[index]
            self._counted[index] = self._sums[index] = 0
            self._write_sum(index)
        piece = self._growing(index, start)
        piece.take(part)
        self._count(start, piece.stop)
        block = piece.block
        if block.length == self._length(index):
            self._complete(index, block.checksum)
        else:
            self._write(self._piece_at(piece.place), _encoded(block))

    def _growing(self, index: int, start: int) -> _Piece:
        """The piece that goes on at `start`, or a new one."""
        pieces = self._pieces.setdefault(index, [])
        for piece in pieces:
            if piece.stop == start:
                return piece
        if self._free:
            place = self._free.pop()
        else:
            place, self._places = self._places, self._places + 1
        piece = _Piece(start, place)
        pieces.append(piece)
        return piece

    def _complete(self, index: int, value: int) -> None:
        """All of a block is there. It is told of if towline wrote all of it, else only by the seal."""
        self._sums[index] = value
        if self._counted[index] == self._length(index):
            self._write_sum(index)
            self._free += (piece.place for piece in self._pieces.pop(index, ()))

    def _count(self, start: int, stop: int) -> None:
        for index, at, end in _blocks(start, stop):
            fresh = min(end - at, self._length(index) - self._counted[index])
            self._counted[index] += fresh
            self._known += fresh

    def _write_sum(self, index: int) -> None:
        self._write(TABLE_AT + 8 * index, word(self._sums[index]))

    def _write(self, offset: int, data: bytes) -> None:
        if self._file is None:
            self._file = open_file(self._path)
            disk.write_all(self._file, memoryview(identity(self._size, self._digest)), 0)
        disk.write_all(self._file, memoryview(data), offset)

    # Where things are

    def _stop(self, index: int) -> int:
        return min((index + 1) * BLOCK_BYTES, self._size)

    def _length(self, index: int) -> int:
        return self._stop(index) - index * BLOCK_BYTES

    def _piece_at(self, place: int) -> int:
        return TABLE_AT + 8 * blocks_in(self._size) + _PIECE.size * place

    # Reading

    def _told(self, raw: bytes, sums: array[int]) -> Iterator[Block]:
        """The pieces that the file tells of; the place of any other, or of a block that is whole by now, is free."""
        told = memoryview(raw)[self._piece_at(0) :]
        self._places = len(told) // _PIECE.size
        for place, (start, length, check, value) in enumerate(_PIECE.iter_unpack(told[: self._places * _PIECE.size])):
            piece = Block(start, length, value)
            good = check == _check(piece) and 0 < length <= BLOCK_BYTES and piece.stop <= self._size
            if good and not any(sums[index] for index, _, _ in _blocks(start, piece.stop)):
                yield piece
            else:
                self._free.append(place)

    def _rewrite(self, recovered: Recovered) -> None:
        """Puts this journal in the place of an older one, in one step."""
        pieces = [_encoded(piece) for piece in recovered.pieces()]
        self._places = len(pieces)
        anew = beside(self._path)
        with open(create_file(anew), "wb") as file:
            file.write(identity(self._size, self._digest) + word(self._known))
            file.write(encode_table(self._sums))
            file.write(b"".join(pieces))
            file.flush()
            sync_file(file.fileno())
        rename(anew, self._path)


def journaled_bytes(path: AnyPath, size: int, digest: Digest) -> int:
    """How many bytes a journal says are on disk, at a glance and without its lock: for showing, no more."""
    try:
        raw = _read(path, TABLE_AT)
        if _is_of(raw, size, digest):
            return min(int.from_bytes(raw[KNOWN_AT:], "little"), size)
        if old_journal.are_in(raw, size, digest):
            return min(old_journal.recorded_bytes(_read(path)), size)
    except OSError:
        pass
    return 0


def _is_of(raw: bytes, size: int, digest: Digest) -> bool:
    return len(raw) >= TABLE_AT and raw[:KNOWN_AT] == identity(size, digest)


def _read(path: AnyPath, limit: int = _MAX_BYTES) -> bytes:
    with open(open_unlinked(path), "rb") as file:
        return file.read(limit)


def _blocks(start: int, stop: int) -> Iterator[tuple[int, int, int]]:
    """The blocks that these bytes lie in: each one's number, and where in it they begin and end."""
    while start < stop:
        index = start // BLOCK_BYTES
        end = min(stop, (index + 1) * BLOCK_BYTES)
        yield index, start, end
        start = end


def _encoded(piece: Block) -> bytes:
    return _PIECE.pack(piece.start, piece.length, _check(piece), piece.checksum)


def _check(piece: Block) -> int:
    return xxhash.xxh3_64_intdigest(_PIECE.pack(piece.start, piece.length, 0, piece.checksum)) & 0xFFFFFFFF
