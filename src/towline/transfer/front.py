"""The contiguous SHA-256 of a blob: it moves on as the bytes behind it become whole."""

from __future__ import annotations

import hashlib

from towline.model.digest import Digest
from towline.transfer.journal import BLOCK_BYTES
from towline.transfer.recovered import Block, Recovered


class Front:
    """How far the hash is. `position` bytes were fed; one thread at a time feeds.

    `recovered` is what an earlier run left: each block is believed only once its bytes match its checksum.
    """

    def __init__(self, recovered: Recovered | None = None) -> None:
        self.position = 0
        self._hash = hashlib.sha256()
        self._recovered = recovered

    def step(self, stop: int) -> tuple[int, Block | None]:
        """What to read next at `position`, where bytes are on disk up to `stop`: how much, and the recovered block
        that it is, if it is one. At most `BLOCK_BYTES`, and never beyond a multiple of that but for such a block.
        """
        if self._recovered is not None:
            block = self._recovered.at(self.position)
            if block is not None:
                return block.length, block
            stop = min(stop, self._recovered.next_piece(self.position))
        return min(stop - self.position, BLOCK_BYTES - self.position % BLOCK_BYTES), None

    def feed(self, data: memoryview) -> None:
        """The bytes at `position`."""
        self._hash.update(data)
        self.position += len(data)

    def disbelieve(self, block: Block) -> None:
        """A recovered block did not match; its bytes will come anew."""
        if self._recovered is not None:
            self._recovered.disbelieve(block)

    def digest(self) -> Digest:
        """Of the bytes fed so far."""
        return Digest(self._hash.hexdigest())
