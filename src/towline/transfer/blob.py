"""The transfer of one blob, from its sources to its staging, shared by everyone who wants it.

    new ──prepare──► active ──► concluded: whole, failed, or cancelled
     ▲ │
     │ └ another process has the lock
     └── elsewhere

What it is while it is active is a `Download`, or a `SmallDownload`: made when its turn comes and dropped at the end, as
thousands may wait.
"""

from __future__ import annotations

import enum
import logging
import threading
import time
from collections.abc import Callable, Sequence
from functools import partial

from towline.errors import Cancelled, TowlineError
from towline.patience import Life, Patience, Pulse
from towline.transfer.download import Download
from towline.transfer.growing import journaled
from towline.transfer.journal import BLOCK_BYTES
from towline.transfer.protocols import BlobSource
from towline.transfer.small import SmallDownload
from towline.transfer.work import CROWDED, LOOK_AGAIN, NEVER, Crew, Terms, Wanted, Work, meaning

_OVERDUE = 1.0
"""Seconds after which a look at the place of another process, which does not come, waits for its turn."""

_log = logging.getLogger("towline")


class _State(enum.Enum):
    NEW = enum.auto()
    PREPARING = enum.auto()
    ACTIVE = enum.auto()
    CONCLUDED = enum.auto()


class BlobTransfer:
    """See the module. `poke` tells the pool to ask again, `hash_soon` has a hashing thread do some work.

    The lock guards the state and what changes with it.
    """

    __slots__ = (
        "__weakref__",
        "_download",
        "_hash_soon",
        "_life",
        "_listeners",
        "_lock",
        "_next_look",
        "_patience",
        "_poke",
        "_shown",
        "_sources",
        "_staging",
        "_state",
        "_terms",
        "digest",
        "error",
        "found",
        "size",
    )

    def __init__(
        self,
        blob: Wanted,
        terms: Terms,
        patience: Patience,
        *,
        found: int,
        poke: Callable[[BlobTransfer], None],
        hash_soon: Callable[[Work], None],
    ) -> None:
        self.digest = blob.digest
        self.size = blob.size
        self.error: TowlineError | None = None
        """Why it failed, once it is over."""
        self.found = found
        """Bytes that were on disk when the transfer became known."""
        self._sources = blob.sources
        self._staging = blob.staging
        self._terms = terms
        self._patience = [patience]
        self._poke = poke
        self._hash_soon = hash_soon
        self._lock = threading.Lock()
        self._state = _State.NEW
        self._download: Download | SmallDownload | None = None
        self._listeners: tuple[Callable[[], None], ...] = ()
        self._shown = self.found
        self._next_look = 0.0
        self._life: Life | None = None  # of the process that has its place, where that is another

    @property
    def completed(self) -> int:
        """Bytes to show: never falls, and is `size` only once the digest is verified."""
        download = self._download
        return max(self._shown, download.shown) if download is not None else self._shown

    @property
    def small(self) -> bool:
        """Whether it is fetched at once: a blob of up to a block."""
        return self.size <= BLOCK_BYTES

    @property
    def begun(self) -> bool:
        """Whether its turn has come: it has files open then."""
        return self._state in (_State.PREPARING, _State.ACTIVE)

    @property
    def concluded(self) -> bool:
        """Whether it is over: well if `error` is None."""
        return self._state is _State.CONCLUDED

    def pulse(self) -> Pulse:
        """What it does, at a glance."""
        download = self._download
        if download is not None:
            return download.pulse()
        if self._life is not None:
            now = time.monotonic()
            return Pulse(self._shown, waits=now < self._next_look + _OVERDUE, rests=self._life.lasts(now))
        return Pulse(rests=self._state is _State.PREPARING)

    @property
    def trouble(self) -> str:
        """What it waits for, for a sentence."""
        download = self._download
        if download is not None:
            return download.trouble
        if self._life is not None and self._is_held_here:
            return f"an earlier download of {self.digest.short} has not ended yet"
        if self._life is not None:
            return f"another process holds the download of {self.digest.short} and makes no progress; stop it"
        return (
            f"no thread takes up the download of {self.digest.short}, as where this machine has none, or no memory, to "
            "spare (ulimit -u, ulimit -v, the container's limits)"
        )

    @property
    def _is_held_here(self) -> bool:
        """Whether this very process has the place, for a download that nobody waits for any longer."""
        return any((each.digest, each.size) == (self.digest, self.size) for each in list(self._terms.places))

    def listen(self, callback: Callable[[], None]) -> None:
        """`callback` runs once, on some thread, when the transfer is over: at once if it is already."""
        with self._lock:
            if self._state is not _State.CONCLUDED:
                self._listeners += (callback,)
                return
        callback()

    def silent(self, now: float) -> int:
        """How many of its connections have brought nothing for a while."""
        download = self._download
        return download.silent(now) if download is not None else 0

    def offer(self, sources: Sequence[BlobSource], patience: Patience) -> None:
        """Another caller wants the same blob, with sources and a patience of his own."""
        with self._lock:
            self._patience.append(patience)
            download = self._download
            if download is None:
                self._sources = [*self._sources, *sources]
        if download is not None:
            download.offer(sources)

    def forgo(self, patience: Patience) -> None:
        """Whoever has this patience does not want it any longer. Any number of times."""
        with self._lock:
            self._patience = [each for each in self._patience if each is not patience]

    def cancel(self) -> None:
        """Nobody wants it any longer. What arrived stays; the place is free when the last thread has left."""
        self._conclude(Cancelled("the download was stopped"))

    def take(self, now: float) -> Work | float:
        """What a free thread should do now; or the time of `time.monotonic` at which to ask again, `NEVER` or
        `CROWDED`.
        """
        with self._lock:
            if self._state is _State.NEW:
                return self._begin(now)
            download = self._download if self._state is _State.ACTIVE else None
        return download.take(now) if download is not None else NEVER

    def _begin(self, now: float) -> Work | float:
        if now < self._next_look:
            return self._next_look
        room = self._terms.room(self.size)
        if self._sources and not any(room.slots.free(str(source)) for source in self._sources):
            return CROWDED
        if not room.berths.take(self._terms.owner):
            return CROWDED
        self._state = _State.PREPARING
        self._terms.active.add(self)
        return self._prepare

    def _prepare(self, buffer: memoryview) -> None:
        try:
            if self._staging.acquire():
                self._enter()
            else:
                self._follow()
        except Exception as error:  # noqa: BLE001 - see `meaning`
            self._conclude(meaning(error, self.digest))
        work = self.take(time.monotonic()) if self.small else NEVER
        if isinstance(work, float):
            if not self.concluded:
                self._poke(self)
        else:  # to wake another thread would cost more than to fetch it here
            work(buffer)

    def _enter(self) -> None:
        """The place is ours."""
        try:
            whole = self._staging.is_whole()
            download = self._made() if not whole else None
        except BaseException:
            self._staging.release()
            raise
        if download is None:
            self._staging.release()
            if whole:
                self._conclude(None)
            return
        download.begin()
        with self._lock:
            if self._state is _State.PREPARING:
                self._state = _State.ACTIVE

    def _made(self) -> Download | SmallDownload | None:
        """The download; None where nobody wants it any longer."""
        crew = Crew(partial(self._poke, self), self._hash_soon, self._conclude, self._is_endless)
        with self._lock:
            if self._state is _State.PREPARING:
                kind = SmallDownload if self.small else Download
                blob = Wanted(self.digest, self.size, self._sources, self._staging)
                self._download = kind(blob, self._terms, crew)
            return self._download

    def _is_endless(self) -> bool:
        return any(patience.endless for patience in self._patience)

    def _follow(self) -> None:
        """Another process has the lock: looks at what it has done, and again later."""
        if self._staging.is_whole():
            self._conclude(None)
            return
        now, sign = time.monotonic(), self._staging.last_sign()
        shown = journaled(self._staging, self.digest, self.size)
        with self._lock:
            self._life = self._life or Life()
            self._life.note(sign, now)
            self._shown = max(self._shown, shown)
            self._next_look = now + LOOK_AGAIN
            waits_again = self._state is _State.PREPARING
            if waits_again:
                self._state = _State.NEW
        if waits_again:
            self._terms.room(self.size).berths.give_back(self._terms.owner)

    def fail(self, error: Exception) -> None:
        """It cannot go on, by a fault that nobody expected."""
        self._conclude(meaning(error, self.digest))

    def _conclude(self, error: TowlineError | None) -> None:
        with self._lock:
            if self._state is _State.CONCLUDED:
                return
            begun = self.begun
            self._state = _State.CONCLUDED
            self._terms.active.discard(self)
            self.error = error
            self._shown = self.completed if error is not None else self.size
            download, self._download = self._download, None
            listeners, self._listeners = self._listeners, ()
            self._sources = ()
        if begun:
            self._terms.room(self.size).berths.give_back(self._terms.owner)
        if download is not None:
            download.stop()
        for listener in listeners:
            try:
                listener()
            except Exception:  # noqa: BLE001 - the others have to hear of it
                _log.exception("a listener to the end of a download failed")
