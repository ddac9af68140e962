"""The blobs of one pull as its watchers see them: looked at, and told, once for all of them."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Sequence
from typing import NamedTuple, Protocol

from towline.model.digest import Digest
from towline.model.events import Progress
from towline.model.manifest import TENSOR_LAYER, Descriptor, Manifest

LOOK = 4096
"""Blobs that one look compares, about a millisecond of a processor: of more, each look takes the next ones."""

FRESH = 0.05
"""Seconds for which a look holds for every watcher: half the time between two looks of one of them."""


class Moving(Protocol):
    """What changes of a blob: a transfer, or a recheck of the file that is there."""

    @property
    def completed(self) -> int:
        """Bytes to show: never falls, and is the blob's size only once its digest is verified."""


class Track(NamedTuple):
    """One blob as watchers see it: `found` bytes of it were on disk when the layer became known to this pull; without
    anything that moves it stays so.
    """

    blob: Descriptor
    moving: Moving | None
    found: int

    @property
    def digest(self) -> Digest:
        """Which blob it is."""
        return self.blob.digest

    @property
    def total(self) -> int:
        """Its size."""
        return self.blob.size

    @property
    def completed(self) -> int:
        """Bytes to show now."""
        return self.found if self.moving is None else self.moving.completed


_whole: tuple[Digest, Tracks] | None = None


class Tracks:
    """All blobs of one pull, at least one, in the manifest's order. Safe from threads.

    What watchers are told alike is the same `Progress`, made once and so encoded once, however many they are.
    """

    def __init__(self, tracks: Sequence[Track]) -> None:
        self._tracks = tracks
        self.in_tensors = any(track.blob.media_type == TENSOR_LAYER for track in tracks)
        """Whether the model has a layer for each tensor: thousands, which tell nobody anything one by one."""
        self.still = all(track.moving is None for track in tracks)
        """Whether each blob stays as it was found."""
        self._seen = [track.found for track in tracks]
        self._unfinished = deque(
            number for number, track in enumerate(tracks) if track.moving is not None and track.found < track.blob.size
        )
        self.total = sum(track.blob.size for track in tracks)
        self.found = sum(self._seen)
        self.completed = self.found
        """Bytes of all blobs, as of the last looks."""
        self.over = False
        """Whether nothing moves any more: what is left to be seen is looked at without a pause then."""
        self._lock = threading.Lock()
        self._openings: dict[int, Progress] = {}
        self._added_up = 0.0
        self._sum = 0
        # One after another
        self._ends: list[Progress] = []
        self._front = 0
        self._current: Progress | None = None
        # Side by side
        self._looked = 0.0
        self._changes: dict[int, tuple[int, Progress]] = {}
        self._changed = 0

    @classmethod
    def whole_model(cls, manifest: Manifest) -> Tracks:
        """Those of a model whose blobs are all here. They are kept for the next pull of it, those of the last such
        model: to tell of thousands of blobs is most of what a pull with nothing new has to do.
        """
        global _whole
        kept = _whole
        if kept is None or kept[0] != manifest.digest:
            tracks = cls([Track(blob, None, blob.size) for blob in manifest.blobs])
            kept = _whole = manifest.digest, tracks
        return kept[1]

    def __len__(self) -> int:
        return len(self._tracks)

    def openings(self, start: int, most: int) -> list[Progress]:
        """Of blob `start` and those after it, at most so many: what was on disk when they became known."""
        with self._lock:
            return [self._opening(number) for number in self._range(start, most)]

    def now(self, start: int, most: int) -> tuple[int, int, list[Progress]]:
        """Of blob `start` and those after it, at most so many: what is on disk at this moment; and the mark before and
        after, between which lies nothing but these.
        """
        with self._lock:
            before = self._changed
            for number in self._range(start, most):
                self._see(number)
            return before, self._changed, [self._newest(number) for number in self._range(start, most)]

    def _range(self, start: int, most: int) -> range:
        return range(start, min(start + most, len(self._tracks)))

    def _opening(self, number: int) -> Progress:
        opening = self._openings.get(number)
        if opening is None:
            track = self._tracks[number]
            opening = self._openings[number] = _progress(track, track.found)
        return opening

    def _newest(self, number: int) -> Progress:
        _, progress = self._changes.get(number) or (0, self._opening(number))
        return progress

    # One after another

    def in_order(self, start: int, most: int) -> tuple[list[Progress], Progress | None]:
        """Of the first and last events of all blobs, one blob after another: event `start` and those after it, as far
        as they happened, at most so many; and then, where this is all of them, the first blob that is not whole.
        """
        with self._lock:
            while self._front < len(self._tracks) and len(self._ends) < start + most:
                track = self._tracks[self._front]
                if track.moving is None:  # it is here, which is all that there is to tell
                    self._ends.append(Progress(track.blob.digest, track.blob.size, track.found))
                    self._front += 1
                elif not self._pass(track):
                    break
            events = self._ends[start : start + most]
            return events, self._current if start + len(events) == len(self._ends) else None

    def _pass(self, track: Track) -> bool:
        """Notes the ends of the blob at the front that it has come to; whether it is whole."""
        completed = track.completed
        if self._current is None and track.found < track.total:
            self._current = _progress(track, track.found)
            self._ends.append(self._current)
        if completed < track.total:
            if self._current is not None and self._current.completed != completed:
                self._current = _progress(track, completed)
            return False
        self._ends.append(_progress(track, completed))
        self._current = None
        self._front += 1
        return True

    def is_last(self, start: int) -> bool:
        """Whether all blobs are whole and there is no event `start`."""
        return self._front == len(self._tracks) and start == len(self._ends)

    # Side by side

    @property
    def whole(self) -> bool:
        """Whether every blob that moves was seen to be whole."""
        return not self._unfinished

    @property
    def mark(self) -> int:
        """Changes whenever a look finds that something moved."""
        return self._changed

    def look(self) -> None:
        """Finds what moved since the last look, which stands for a moment. However many blobs there are, one look
        costs what `LOOK` of them cost.
        """
        now = time.monotonic()
        with self._lock:
            if now - self._looked < FRESH and not self.over:
                return
            self._looked = now
            for _ in range(min(LOOK, len(self._unfinished))):
                number = self._unfinished.popleft()
                self._see(number)
                if self._seen[number] < self._tracks[number].total:
                    self._unfinished.append(number)

    def completed_now(self) -> int:
        """Bytes of all blobs at this moment: for who begins to watch in the middle, as it looks at each, which takes
        some ten milliseconds for tens of thousands. It stands for a moment too.
        """
        now = time.monotonic()
        with self._lock:
            if now - self._added_up >= FRESH:
                self._added_up = now
                self._sum = sum(track.completed for track in self._tracks)
            return self._sum

    def _see(self, number: int) -> None:
        """Keeps the newest of a blob, the blob that moved last at the end."""
        track = self._tracks[number]
        completed = track.completed
        before = self._seen[number]
        if completed == before:
            return
        self.completed += completed - before
        self._seen[number] = completed
        self._changed += 1
        self._changes.pop(number, None)
        self._changes[number] = (self._changed, _progress(track, completed))

    def since(self, mark: int) -> tuple[int, list[Progress]]:
        """The mark now, and the blobs that moved since it was `mark`; 0 is before all of them."""
        news: list[Progress] = []
        with self._lock:
            for changed, progress in reversed(self._changes.values()):
                if changed <= mark:
                    break
                news.append(progress)
            mark = self._changed
        news.reverse()
        return mark, news

    def foremost(self) -> Progress:
        """A blob that is not whole as it was seen last, the first blob where all are."""
        with self._lock:
            return self._newest(self._unfinished[0] if self._unfinished else 0)


def _progress(track: Track, completed: int) -> Progress:
    return Progress(track.digest, track.total, completed)
