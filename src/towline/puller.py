"""Pulling a model: the whole story."""

from __future__ import annotations

import logging
import os
import threading
import time
from collections import deque
from collections.abc import Hashable, Mapping, Sequence
from functools import partial

from towline.errors import Cancelled, StoreError, TowlineError
from towline.model.events import REMOVING_UNUSED, SUCCESS, VERIFYING, WRITING_MANIFEST
from towline.model.manifest import Descriptor
from towline.model.name import ModelName
from towline.registry.client import Registry, Resolved
from towline.settings import Settings
from towline.store.publication import Publication
from towline.store.store import Store
from towline.transfer.pool import Handle, Pool, Wanted
from towline.transfer.rate import Rate
from towline.transfer.work import Limits
from towline.watching import Course, Track, Watcher

MAX_PULLS = 256
"""Pulls that run at once, each on a thread of its own that mostly sleeps; further ones wait for their turn."""

_REFETCHES = 3

_log = logging.getLogger("towline")


class Puller:
    """All pulls of one process, over one store. Safe from many threads; `close` it."""

    def __init__(self, settings: Settings) -> None:
        self.store = Store(settings.models, noprune=settings.noprune, staging_ttl=settings.staging_ttl)
        self._registry = Registry(settings)
        self._pool = Pool(
            connections=settings.connections,
            hashers=min(4, os.cpu_count() or 1),
            limits=Limits(
                connections=settings.connections_per_blob,
                stall_timeout=settings.stall_timeout,
                refused_timeout=settings.refused_timeout,
                writeback=settings.writeback,
            ),
            connections_per_host=settings.connections_per_host,
            rate=Rate(settings.max_rate) if settings.max_rate is not None else None,
        )
        self._lock = threading.Lock()
        self._running: dict[Hashable, Pull] = {}
        self._waiting: deque[Pull] = deque()
        self._threads: set[threading.Thread] = set()
        self._closed = False

    def join(self, name: ModelName, *, max_rate: float | None = None) -> Watcher:
        """Starts to pull a model, or joins the pull of it that runs. Does not block.

        `max_rate`, in bytes a second, limits what this pull starts to transfer; whoever only joins has no say in it.
        """
        key = _key(name)
        with self._lock:
            if self._closed:
                raise Cancelled("towline is shutting down")
            pull = self._running.get(key)
            watcher = pull.course.watch() if pull is not None else None
            if watcher is None:
                pull = self._running[key] = Pull(name, self.store, self._registry, self._pool, max_rate)
                watcher = pull.course.watch()
                self._waiting.append(pull)
                if len(self._threads) < MAX_PULLS:
                    thread = threading.Thread(target=self._work, name="towline-pull", daemon=True)
                    self._threads.add(thread)
                    thread.start()
        if watcher is None:
            raise RuntimeError("a pull that has not begun takes every watcher")
        return watcher

    def close(self) -> None:
        """Cancels everything and waits for it, at most two seconds; what arrived is kept."""
        with self._lock:
            self._closed = True
            pulls, threads = list(self._running.values()), list(self._threads)
        for pull in pulls:
            pull.cancel()
        deadline = time.monotonic() + 1.5
        self._pool.close(1.0)
        for thread in threads:
            thread.join(max(0.0, deadline - time.monotonic()))
        self._registry.close()

    def _work(self) -> None:
        while True:
            with self._lock:
                if not self._waiting:
                    self._threads.discard(threading.current_thread())
                    return
                pull = self._waiting.popleft()
            pull.run()
            with self._lock:
                if self._running.get(_key(pull.name)) is pull:
                    del self._running[_key(pull.name)]


def _key(name: ModelName) -> Hashable:
    """What pulls of the same model share."""
    return name.key, name.digest


class Pull:
    """One model on its way from a registry into the store. It goes on as long as anybody watches its `course`."""

    def __init__(
        self, name: ModelName, store: Store, registry: Registry, pool: Pool, max_rate: float | None = None
    ) -> None:
        self.name = name
        self._rate = Rate(max_rate) if max_rate is not None else None
        self._store = store
        self._registry = registry
        self._pool = pool
        self.course = Course(deserted=self.cancel)
        self._cancelled = False
        self._call = registry.call()
        self._wake = threading.Event()

    def run(self) -> None:
        """The pull, from its first to its last step, on the calling thread. Raises nothing: see `course.error`."""
        failure: TowlineError | None = None
        try:
            self._pull()
        except TowlineError as error:
            failure = error
        except Exception as error:  # noqa: BLE001 - its watchers wait for an end, whatever happens
            _log.exception("pulling %s failed by a fault in towline", self.name)
            failure = TowlineError(f"pulling {self.name} failed by a fault in towline ({type(error).__name__})")
        finally:
            self._call.close()
            self.course.finish(failure)

    def _pull(self) -> None:
        name = self._store.spelled(self.name)
        resolved = self._registry.resolve(self._call, name)
        manifest = resolved.manifest
        with self._store.publication(name, manifest) as publication:
            missing = [blob for blob in manifest.blobs if not publication.present(blob)]
            publication.check_space(missing)
            handles = self._begin(missing, resolved, publication)
            transfers = {blob.digest: handle.transfer for blob, handle in handles.items()}
            self.course.commit([Track(blob.digest, blob.size, transfers.get(blob.digest)) for blob in manifest.blobs])
            self._await(handles, publication)
            self.course.reach(VERIFYING)  # which happened while the bytes came: the digests are right
            self.course.reach(WRITING_MANIFEST)
            self._publish(resolved, publication)
            if publication.unused:
                self.course.reach(REMOVING_UNUSED)
                publication.remove_unused()
            publication.restore()
        self.course.model = self._store.find(name)
        self.course.reach(SUCCESS)

    def _begin(
        self, missing: Sequence[Descriptor], resolved: Resolved, publication: Publication
    ) -> dict[Descriptor, Handle]:
        """Has the blobs transferred, side by side; `_await` closes the handles."""
        wanted = [
            Wanted(
                blob.digest,
                blob.size,
                [self._registry.source(place, resolved.name, blob) for place in resolved.endpoints],
                publication.staged(blob),
            )
            for blob in missing
        ]
        return dict(zip(missing, self._pool.fetch(wanted, self, rate=self._rate), strict=True))

    def _await(self, handles: Mapping[Descriptor, Handle], publication: Publication) -> None:
        """Until all have come, each held fast as soon as it is whole. Raises the error of the first that failed."""
        arrivals = _Arrivals(handles, publication, self._wake)
        try:
            for blob, handle in handles.items():
                handle.transfer.listen(partial(arrivals.note, blob))
            while not arrivals.over:
                self._wake.wait()
                self._wake.clear()
                if self._cancelled:
                    raise Cancelled("the download was stopped; pull again to go on from here")
        finally:
            arrivals.close()
            for handle in handles.values():
                handle.close()
        if arrivals.error is not None:
            raise arrivals.error

    def _publish(self, resolved: Resolved, publication: Publication) -> None:
        """A blob that somebody removed between its transfer and now is fetched once more."""
        for _ in range(_REFETCHES):
            missing = publication.publish()
            if not missing:
                return
            self._await(self._begin(missing, resolved, publication), publication)
        raise StoreError("blobs are removed from the store as fast as they come; stop what does that and pull again")

    def cancel(self) -> None:
        """Stops as soon as it can, without waiting for it; what arrived is kept."""
        self._cancelled = True
        self._call.cancel()
        self._wake.set()


class _Arrivals:
    """The blobs that a pull awaits. Each that is whole is held fast at once, by the thread that made it so: for
    thousands of small ones, to hand each to the pull's own thread costs as much as to fetch it.
    """

    def __init__(self, awaited: Mapping[Descriptor, Handle], publication: Publication, wake: threading.Event) -> None:
        self.error: TowlineError | None = None
        """Of the first that failed."""
        self._awaited = awaited
        self._left = len(awaited)
        self._publication = publication
        self._wake = wake
        self._lock = threading.Lock()
        self._closed = False

    @property
    def over(self) -> bool:
        """Whether all have come, or one failed."""
        return not self._left or self.error is not None

    def note(self, blob: Descriptor) -> None:
        """The transfer of the blob is over. From any thread."""
        with self._lock:
            if self._closed:
                return
            error = self._awaited[blob].transfer.error or self._hold(blob)
            self.error = self.error or error
            self._left -= 1
        if self.over:
            self._wake.set()

    def _hold(self, blob: Descriptor) -> TowlineError | None:
        try:
            self._publication.fetched(blob)
        except TowlineError as error:
            return error
        return None

    def close(self) -> None:
        """Nothing is held from here on."""
        with self._lock:
            self._closed = True
