"""Watching a pull: how far it has come, and each caller's view of that.

Watchers sample. A pull counts; whoever watches looks at the counters now and then, and nobody who looks seldom or reads
slowly holds the pull back.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterator
from types import TracebackType
from typing import Self

from towline.errors import TowlineError
from towline.forks import Home
from towline.model.events import PULLING_MANIFEST, Event, Status, held
from towline.store.store import StoredModel
from towline.tracks import Tracks
from towline.views import View, view

_log = logging.getLogger("towline")

HEARTBEAT = 0.5
"""Seconds after which a watcher hears the last event again: the contract promises a line a second, on a busy machine
too.
"""

SAMPLE = 0.1
"""Seconds between two looks at the byte counts: smooth for a progress bar, nothing for a processor."""

_SAMPLE_EACH = 0.006
"""Seconds between two looks for each watcher of the pull: a look takes a few per cent of a processor at most, however
many there are.
"""

_MOST = 512
"""Events that one poll returns at the most: a millisecond or two, after which others have their turn."""


class Course:
    """How far one pull has come, for all who watch it. Safe from threads.

    `tracks` are its blobs, once the manifest is there, valid, and the space suffices; `steps` the statuses that it
    reached after the layers, which are whole by then; `model` what is in the store, after a success. `deserted` is
    called when the last watcher goes.
    """

    def __init__(self, deserted: Callable[[], None]) -> None:
        self.tracks: Tracks | None = None
        self.steps: list[str] = []
        self.error: TowlineError | None = None
        self.finished = False
        self.model: StoredModel | None = None
        self._waiting = ""
        self._tell_deserted = deserted
        self._lock = threading.Lock()
        self._watchers: set[Watcher] = set()
        self._deserted = False

    def commit(self, tracks: Tracks) -> None:
        """The layers are known."""
        self.tracks = tracks
        self._changed()

    @property
    def waiting(self) -> str:
        """Why nothing moves while the pull goes on trying, as in `waiting, as HOST refuses connections; trying again`;
        empty when it does not wait. Watchers are told when it changes.
        """
        return self._waiting

    @waiting.setter
    def waiting(self, reason: str) -> None:
        if reason != self._waiting:
            self._waiting = reason
            self._changed()

    def reach(self, step: str) -> None:
        """A step after the layers is reached."""
        self.steps.append(step)
        self._come_to_rest()

    def finish(self, error: TowlineError | None) -> None:
        """It is over, well where there is no error. What is said first holds."""
        with self._lock:
            if self.finished:
                return
            self.error = error
            self.finished = True
        self._come_to_rest()

    @property
    def watchers(self) -> int:
        """How many there are."""
        return len(self._watchers)

    @property
    def keeps_trying(self) -> bool:
        """Whether any of them waits for as long as it takes."""
        with self._lock:
            return any(watcher.keeps_trying for watcher in self._watchers)

    def watch(self, *, keeps_trying: bool = False) -> Watcher | None:
        """A new watcher, who may wait for as long as it takes; None when the pull is over or its last watcher went, and
        a new pull has to start.
        """
        with self._lock:
            if self.finished or self._deserted:
                return None
            watcher = Watcher(self, keeps_trying=keeps_trying)
            self._watchers.add(watcher)
            return watcher

    def leave(self, watcher: Watcher) -> None:
        """The watcher goes."""
        with self._lock:
            self._watchers.discard(watcher)
            # Under the lock, so that nobody joins what is about to be stopped.
            self._deserted = deserted = not self._watchers
        if deserted:
            self._tell_deserted()

    def _come_to_rest(self) -> None:
        if self.tracks is not None:
            self.tracks.over = True
        self._changed()

    def _changed(self) -> None:
        with self._lock:
            watchers = list(self._watchers)
        for watcher in watchers:
            try:
                watcher._signal()
            except Exception:  # noqa: BLE001 - the others have to hear of it
                _log.exception("a watcher of a pull failed")


class Watcher:
    """One caller's view of a pull. From any thread, one at a time; `close` it once, it is a context manager too.

    It samples: whoever polls rarely gets fewer and newer events, and holds nobody back.
    """

    def __init__(self, course: Course, *, keeps_trying: bool = False) -> None:
        self._joined = course.tracks is not None
        self.interleave = False
        """Whether every layer's events come as they move, each layer's first at once; else one layer is told after
        the other. Set it before the first poll.
        """
        self.keeps_trying = keeps_trying
        self._course = course
        self._home = Home()
        self._event = threading.Event()
        self._callback: Callable[[], None] | None = None
        self._view: View | None = None
        self._greeted = False
        self._steps_told = 0
        self._waiting_told = ""
        self._behind = False
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
        return self._course.tracks is not None

    @property
    def finished(self) -> bool:
        """Whether it is over; polls after that return what is left to tell, the last of them nothing."""
        return self._course.finished

    @property
    def error(self) -> TowlineError | None:
        """Why it failed."""
        return self._course.error

    @property
    def model(self) -> StoredModel | None:
        """What is in the store now, after a success."""
        return self._course.model

    @property
    def sample(self) -> float:
        """Seconds until the next look: none where the last poll did not return all there was, longer where hundreds
        watch one pull, so that looking costs next to nothing; not past the next heartbeat.
        """
        if self._behind:
            return 0.0
        sample = max(SAMPLE, self._course.watchers * _SAMPLE_EACH)
        return min(sample, max(self._last + HEARTBEAT - time.monotonic(), SAMPLE / 2))

    def poll(self, now: float | None = None) -> list[Event]:
        """What is new since the last poll, a batch of it at most; with nothing new for a while, the last thing again.
        Does not block.

        `now` is of `time.monotonic`.
        """
        now = time.monotonic() if now is None else now
        events = self._news()
        if not (self._behind or self._course.finished):
            waiting = self._course.waiting
            if waiting != self._waiting_told or (not events and now - self._last >= HEARTBEAT):
                self._waiting_told = waiting
                events.append(self._heartbeat(waiting))
        if events:
            self._last = now
        return events

    def on_change(self, callback: Callable[[], None]) -> None:
        """`callback` runs, on any thread, when a step is reached, not for mere bytes. It must not block."""
        self._callback = callback
        callback()

    def wait(self, timeout: float) -> bool:
        """Blocks until the next step is reached, at most `timeout` seconds; tells whether one was. Raises TowlineError
        in a child that was forked meanwhile.
        """
        self._home.check()
        reached = self._event.wait(timeout)
        self._event.clear()
        return reached

    def events(self) -> Iterator[Event]:
        """All events, as they come; blocks in between. Raises the pull's error at its end. Closes the watcher."""
        with self:
            while True:
                finished = self.finished  # asked before the poll: what came with the end is then still polled
                events = self.poll()
                yield from events
                if not finished:
                    self.wait(self.sample)
                elif not events:
                    break
            if self.error is not None:
                raise self.error

    def close(self) -> None:
        """Goes away; when the last watcher of a pull goes, the pull stops and keeps what arrived."""
        if not self._home.left:
            self._course.leave(self)

    def _signal(self) -> None:
        self._event.set()
        if self._callback is not None:
            self._callback()

    def _news(self) -> list[Event]:
        news: list[Event] = []
        # The steps first: whatever is reached after this line is told at the next poll, so the order holds.
        steps = self._course.steps[self._steps_told :]
        if not self._greeted:
            self._greeted = True
            news.append(Status(PULLING_MANIFEST))
        if self._view is None and self._course.tracks is not None:
            self._view = view(self._course.tracks, interleave=self.interleave, joined=self._joined)
        if self._view is not None:
            news += self._view.news(_MOST)
        told = self._view is not None and self._view.told
        if told:
            self._steps_told += len(steps)
            news += map(Status, steps)
        self._behind = len(news) >= _MOST or (bool(steps) and not told)
        return news

    def _heartbeat(self, waiting: str) -> Event:
        if self._steps_told:
            return held(Status(self._course.steps[self._steps_told - 1]), waiting)
        return held(self._view.latest() if self._view is not None else Status(PULLING_MANIFEST), waiting)
