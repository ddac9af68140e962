"""Pulling a model: the whole story, and those who watch it."""

from __future__ import annotations

import logging
import os
import queue
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from types import TracebackType
from typing import Self

from towline.errors import Cancelled, StoreError, TowlineError
from towline.model.digest import Digest
from towline.model.events import (
    PULLING_MANIFEST,
    REMOVING_UNUSED,
    SUCCESS,
    VERIFYING,
    WRITING_MANIFEST,
    Event,
    Progress,
    Status,
)
from towline.model.manifest import Descriptor, Manifest
from towline.model.name import ModelName
from towline.registry.client import Registry, Resolved
from towline.settings import Settings
from towline.store.publication import Publication
from towline.store.store import Store, StoredModel
from towline.transfer.blob import BlobTransfer, Limits
from towline.transfer.pool import Handle, Pool, Wanted
from towline.transfer.rate import Rate

MAX_PULLS = 32
"""Pulls that run at once, each on a thread of its own that mostly sleeps; further ones wait for their turn."""

HEARTBEAT = 0.8
"""Seconds after which a watcher hears the last event again: the contract promises a line a second."""

SAMPLE = 0.1
"""Seconds between two looks at the byte counts: smooth for a progress bar, nothing for a processor."""

LONGEST_SAMPLE = 0.5
_SAMPLE_EACH = 0.001

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
                settings.connections_per_blob, settings.stall_timeout, settings.refused_timeout, settings.writeback
            ),
            connections_per_host=settings.connections_per_host,
            rate=Rate(settings.max_rate) if settings.max_rate is not None else None,
        )
        self._lock = threading.Lock()
        self._running: dict[object, Pull] = {}
        self._waiting: deque[Pull] = deque()
        self._threads: set[threading.Thread] = set()
        self._closed = False

    def join(self, name: ModelName, *, max_rate: float | None = None) -> Watcher:
        """Starts to pull a model, or joins the pull of it that runs. Does not block.

        `max_rate`, in bytes a second, limits what this pull starts to transfer; whoever only joins has no say in it.
        """
        key = (name.key, name.digest)
        with self._lock:
            if self._closed:
                raise Cancelled("towline is shutting down")
            pull = self._running.get(key)
            watcher = pull.watch() if pull is not None else None
            if watcher is None:
                pull = self._running[key] = Pull(name, self.store, self._registry, self._pool, max_rate)
                watcher = pull.watch()
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
                key = (pull.name.key, pull.name.digest)
                if self._running.get(key) is pull:
                    del self._running[key]


@dataclass(frozen=True, slots=True)
class _Track:
    """One blob as watchers see it. Without a transfer it is in the store."""

    digest: Digest
    total: int
    transfer: BlobTransfer | None

    @property
    def completed(self) -> int:
        return self.total if self.transfer is None else self.transfer.completed

    @property
    def found(self) -> int:
        """What was on disk when the layer became known."""
        return self.total if self.transfer is None else self.transfer.found

    def progress(self) -> Progress:
        return Progress(self.digest, self.total, self.completed)


class Pull:
    """One model on its way from a registry into the store, for all who watch it."""

    def __init__(
        self, name: ModelName, store: Store, registry: Registry, pool: Pool, max_rate: float | None = None
    ) -> None:
        self.name = name
        self._rate = Rate(max_rate) if max_rate is not None else None
        self.tracks: Sequence[_Track] | None = None
        self.steps: list[str] = []
        self.error: TowlineError | None = None
        self.finished = False
        self.model: StoredModel | None = None
        self._store = store
        self._registry = registry
        self._pool = pool
        self._lock = threading.Lock()
        self._watchers: set[Watcher] = set()
        self._cancelled = False
        self._call = registry.call()
        self._over: queue.SimpleQueue[Descriptor | None] = queue.SimpleQueue()

    def run(self) -> None:
        """The pull, from its first to its last step, on the calling thread. Raises nothing: see `error`."""
        try:
            self._pull()
        except TowlineError as error:
            self.error = error
        except Exception as error:  # noqa: BLE001 - its watchers wait for an end, whatever happens
            _log.exception("pulling %s failed by a fault in towline", self.name)
            self.error = TowlineError(f"pulling {self.name} failed by a fault in towline ({type(error).__name__})")
        finally:
            self._call.close()
            self.finished = True
            self._changed()

    def _pull(self) -> None:
        name = self._store.spelled(self.name)
        resolved = self._registry.resolve(self._call, name)
        manifest = resolved.manifest
        with self._store.publication(name, manifest) as publication:
            missing = [blob for blob in manifest.blobs if not publication.present(blob)]
            publication.check_space(missing)
            self._fetch(missing, resolved, publication)
            self._reach(VERIFYING)  # which happened while the bytes came: the digests are right
            self._reach(WRITING_MANIFEST)
            self._publish(resolved, publication)
            if publication.unused:
                self._reach(REMOVING_UNUSED)
                publication.remove_unused()
            publication.restore()
        self.model = self._store.find(name)
        self._reach(SUCCESS)

    def _fetch(self, missing: Sequence[Descriptor], resolved: Resolved, publication: Publication) -> None:
        """Has the blobs transferred, side by side, and holds fast each that is whole."""
        wanted = [
            Wanted(
                blob.digest,
                blob.size,
                [self._registry.source(place, resolved.name, blob) for place in resolved.endpoints],
                publication.staged(blob),
            )
            for blob in missing
        ]
        handles = dict(zip(missing, self._pool.fetch(wanted, self, rate=self._rate), strict=True))
        try:
            self._commit(resolved.manifest, handles)
            for blob, handle in handles.items():
                handle.transfer.listen(partial(self._over.put, blob))
            for _ in missing:
                blob = self._next_over()
                error = handles[blob].transfer.error
                if error is not None:
                    raise error
                publication.fetched(blob)
                handles.pop(blob).close()
        finally:
            for handle in handles.values():
                handle.close()

    def _next_over(self) -> Descriptor:
        blob = None if self._cancelled else self._over.get()
        if blob is None:
            raise Cancelled("the download was stopped; pull again to go on from here")
        return blob

    def _publish(self, resolved: Resolved, publication: Publication) -> None:
        """A blob that somebody removed between its transfer and now is fetched once more."""
        for _ in range(_REFETCHES):
            missing = publication.publish()
            if not missing:
                return
            self._fetch(missing, resolved, publication)
        raise StoreError("blobs are removed from the store as fast as they come; stop what does that and pull again")

    def _commit(self, manifest: Manifest, handles: dict[Descriptor, Handle]) -> None:
        if self.tracks is None:
            transfers = {blob.digest: handle.transfer for blob, handle in handles.items()}
            self.tracks = [_Track(blob.digest, blob.size, transfers.get(blob.digest)) for blob in manifest.blobs]
            self._changed()

    def _reach(self, step: str) -> None:
        self.steps.append(step)
        self._changed()

    def _changed(self) -> None:
        with self._lock:
            watchers = list(self._watchers)
        for watcher in watchers:
            watcher._signal()

    # Those who watch

    @property
    def watchers(self) -> int:
        """How many there are."""
        return len(self._watchers)

    def watch(self) -> Watcher | None:
        """A new watcher; None when the pull is over or was cancelled, and a new one has to start."""
        with self._lock:
            if self.finished or self._cancelled:
                return None
            watcher = Watcher(self)
            self._watchers.add(watcher)
            return watcher

    def leave(self, watcher: Watcher) -> None:
        """The watcher goes; the last one cancels the pull."""
        with self._lock:
            self._watchers.discard(watcher)
            last = not self._watchers
            if last:
                self._cancelled = True  # here, so that nobody joins what is about to be stopped
        if last:
            self.cancel()

    def cancel(self) -> None:
        """Stops as soon as it can, without waiting for it; what arrived is kept."""
        with self._lock:
            self._cancelled = True
        self._call.cancel()
        self._over.put(None)


class Watcher:
    """One caller's view of a pull. From any thread, one at a time; `close` it once, it is a context manager too.

    It samples: whoever polls rarely gets fewer and newer events, and holds nobody back.
    """

    def __init__(self, pull: Pull) -> None:
        self._pull = pull
        self._event = threading.Event()
        self._callback: Callable[[], None] | None = None
        self._greeted = False
        self._live: list[_Track] | None = None
        self._told: dict[Digest, int] = {}
        self._steps_told = 0
        self._last = 0.0

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    @property
    def committed(self) -> bool:
        """Whether the manifest is there and valid, and the space suffices: what comes now are layers."""
        return self._pull.tracks is not None

    @property
    def finished(self) -> bool:
        """Whether it is over; poll once more after that to get the last events."""
        return self._pull.finished

    @property
    def error(self) -> TowlineError | None:
        """Why it failed."""
        return self._pull.error

    @property
    def model(self) -> StoredModel | None:
        """What is in the store now, after a success."""
        return self._pull.model

    @property
    def sample(self) -> float:
        """Seconds until the next look: longer where hundreds watch one pull, so that they cost it next to nothing."""
        return min(max(SAMPLE, self._pull.watchers * _SAMPLE_EACH), LONGEST_SAMPLE)

    def poll(self, now: float | None = None) -> list[Event]:
        """What is new since the last poll; with nothing new for a second, the last thing again. Does not block.

        `now` is of `time.monotonic`.
        """
        now = time.monotonic() if now is None else now
        events = list(self._news())
        if not events and not self._pull.finished and now - self._last >= HEARTBEAT:
            events = [self._heartbeat()]
        if events:
            self._last = now
        return events

    def on_change(self, callback: Callable[[], None]) -> None:
        """`callback` runs, on any thread, when a step is reached, not for mere bytes. It must not block."""
        self._callback = callback
        callback()

    def wait(self, timeout: float) -> bool:
        """Blocks until the next step is reached, at most `timeout` seconds; tells whether one was."""
        reached = self._event.wait(timeout)
        self._event.clear()
        return reached

    def events(self) -> Iterator[Event]:
        """All events, as they come; blocks in between. Raises the pull's error at its end. Closes the watcher."""
        with self:
            while not self.finished:
                yield from self.poll()
                self.wait(self.sample)
            yield from self.poll()
            if self.error is not None:
                raise self.error

    def close(self) -> None:
        """Goes away; when the last watcher of a pull goes, the pull stops and keeps what arrived."""
        self._pull.leave(self)

    def _signal(self) -> None:
        self._event.set()
        if self._callback is not None:
            self._callback()

    def _news(self) -> Iterator[Event]:
        # The steps first: whatever is reached after this line is told at the next poll, so the order holds.
        steps = list(self._pull.steps)
        if not self._greeted:
            self._greeted = True
            yield Status(PULLING_MANIFEST)
        if self._pull.tracks is not None and not self._steps_told:
            yield from self._progress(self._pull.tracks)
        for step in steps[self._steps_told :]:
            self._steps_told += 1
            yield Status(step)

    def _progress(self, tracks: Sequence[_Track]) -> Iterator[Event]:
        if self._live is None:
            self._live = list(tracks)
            for track in tracks:
                self._told[track.digest] = track.found
                yield Progress(track.digest, track.total, track.found)
        live = []
        for track in self._live:
            event = track.progress()
            if self._told.get(track.digest) != event.completed:
                self._told[track.digest] = event.completed
                yield event
            if event.completed < track.total:
                live.append(track)
        self._live = live

    def _heartbeat(self) -> Event:
        if self._pull.steps:
            return Status(self._pull.steps[-1])
        if self._pull.tracks:
            return (self._live or self._pull.tracks)[0].progress()
        return Status(PULLING_MANIFEST)
