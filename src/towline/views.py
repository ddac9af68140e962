"""How the blobs of a pull are told to one watcher: one after another, as they move, or all as one."""

from __future__ import annotations

from collections import deque
from typing import Protocol

from towline.model.events import WHOLE_MODEL, Progress
from towline.tracks import Tracks


class View(Protocol):
    """What one watcher was told of the blobs, and what is new to it.

    Of each that it tells, `total` never changes and `completed` never falls; the first event is what was on disk when
    the watcher began to watch, the last one says that it is whole, where it is to be.
    """

    def news(self, most: int, /) -> list[Progress]:
        """What was not told yet, at most so many events; the rest comes the next time."""

    @property
    def told(self) -> bool:
        """Whether every blob was told to be whole, or what it stays."""

    def latest(self) -> Progress:
        """A sign of life: something that was told already, as it was. Ask once `news` has told something."""


def view(tracks: Tracks, *, interleave: bool, joined: bool) -> View:
    """How these blobs are told, to a watcher who was there when they became known, or who `joined` later."""
    if tracks.in_tensors and not interleave:
        return AsOne(tracks, joined=joined)
    return Interleaved(tracks, joined=joined) if interleave or tracks.still else InOrder(tracks, joined=joined)


class InOrder:
    """One blob after another, as Ollama tells them: of the first that is not whole, whatever the others do.

    It looks at no other blob, so a watcher costs the same however many there are.
    """

    def __init__(self, tracks: Tracks, *, joined: bool = False) -> None:
        self._tracks = tracks
        self._joined = joined
        self._at = 0
        self._last: Progress | None = None

    def news(self, most: int, /) -> list[Progress]:
        news: list[Progress] = []
        current = None
        while len(news) < most and current is None:
            ends, current = self._tracks.in_order(self._at, most - len(news))
            if not ends:
                break
            self._at += len(ends)
            # How a blob stood when the pull began is nothing to who was not there.
            news += [end for end in ends if end.completed == end.total] if self._joined else ends
        self._last = news[-1] if news else self._last
        if current is not None and current != self._last:
            news.append(current)
            self._last = current
        return news

    @property
    def told(self) -> bool:
        return self._tracks.is_last(self._at)

    def latest(self) -> Progress:
        return self._last or self._tracks.foremost()


class Interleaved:
    """Every blob at once, then each as it moves: for those who draw all of them."""

    def __init__(self, tracks: Tracks, *, joined: bool = False) -> None:
        self._tracks = tracks
        self._firsts = self._as_it_is if joined else tracks.openings
        self._opened = 0
        self._mark = tracks.mark if joined else 0
        self._pending: deque[Progress] = deque()

    def news(self, most: int, /) -> list[Progress]:
        if self._opened < len(self._tracks):
            news = self._firsts(self._opened, most)
            self._opened += len(news)
            return news
        if not self._pending:
            self._tracks.look()
            self._mark, moved = self._tracks.since(self._mark)
            self._pending.extend(moved)
        return [self._pending.popleft() for _ in range(min(most, len(self._pending)))]

    def _as_it_is(self, start: int, most: int) -> list[Progress]:
        before, after, news = self._tracks.now(start, most)
        if before == self._mark:  # else somebody saw others move meanwhile, and some of these come again
            self._mark = after
        return news

    @property
    def told(self) -> bool:
        # Whole first: once they are, the mark stands.
        whole = self._tracks.whole and self._mark == self._tracks.mark
        return whole and self._opened == len(self._tracks) and not self._pending

    def latest(self) -> Progress:
        return self._tracks.foremost()


class AsOne:
    """The whole model in one event, as Ollama tells those of a layer for each tensor."""

    def __init__(self, tracks: Tracks, *, joined: bool = False) -> None:
        self._tracks = tracks
        self._first = tracks.completed_now() if joined else tracks.found
        self._completed: int | None = None

    def news(self, _most: int, /) -> list[Progress]:
        news = []
        if self._completed is None:
            self._completed = self._first
            news.append(self.latest())
        self._tracks.look()
        if self._tracks.completed > self._completed:
            self._completed = self._tracks.completed
            news.append(self.latest())
        return news

    @property
    def told(self) -> bool:
        return self._tracks.whole and self._completed == self._tracks.completed

    def latest(self) -> Progress:
        return Progress(WHOLE_MODEL, self._tracks.total, self._completed or 0)
