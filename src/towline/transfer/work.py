"""The work of the pool's threads: what one does next, when it asks again, what bounds it."""

from __future__ import annotations

import logging
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from towline.errors import Starved, TowlineError, TransferError, store_error
from towline.model.checksums import BLOCK_BYTES
from towline.model.digest import Digest
from towline.transfer.desk import Desk
from towline.transfer.distances import Distances
from towline.transfer.protocols import BlobSource, Staging
from towline.transfer.rate import Rate
from towline.transfer.slots import Slots
from towline.transfer.syncing import Syncing

Work = Callable[[memoryview], None]
"""What a thread of the pool does next, with its buffer of `BLOCK_BYTES`."""

LOOK_AGAIN = 0.25
"""Seconds between two looks at what only another process, or time itself, changes."""

NEVER = float("inf")
"""Not before it is poked."""

CROWDED = float("-inf")
"""Every source that may be asked has as many connections as its host may have: ask again when one ends."""

_log = logging.getLogger("towline")


@dataclass(frozen=True, slots=True)
class Wanted:
    """A blob to be transferred: what it is, where its bytes come from, where they go. `size` in bytes."""

    digest: Digest
    size: int
    sources: Sequence[BlobSource]
    staging: Staging


@dataclass(frozen=True, slots=True)
class Limits:
    """What bounds the transfer of one blob; times in seconds."""

    connections: int
    refused_timeout: float
    writeback: bool


@dataclass(slots=True)
class Traffic:
    """Changes whenever a byte comes or is hashed anywhere in the process: a glance, not a count."""

    moves: int = 0


@dataclass(frozen=True, slots=True)
class Room:
    """How many blobs may be in the middle of their download at once: `slots` are connections to each host, `berths` are
    places of each pull.
    """

    slots: Slots
    berths: Slots


@dataclass(frozen=True, slots=True)
class Terms:
    """On which the blobs of one pull, the `owner`, are fetched. All but the owner, and some of the `rates`, is shared
    with other pulls. `small` is the room of blobs of up to a block; `active` are the transfers whose turn has come,
    `places` the downloads whose places this process has, those that nobody waits for any longer among them.
    """

    limits: Limits
    large: Room
    small: Room
    syncing: Syncing
    traffic: Traffic
    distances: Distances
    desk: Desk
    active: set[Any]
    places: set[Any]
    owner: Hashable = None
    rates: Sequence[Rate] = ()

    def room(self, size: int) -> Room:
        """That of a blob of `size` bytes."""
        return self.small if size <= BLOCK_BYTES else self.large


class Crew(NamedTuple):
    """Who works on a download, and for whom: `poke` has a receiving thread call `take`, `hash_soon` has a hashing
    thread do some work; `ended` is told once how it ended, well where there is no error; `endless` tells whether
    anybody who wants it waits for as long as it takes.
    """

    poke: Callable[[], None]
    hash_soon: Callable[[Work], None]
    ended: Callable[[TowlineError | None], None]
    endless: Callable[[], bool]


def meaning(error: Exception, digest: Digest) -> TowlineError:
    """What an exception means for the transfer of this blob. One that nobody expected ends it, and not the thread,
    which has other transfers to serve.
    """
    if isinstance(error, TowlineError):
        return error
    if isinstance(error, OSError):
        return store_error(error)
    if isinstance(error, MemoryError):
        return Starved(f"no memory is left to download {digest.short}; what arrived is kept, pull again when there is")
    _log.error("downloading %s failed by a fault in towline", digest, exc_info=error)
    return TransferError(f"downloading {digest} failed by a fault in towline ({type(error).__name__})")
