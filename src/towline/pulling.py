"""Pulling a model: the whole story."""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial

from towline.arrivals import Arrivals
from towline.errors import Cancelled, DigestMismatch, Starved, StoreError, TowlineError, TransferError
from towline.model.digest import Digest
from towline.model.events import REMOVING_UNUSED, SUCCESS, VERIFYING, WAITING, WRITING_MANIFEST
from towline.model.manifest import Descriptor, Manifest
from towline.model.name import ModelName
from towline.patience import Patience
from towline.record import Record
from towline.registry.client import Inquiry, Registry, Resolved
from towline.store.publication import Publication
from towline.store.recheck import Recheck
from towline.store.store import Store
from towline.tracks import Moving, Track, Tracks
from towline.transfer.pool import Handle, Pool
from towline.transfer.rate import Rate
from towline.transfer.work import Wanted
from towline.watching import Course, Watcher

SAID_AFTER = 3.0
"""Seconds of waiting for sources after which a pull that waits for as long as it takes says so."""

_LAST_WAIT = 5.0
"""Seconds that a pull which is given up has for its own end. After that its watchers are told: what its thread is in
the middle of then, such as asking for the addresses of a host, cannot be interrupted.
"""

_REFETCHES = 3

_log = logging.getLogger("towline")


class Pull:
    """One model on its way from a registry into the store. It goes on as long as anybody watches its `course`."""

    kind = "pull"
    """As the log calls it."""

    def __init__(
        self,
        name: ModelName,
        store: Store,
        registry: Registry,
        pool: Pool,
        patience: Patience,
        max_rate: float | None = None,
    ) -> None:
        self.name = name
        self.patience = patience
        self.course = Course(deserted=self.cancel)
        self._rate = Rate(max_rate) if max_rate is not None else None
        self._store = store
        self._registry = registry
        self._pool = pool
        self._call = registry.call()
        self._cancelled = False
        self._wake = threading.Event()
        self._awaited: Inquiry | Arrivals | None = None
        self._looked_at: Inquiry | Arrivals | None = None
        self._stirred = 0
        self._record = Record(name, self.kind)
        self._verdict: TowlineError | None = None
        self._judged_at = 0.0

    def run(self) -> None:
        """The pull, from its first to its last step, on the calling thread. Raises nothing: see `course.error`."""
        failure: TowlineError | None = None
        try:
            self._record.begin()
            self._pull()
        except TowlineError as error:
            failure = self._verdict or self.told(error)
        except MemoryError:
            failure = Starved(f"no memory is left to pull {self.name}; what arrived is kept, pull again when there is")
        except Exception as error:  # noqa: BLE001 - its watchers wait for an end, whatever happens
            _log.exception("pulling %s failed by a fault in towline", self.name)
            failure = TowlineError(f"pulling {self.name} failed by a fault in towline ({type(error).__name__})")
        finally:
            try:
                self._record.close(failure)  # before its end is told: who hears of that finds it in the log
            finally:
                self.course.finish(failure)
                self._call.close()

    def told(self, error: TowlineError) -> TowlineError:
        """The error of a blob, of the store or of the machine, as what it means for the model, which it then names."""
        if str(self.name).lower() in str(error).lower():  # as it is spelled here, or in the store
            return error
        sentence = f"cannot pull {self.name}: {error}"
        if not isinstance(error, TransferError):
            return type(error)(sentence)
        kind = DigestMismatch if isinstance(error, DigestMismatch) else TransferError
        return kind(f"{sentence}; what else arrived is kept")

    # The story

    def _pull(self) -> None:
        name = self._store.spelled(self.name)
        resolved = self._resolve(name)
        manifest = resolved.manifest
        try:
            opened = self._store.publication(name, manifest, self._check)
        except StoreError:  # it cannot be written: what is up to date needs nothing of that
            if not self._store.holds(name, manifest, self._check):
                raise
            self._tell_that_it_is_here(name, manifest)
            return
        with opened as publication:
            missing = publication.missing()
            publication.check_space(missing)
            rechecks = publication.rechecks()
            with self._transfers(missing, resolved, publication) as arrivals:
                self._commit(manifest, arrivals, rechecks)
                self._await(arrivals)
            self._recheck(rechecks, resolved, publication)
            self.course.reach(VERIFYING)  # which happened while the bytes came: the digests are right
            self.course.reach(WRITING_MANIFEST)
            self._publish(resolved, publication)
            publication.remove_unused(partial(self.course.reach, REMOVING_UNUSED))
            publication.restore()
        self.course.model = self._store.find(name)
        self.course.reach(SUCCESS)

    def _tell_that_it_is_here(self, name: ModelName, manifest: Manifest) -> None:
        self.course.commit(Tracks.whole_model(manifest))
        self.course.reach(VERIFYING)
        self.course.reach(WRITING_MANIFEST)
        self.course.model = self._store.find(name)
        self.course.reach(SUCCESS)

    def _resolve(self, name: ModelName) -> Resolved:
        self._awaited = inquiry = Inquiry(self.patience)
        try:
            return self._registry.resolve(self._call, name, inquiry)
        finally:
            self._awaited = None

    @contextmanager
    def _transfers(
        self, missing: Sequence[Descriptor], resolved: Resolved, publication: Publication
    ) -> Iterator[Arrivals]:
        """The transfers of these blobs, side by side, for as long as they are awaited."""
        wanted = [
            Wanted(
                blob.digest,
                blob.size,
                [
                    self._registry.source(place, resolved.name, blob, resolved.served, self.patience)
                    for place in resolved.endpoints
                ],
                publication.staged(blob),
            )
            for blob in missing
        ]
        handles: Sequence[Handle] = self._pool.fetch(wanted, self, self.patience, rate=self._rate)
        try:
            awaited = dict(zip(missing, handles, strict=True))
            with Arrivals(awaited, publication, self._wake, self._pool.active) as arrivals:
                self._record.fetches(arrivals.transfers.values(), resolved.served)
                yield arrivals
        finally:
            for handle in handles:
                handle.close()

    def _commit(self, manifest: Manifest, arrivals: Arrivals, rechecks: Sequence[Recheck]) -> None:
        """The layers are known, and those that are missing on their way."""
        if not (arrivals.transfers or rechecks):
            self.course.commit(Tracks.whole_model(manifest))
            return
        moving: dict[Digest, tuple[Moving, int]] = {recheck.blob.digest: (recheck, 0) for recheck in rechecks}
        moving |= {digest: (each, arrivals.found[digest]) for digest, each in arrivals.transfers.items()}
        tracks = [Track(blob, *moving.get(blob.digest, (None, blob.size))) for blob in manifest.blobs]
        self.course.commit(Tracks(tracks))

    def _await(self, arrivals: Arrivals) -> None:
        """Until all have come. Raises the error of the first that failed."""
        self._awaited = arrivals
        try:
            while not arrivals.over:
                self._wake.wait()
                self._wake.clear()
                self._check()
        finally:
            self._awaited = None
        if arrivals.error is not None:
            raise arrivals.error

    def _check(self) -> None:
        if self._cancelled:
            raise Cancelled("the download was stopped; pull again to go on from here")

    def _recheck(self, rechecks: Sequence[Recheck], resolved: Resolved, publication: Publication) -> None:
        """Hashes the blobs that may have changed since they were verified; those that did are fetched again."""
        wrong: dict[Descriptor, Recheck] = {}
        for recheck in rechecks:
            right = recheck.run(self._check)
            publication.settle(recheck, right=right)
            if not right:
                wrong[recheck.blob] = recheck
        if wrong:
            publication.check_space(wrong)
            with self._transfers(list(wrong), resolved, publication) as arrivals:
                for blob, recheck in wrong.items():
                    recheck.fetch(arrivals.transfers[blob.digest])
                self._await(arrivals)

    def _publish(self, resolved: Resolved, publication: Publication) -> None:
        """A blob that somebody removed between its transfer and now is fetched once more."""
        for _ in range(_REFETCHES):
            missing = publication.publish()
            if not missing:
                return
            with self._transfers(missing, resolved, publication) as arrivals:
                self._await(arrivals)
        raise StoreError("blobs are removed from the store as fast as they come; stop what does that and pull again")

    # From other threads

    def watch(self, *, keeps_trying: bool) -> Watcher | None:
        """See `Course.watch`. With `keeps_trying` it waits for its sources for as long as this watcher is there."""
        watcher = self.course.watch(keeps_trying=keeps_trying)
        self.patience.endless = self.course.keeps_trying
        return watcher

    def cancel(self) -> None:
        """Stops as soon as it can, without waiting for it; what arrived is kept."""
        self._cancelled = True
        self._call.cancel()
        self._wake.set()

    def look(self, now: float, *, busy: bool) -> None:
        """Whether it still moves: called a few times a second, by one thread. `busy` tells whether anything in the
        process does, so that it may well be this pull's turn later.
        """
        if self._verdict is not None:
            if now - self._judged_at >= _LAST_WAIT:
                self.course.finish(self._verdict)
            return
        awaited, self.patience.endless = self._awaited, self.course.keeps_trying
        if awaited is not self._looked_at:
            self._looked_at = awaited
            self.patience.renew()
        if awaited is None:
            self.course.waiting = ""
            return
        pulse = awaited.pulse()
        queued = busy and not pulse.waits
        self.patience.look(now, pulse.received, excused=pulse.rests or queued or pulse.stirred != self._stirred)
        self._stirred = pulse.stirred
        waits = self.patience.endless and self.patience.waited >= SAID_AFTER
        trouble = awaited.trouble.removeprefix(f"cannot pull {self.name}: ") if waits or self.patience.out else ""
        self.course.waiting = f"{WAITING}{trouble.partition(';')[0]}; trying again" if waits else ""
        if self.patience.out:
            self._give_up(trouble, now)

    def _give_up(self, trouble: str, now: float) -> None:
        self._judged_at = now
        self._verdict = TransferError(
            f"cannot pull {self.name}: no data for {self.patience.seconds:g} s: {trouble}; "
            "what arrived is kept, pull again to go on from there"
        )
        self.cancel()
