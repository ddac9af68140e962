"""What a transfer needs from the outside: where bytes come from, and where they go."""

from __future__ import annotations

from contextlib import AbstractContextManager
from types import TracebackType
from typing import Protocol, Self

from towline.files.confined import AnyPath


class ByteStream(Protocol):
    """Bytes of one range: blocking, in order, a context manager; closed once, by the thread that reads."""

    @property
    def waited(self) -> float:
        """Seconds for which the source let its first byte be waited for, connections apart; once that has come."""

    def __enter__(self) -> Self: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...

    def readinto(self, buffer: memoryview) -> int | None:
        """Fills the start of `buffer` with at least one byte and tells how many; 0 only at the range's end. None where
        nothing came for a moment: time to put away what is in hand, and to ask again.

        Raises SourceBusy (try later), SourceGone (this source never will), SourceLied (bytes other than asked for),
        Cancelled.
        """

    def waits_within(self, aside: AbstractContextManager[None]) -> None:
        """Has `aside` entered whenever it waits for the network. To be called first, if at all."""

    def cancel(self) -> None:
        """From any thread, any number of times: a blocked or later `readinto` raises Cancelled within milliseconds."""


class BlobSource(Protocol):
    """Bytes of one blob, from anywhere: a registry, a hub, a file, a peer. Used by many threads at once.

    `ranged` turns False when the source proves to send everything whatever range it is asked for: then one stream to
    the blob's end is cheaper than many. `str(source)` is its host, for sentences and for the limit of connections;
    sources that are equal are the same one.
    """

    ranged: bool

    def open(self, start: int, stop: int) -> ByteStream:
        """A stream of the bytes [start, stop); each call is a fresh try. It does not block: the stream does."""


class Staging(Protocol):
    """A place where one blob grows until it is whole. It belongs to whoever holds its lock, in any process. By the
    blob's size it is a `LargeStaging` or a `SmallStaging`.

    `begun` tells whether anything of the blob may be here from an earlier time.
    """

    begun: bool

    def is_whole(self) -> bool:
        """Whether the blob lies here (or in the store) verified and durable. Needs no lock."""

    def acquire(self) -> bool:
        """Takes the lock and makes the place; False, at once, when another holds it. Raises StoreError."""

    def sign(self) -> None:
        """Leaves a sign of life for those who wait for the lock. Needs the lock."""

    def last_sign(self) -> object:
        """Another value after each sign that the lock's holder gave. Needs no lock."""

    def release(self) -> None:
        """Gives the lock back; any number of times."""


class LargeStaging(Staging, Protocol):
    """That of a blob larger than a block, which comes in pieces."""

    @property
    def data_path(self) -> AnyPath:
        """The growing file."""

    @property
    def journal_path(self) -> AnyPath:
        """What of the growing file is to be believed."""

    def promised(self) -> int:
        """Bytes that another program has of the blob, as far as a glance tells. Needs no lock."""

    def leftover(self) -> list[tuple[int, int]]:
        """Takes over what another program left of the blob: which bytes of the growing file are there, though no
        journal tells of them, and may be wrong. Tells the same again until they are forgotten. Needs the lock. Raises
        OSError.
        """

    def forget_leftover(self) -> None:
        """What was left proved wrong, or may have. Needs the lock."""

    def finish(self, file: int) -> None:
        """The growing file, which is open as `file`, is verified: makes it durable, then the whole blob. Needs the
        lock. Raises StoreError.
        """

    def discard(self) -> None:
        """What is here proved wrong: removes it. Needs the lock."""


class SmallStaging(Staging, Protocol):
    """That of a blob of up to a block, which is written at once."""

    def read(self) -> bytes:
        """What is there of it, a byte beyond its size at most. Needs the lock. Raises OSError."""

    def write(self, data: memoryview) -> None:
        """Writes all of it, in place of whatever is there. Needs the lock. Raises OSError, StoreError."""

    def keep(self) -> None:
        """What was written, or read, is verified: makes it durable, then the whole blob. Needs the lock. Raises
        StoreError.
        """
