"""The contiguous SHA-256 of a blob: it moves on as the bytes behind it become whole."""

from __future__ import annotations

import hashlib
from bisect import bisect_right
from collections.abc import Iterable

from towline.model.digest import Digest
from towline.transfer.journal import BLOCK_BYTES, Block


class Front:
    """How far the hash is. `position` bytes were fed; one thread at a time feeds.

    `recovered` are the blocks that an earlier run left: each is believed only once its bytes match its checksum.
    """

    def __init__(self, recovered: Iterable[Block] = ()) -> None:
        self.position = 0
        self._hash = hashlib.sha256()
        self._recovered = list(recovered)

    def step(self, stop: int) -> tuple[int, Block | None]:
        """What to read next at `position`, where bytes are on disk up to `stop`: how much, and the recovered block
        that it is, if it is one. At most `BLOCK_BYTES`.
        """
        index = bisect_right(self._recovered, self.position, key=lambda block: block.start)
        if index and self._recovered[index - 1].start == self.position:
            block = self._recovered[index - 1]
            return block.length, block
        if index < len(self._recovered):
            stop = min(stop, self._recovered[index].start)
        return min(stop - self.position, BLOCK_BYTES), None

    def feed(self, data: memoryview) -> None:
        """The bytes at `position`."""
        self._hash.update(data)
        self.position += len(data)

    def disbelieve(self, block: Block) -> None:
        """A recovered block did not match; its bytes will come anew."""
        self._recovered.remove(block)

    def digest(self) -> Digest:
        """Of the bytes fed so far."""
        return Digest(self._hash.hexdigest())
