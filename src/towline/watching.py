"""Watching a pull: how far it has come, and each caller's view of that.

Watchers sample. A pull counts; whoever watches looks at the counters now and then, and nobody who looks seldom or reads
slowly holds the pull back.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Self

from towline.errors import TowlineError
from towline.model.digest import Digest
from towline.model.events import PULLING_MANIFEST, Event, Progress, Status
from towline.store.recheck import Recheck
from towline.store.store import StoredModel
from towline.transfer.blob import BlobTransfer

_log = logging.getLogger("towline")

HEARTBEAT = 0.8
"""Seconds after which a watcher hears the last event again: the contract promises a line a second."""

SAMPLE = 0.1
"""Seconds between two looks at the byte counts: smooth for a progress bar, nothing for a processor."""

LONGEST_SAMPLE = 0.5
_SAMPLE_EACH = 0.001
_SAMPLE_BLOB = 0.0001
"""Seconds between two looks, at the longest, and for each watcher of the pull and each of its blobs: a look takes a few
per cent of a processor at most, however many there are.
"""


@dataclass(frozen=True, slots=True)
class Track:
    """One blob as watchers see it. Without a transfer, or a recheck of the file there, it is in the store."""

    digest: Digest
    total: int
    transfer: BlobTransfer | Recheck | None

    @property
    def completed(self) -> int:
        """Bytes to show now."""
        return self.total if self.transfer is None else self.transfer.completed

    @property
    def found(self) -> int:
        """What was on disk when the layer became known."""
        return self.total if self.transfer is None else self.transfer.found

    def progress(self) -> Progress:
        """Where it stands now."""
        return Progress(self.digest, self.total, self.completed)


class Course:
    """How far one pull has come, for all who watch it. Safe from threads.

    `tracks` are its blobs, once the manifest is there, valid, and the space suffices; `steps` the statuses that it
    reached after the layers; `model` what is in the store, after a success. `deserted` is called when the last watcher
    goes.
    """

    def __init__(self, deserted: Callable[[], None]) -> None:
        self.tracks: Sequence[Track] | None = None
        self.steps: list[str] = []
        self.waiting = ""
        """What it has been waiting for, for a while, where it waits for as long as it takes; empty else."""
        self.error: TowlineError | None = None
        self.finished = False
        self.model: StoredModel | None = None
        self._tell_deserted = deserted
        self._lock = threading.Lock()
        self._watchers: set[Watcher] = set()
        self._deserted = False

    def commit(self, tracks: Sequence[Track]) -> None:
        """The layers are known."""
        self.tracks = tracks
        self._changed()

    def reach(self, step: str) -> None:
        """A step after the layers is reached."""
        self.steps.append(step)
        self._changed()

    def finish(self, error: TowlineError | None) -> None:
        """It is over, well where there is no error. What is said first holds."""
        with self._lock:
            if self.finished:
                return
            self.error = error
            self.finished = True
        self._changed()

    @property
    def watchers(self) -> int:
        """How many there are."""
        return len(self._watchers)

    def watch(self) -> Watcher | None:
        """A new watcher; None when the pull is over or its last watcher went, and a new pull has to start."""
        with self._lock:
            if self.finished or self._deserted:
                return None
            watcher = Watcher(self)
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

    def _changed(self) -> None:
        with self._lock:
            watchers = list(self._watchers)
        for watcher in watchers:
            try:
                watcher._signal()
            except Exception:  # noqa: BLE001 - the others have to hear of it
                _log.exception("a watcher of a pull failed")


@dataclass(slots=True)
class _Seen:
    """A blob that is not whole yet, and what its watcher was told of it last."""

    track: Track
    transfer: BlobTransfer | Recheck
    told: int


class Watcher:
    """One caller's view of a pull. From any thread, one at a time; `close` it once, it is a context manager too.

    It samples: whoever polls rarely gets fewer and newer events, and holds nobody back.
    """

    def __init__(self, course: Course) -> None:
        self._course = course
        self._event = threading.Event()
        self._callback: Callable[[], None] | None = None
        self._greeted = False
        self._live: list[_Seen] | None = None
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
        return self._course.tracks is not None

    @property
    def finished(self) -> bool:
        """Whether it is over; poll once more after that to get the last events."""
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
        """Seconds until the next look: longer where hundreds watch one pull, or a pull has thousands of blobs, so that
        looking costs next to nothing; not past the next heartbeat.
        """
        blobs = len(self._live) if self._live is not None else 0
        sample = max(SAMPLE, self._course.watchers * _SAMPLE_EACH, blobs * _SAMPLE_BLOB)
        return min(sample, LONGEST_SAMPLE, max(self._last + HEARTBEAT - time.monotonic(), SAMPLE / 2))

    def poll(self, now: float | None = None) -> list[Event]:
        """What is new since the last poll; with nothing new for a second, the last thing again. Does not block.

        `now` is of `time.monotonic`.
        """
        now = time.monotonic() if now is None else now
        events = list(self._news())
        if not events and not self._course.finished and now - self._last >= HEARTBEAT:
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
        self._course.leave(self)

    def _signal(self) -> None:
        self._event.set()
        if self._callback is not None:
            self._callback()

    def _news(self) -> Iterator[Event]:
        # The steps first: whatever is reached after this line is told at the next poll, so the order holds.
        steps = list(self._course.steps)
        if not self._greeted:
            self._greeted = True
            yield Status(PULLING_MANIFEST)
        if self._course.tracks is not None and not self._steps_told:
            yield from self._progress(self._course.tracks)
        for step in steps[self._steps_told :]:
            self._steps_told += 1
            yield Status(step)

    def _progress(self, tracks: Sequence[Track]) -> Iterator[Event]:
        if self._live is None:
            self._live = []
            for track in tracks:
                if track.transfer is not None:
                    self._live.append(_Seen(track, track.transfer, track.found))
                yield Progress(track.digest, track.total, track.found)
        over = False
        for seen in self._live:
            completed = seen.transfer.completed
            if completed != seen.told:
                seen.told = completed
                over = over or completed == seen.track.total
                yield Progress(seen.track.digest, seen.track.total, completed)
        if over:
            self._live = [seen for seen in self._live if seen.told < seen.track.total]

    def _heartbeat(self) -> Event:
        if self._course.steps:
            return Status(self._course.steps[-1])
        if self._course.tracks:
            return (self._live[0].track if self._live else self._course.tracks[0]).progress()
        return Status(PULLING_MANIFEST)
