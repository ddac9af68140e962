"""What a pull's events add up to, from which every way of showing a pull draws. No output, no clock of its own."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field

from towline.model.digest import Digest
from towline.model.events import REASON, Event, Progress, WholeModel

WINDOW = 5.0
"""Seconds that a speed looks back: long enough to be calm, short enough to show a stall."""

SILENT = 3.0
"""Seconds without a byte after which something is said to wait."""

VERIFYING = "verifying"
"""The state of a layer whose bytes all came."""

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
    """One blob of the model, as far as it is known; or all of it, where it is told as one."""

    digest: Digest | WholeModel
    total: int
    here: int
    """Bytes that were on disk when the pull began."""
    completed: int
    moved: float
    """When `completed` last rose; the time of the first event while it has not."""
    samples: Speed = field(default_factory=Speed)

    @property
    def done(self) -> bool:
        return self.completed >= self.total

    @property
    def verifying(self) -> bool:
        """Whether all bytes came and are looked at: the last one is told once the digest is right."""
        return 0 < self.completed == self.total - 1

    def moves(self, now: float) -> bool:
        """Whether bytes of it come."""
        return self.here < self.completed < self.total and now - self.moved < SILENT

    def waits(self, now: float) -> bool:
        """Whether it lacks bytes and none comes."""
        return not (self.done or self.verifying or self.moves(now))

    def speed(self, now: float) -> float | None:
        """Bytes a second; None where no byte comes, or it is too early to say."""
        return self.samples.at(now) if self.moves(now) and not self.verifying else None


class Tally:
    """Adds up the events of one pull. `now` is in seconds, on any one clock that never goes back."""

    def __init__(self, now: float) -> None:
        self.started = now
        self.status = ""
        """The step that was reached last."""
        self.waiting = ""
        """Why it does not go on, where the pull itself knows: `waiting, as …`."""
        self.moved = now
        """When a byte last came, a layer became known or a step was reached."""
        self.layers: dict[Digest | WholeModel, Layer] = {}
        self.total = 0
        self.completed = 0
        self.here = 0
        self.finished_layers = 0
        self._samples = Speed()

    def take(self, event: Event, now: float) -> None:
        """Counts one event in. A total stays what it was first, a counter never falls."""
        if isinstance(event, Progress):
            self.waiting = event.waiting
            self._progress(event, now)
        else:
            status, _, self.waiting = event.status.partition(REASON)
            self.moved = now if status != self.status else self.moved
            self.status = status

    def _progress(self, event: Progress, now: float) -> None:
        layer = self.layers.get(event.digest)
        if layer is None:
            layer = self.layers[event.digest] = Layer(event.digest, event.total, event.completed, event.completed, now)
            self.total += event.total
            self.here += event.completed
            self.completed += event.completed
            self.finished_layers += layer.done
            self.moved = now
        elif event.completed > layer.completed:
            self.completed += event.completed - layer.completed
            self.finished_layers += event.completed >= layer.total and not layer.done
            # What comes after a silence has a speed of its own, not one with the silence in it.
            if now - layer.moved >= SILENT:
                layer.samples = Speed()
            if now - self.moved >= SILENT:
                self._samples = Speed()
            layer.completed = event.completed
            layer.moved = self.moved = now
        layer.samples.add(layer.completed, now)
        # From what was here on, so that bytes of an earlier pull are nobody's speed.
        self._samples.add(self.fetched, now)

    @property
    def fetched(self) -> int:
        """Bytes that came during this pull."""
        return self.completed - self.here

    @property
    def unfinished_layers(self) -> int:
        """Layers that are not complete."""
        return len(self.layers) - self.finished_layers

    def waiting_layers(self, now: float) -> int:
        """Layers that lack bytes of which none comes."""
        return sum(layer.waits(now) for layer in self.layers.values())

    def silence(self, now: float) -> float:
        """Seconds for which nothing came that should have, from `SILENT` on; 0 before, and while bytes lack nowhere."""
        quiet = now - self.moved
        if quiet < SILENT or (self.layers and all(layer.done or layer.verifying for layer in self.layers.values())):
            return 0.0
        return quiet

    def speed(self, now: float) -> float | None:
        """Bytes a second of all layers; None where none comes, or it is too early to say."""
        return self._samples.at(now) if self.fetched and now - self.moved < SILENT else None

    def state(self, layer: Layer, now: float) -> str:
        """What this layer waits for, in a word or two of at most 12 characters; empty while it moves, or may soon.

        `queued` is said only while other layers move: else nobody knows what it waits for.
        """
        if layer.verifying:
            return VERIFYING
        silent = now - layer.moved
        if layer.done or silent < SILENT or self.waiting:  # which is said for all of them
            return ""
        if layer.completed > layer.here:
            return f"silent {_short(silent)}"
        return "queued" if self.fetched and now - self.moved < SILENT else "waiting"


def time_left(missing: int, speed: float | None) -> float | None:
    """Seconds for the bytes that are missing; None where nothing is missing or nothing moves."""
    return missing / speed if missing and speed else None


def _short(seconds: float) -> str:
    """In at most five characters: `4s`, `99s`, `1:40`, `59:59`, `>1 h`."""
    whole = int(seconds)
    if whole < 100:
        return f"{whole}s"
    return f"{whole // 60}:{whole % 60:02}" if whole < 3600 else ">1 h"
