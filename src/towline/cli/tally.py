"""What a pull's events add up to, from which every way of showing a pull draws. No output, no clock of its own."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field

from towline.model.digest import Digest
from towline.model.events import Event, Progress

WINDOW = 5.0
"""Seconds that a speed looks back: long enough to be calm, short enough to show a stall."""

SILENT = 3.0
"""Seconds without a byte after which something is said to wait."""

_STEP = 0.25
"""Seconds between the samples that a speed keeps."""


class Speed:
    """Bytes a second over the last few seconds. What was counted before the first sample does not count."""

    def __init__(self) -> None:
        self._samples: deque[tuple[float, int]] = deque()
        self._latest = 0

    def add(self, count: int, now: float) -> None:
        """The counter stands at `count`; it may also stand still."""
        self._latest = count
        if not self._samples or now - self._samples[-1][0] >= _STEP:
            self._samples.append((now, count))
        while len(self._samples) > 1 and now - self._samples[0][0] > WINDOW:
            self._samples.popleft()

    def at(self, now: float) -> float | None:
        """None while it is too early to say."""
        if not self._samples:
            return None
        since, count = self._samples[0]
        return (self._latest - count) / (now - since) if now - since >= _STEP else None


@dataclass(slots=True)
class Layer:
    """One blob of the model, as far as it is known."""

    digest: Digest
    total: int
    here: int
    """Bytes that were on disk when the pull began."""
    completed: int
    moved: float
    """When `completed` last rose; the time of the first event while it has not."""
    speed: Speed = field(default_factory=Speed)

    @property
    def done(self) -> bool:
        return self.completed >= self.total

    def waits(self, now: float) -> str:
        """What it waits for, in a word; empty while it moves."""
        if self.done or now - self.moved < SILENT:
            return ""
        if self.completed == self.total - 1:
            return "verifying"  # the last byte is told once the digest is right
        return "queued" if self.completed == self.here else f"silent {min(now - self.moved, 99):.0f} s"


class Tally:
    """Adds up the events of one pull. `now` is in seconds, on any one clock that never goes back."""

    def __init__(self, now: float) -> None:
        self.started = now
        self.status = ""
        self.moved = now
        self.layers: dict[Digest, Layer] = {}
        self.total = 0
        self.completed = 0
        self.here = 0
        self.finished_layers = 0
        self.speed = Speed()

    def take(self, event: Event, now: float) -> None:
        """Counts one event in. A total stays what it was first, a counter never falls."""
        if isinstance(event, Progress):
            self._progress(event, now)
        else:
            self.moved = now if event.status != self.status else self.moved
            self.status = event.status

    def _progress(self, event: Progress, now: float) -> None:
        layer = self.layers.get(event.digest)
        if layer is None:
            layer = self.layers[event.digest] = Layer(event.digest, event.total, event.completed, event.completed, now)
            self.total += event.total
            self.here += event.completed
            self.completed += event.completed
            self.finished_layers += layer.done
        elif event.completed > layer.completed:
            self.completed += event.completed - layer.completed
            self.finished_layers += event.completed >= layer.total and not layer.done
            layer.completed = event.completed
            layer.moved = self.moved = now
        layer.speed.add(layer.completed, now)
        # From what was here on, so that bytes of an earlier pull are nobody's speed.
        self.speed.add(self.completed - self.here, now)

    @property
    def fetched(self) -> int:
        """Bytes that came during this pull."""
        return self.completed - self.here

    @property
    def waiting(self) -> int:
        """Layers that are not complete."""
        return len(self.layers) - self.finished_layers

    def left(self, now: float) -> float | None:
        """Seconds until all bytes are here, at the speed of the last moments; None where nobody can tell."""
        return time_left(self.total - self.completed, self.speed.at(now))


def time_left(missing: int, speed: float | None) -> float | None:
    """Seconds for the bytes that are missing; None where nothing is missing or nothing moves."""
    return missing / speed if missing and speed else None
