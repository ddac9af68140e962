"""All pulls of one process: who runs, who waits, and that none stands still for ever."""

from __future__ import annotations

import contextlib
import logging
import os
import threading
import time
from collections import deque
from collections.abc import Callable, Hashable
from functools import partial

from towline import threads
from towline.dry_run import DryRun
from towline.errors import Cancelled, Starved
from towline.forks import Home
from towline.model.name import ModelName
from towline.patience import Patience
from towline.pulling import Pull
from towline.registry.client import Registry
from towline.settings import Settings
from towline.store.store import Store
from towline.transfer.pool import Pool
from towline.transfer.rate import Rate
from towline.transfer.work import Limits
from towline.watching import Watcher

MAX_PULLS = 256
"""Pulls that run at once, each on a thread of its own that mostly sleeps; further ones wait for their turn."""

LOOK_SECONDS = 0.25
"""Between two looks whether a pull moves."""


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
                refused_timeout=settings.refused_timeout,
                writeback=settings.writeback,
            ),
            connections_per_host=settings.connections_per_host,
            rate=Rate(settings.max_rate) if settings.max_rate is not None else None,
        )
        self._keep_trying = settings.keep_trying
        self._home = Home()
        self._patience = settings.stall_timeout
        self._lock = threading.Lock()
        self._running: dict[Hashable, Pull] = {}
        self._waiting: deque[Pull] = deque()
        self._threads: set[threading.Thread] = set()
        self._clock: threading.Thread | None = None
        self._something_runs = threading.Event()
        self._closing = threading.Event()
        self._closed = False

    def join(self, name: ModelName, *, max_rate: float | None = None, keep_trying: bool = False) -> Watcher:
        """Starts to pull a model, or joins the pull of it that runs. Does not block.

        `max_rate`, in bytes a second, limits what this pull starts to transfer; whoever only joins has no say in it.
        With `keep_trying` the pull waits for its sources for as long as whoever asked for that watches it. Raises
        Starved, Cancelled.
        """
        return self._joined(Pull, name, max_rate, keep_trying=keep_trying)

    def dry_run(self, name: ModelName, *, keep_trying: bool = False) -> Watcher:
        """The same of what a pull of the model would fetch: nothing is stored."""
        return self._joined(DryRun, name, None, keep_trying=keep_trying)

    def _joined(self, kind: type[Pull], name: ModelName, max_rate: float | None, *, keep_trying: bool) -> Watcher:
        self._home.check()
        key = _key(kind, name)
        with self._lock:
            if self._closed:
                raise Cancelled("towline is shutting down")
            running = self._running.get(key)
            watcher = running.watch(keeps_trying=keep_trying or self._keep_trying) if running is not None else None
            if watcher is not None:
                return watcher
            pull = kind(name, self.store, self._registry, self._pool, Patience(self._patience), max_rate)
            watcher = pull.watch(keeps_trying=keep_trying or self._keep_trying)
            if watcher is None:
                raise RuntimeError("a pull that has not begun takes every watcher")
            self._begin(key, pull)
            return watcher

    def _begin(self, key: Hashable, pull: Pull) -> None:
        """Has a thread run the pull. Raises Starved. Under lock."""
        try:
            if self._clock is None or not self._clock.is_alive():
                self._clock = threads.start(self._watch_over, "towline-clock")
            if len(self._threads) < MAX_PULLS:
                self._threads.add(threads.start(self._work, "towline-pull"))
        except Starved as error:
            raise pull.told(error) from None
        self._waiting.append(pull)
        self._running[key] = pull
        self._something_runs.set()

    def _watch_over(self) -> None:
        """Looks at every pull a few times a second: whatever holds one up, it ends by its patience."""
        while not self._closing.wait(LOOK_SECONDS):
            _whatever_happens(self._look)
            self._something_runs.wait()

    def _look(self) -> None:
        with self._lock:
            pulls = list(self._running.values())
            if not pulls and not self._closed:
                self._something_runs.clear()
        now = time.monotonic()
        busy = self._pool.is_busy(now)
        for pull in pulls:
            _whatever_happens(partial(pull.look, now, busy=busy))
        self._pool.nudge()

    def close(self) -> None:
        """Cancels everything and waits for it, at most two seconds; what arrived is kept."""
        if self._home.left:
            return
        with self._lock:
            self._closed = True
            pulls, running = list(self._running.values()), [*self._threads, *filter(None, [self._clock])]
        for pull in pulls:
            pull.cancel()
        self._closing.set()
        self._something_runs.set()
        deadline = time.monotonic() + 1.5
        self._pool.close(1.0)
        for thread in running:
            thread.join(max(0.0, deadline - time.monotonic()))
        self._registry.close()

    def _work(self) -> None:
        try:
            while (pull := self._next()) is not None:
                try:
                    pull.run()
                finally:
                    self._forget(pull)
        finally:
            with self._lock:
                self._threads.discard(threading.current_thread())

    def _next(self) -> Pull | None:
        with self._lock:
            if self._waiting:
                return self._waiting.popleft()
            self._threads.discard(threading.current_thread())  # under the lock: the next pull gets a thread of its own
            return None

    def _forget(self, pull: Pull) -> None:
        with self._lock:
            key = _key(type(pull), pull.name)
            if self._running.get(key) is pull:
                del self._running[key]


def _whatever_happens(look: Callable[[], None]) -> None:
    """What comes after the look goes on."""
    try:
        look()
    except Exception:  # noqa: BLE001 - see above
        with contextlib.suppress(Exception):
            _log.exception("looking after the pulls failed by a fault in towline")


def _key(kind: type[Pull], name: ModelName) -> Hashable:
    """What pulls of the same model share."""
    return kind, name.key, name.digest
