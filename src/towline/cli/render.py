"""How a pull looks: bars on a terminal, sparse lines elsewhere, the wire's own events for programs.

A view is told of every event by `show`, in the thread that reads them, and closed once, however the pull ended.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from types import TracebackType
from typing import Protocol, Self

from rich.console import Console, RenderableType
from rich.live import Live
from rich.text import Text

from towline.cli import units
from towline.cli.frame import MOST_ROWS, Frame
from towline.cli.tally import Layer, Tally, time_left
from towline.model.digest import Digest
from towline.model.events import DRY_RUN, SUCCESS, Event, Progress, WholeModel, encode

Clock = Callable[[], float]

_FRAME = 0.1
"""Seconds between two drawings. Events come at least every second, so none waits longer to be seen."""


class View(Protocol):
    """What shows a pull while it runs."""

    def __enter__(self) -> Self: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...

    def show(self, event: Event, /) -> None:
        """One event, in the order in which they came."""

    def fail(self, sentence: str, /) -> None:
        """The pull ended so; what stderr says about it is not the view's business."""


def best_view(name: str) -> View:
    """Bars where standard output is a terminal that can move its cursor, else lines."""
    console = Console(highlight=False, soft_wrap=False)
    if sys.stdout is not None and sys.stdout.isatty() and not console.is_dumb_terminal:
        return Bars(name, console)
    return Lines(name)


def outcome(name: str, tally: Tally, now: float) -> str:
    """What to say of a pull that worked, or of a dry run, in one line."""
    if tally.status == DRY_RUN:
        return f"{name}: {_lacking(tally)} would be fetched"
    if not tally.layers:  # an Ollama tells nothing of what is small
        return f"pulled {name}"
    if tally.fetched <= 0:
        return f"{name} is up to date"
    took = now - tally.started
    amount = units.size(tally.fetched)
    if tally.here and units.size(tally.total) != amount:
        amount += f" of {units.size(tally.total)}"
    return f"pulled {name}: {amount} in {units.span(took)}, {units.rate(tally.fetched / max(took, 0.001))}"


def _lacking(tally: Tally) -> str:
    if not tally.unfinished_layers:
        return "nothing"
    lacking = units.size(tally.total - tally.here)
    return f"{lacking} of {units.size(tally.total)}" if tally.here and units.size(tally.total) != lacking else lacking


class _Quiet:
    """A view that has nothing to open or close."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        return None

    def fail(self, _: str, /) -> None:
        return None


class Nothing(_Quiet):
    """Nothing at all: what fails is told on standard error, and not by a view."""

    def show(self, _: Event, /) -> None:
        return None


class Wire(_Quiet):
    """The NDJSON events, as `POST /api/pull` streams them."""

    def show(self, event: Event) -> None:
        self._write(encode(event))

    def fail(self, sentence: str, /) -> None:
        from towline.model.events import Failed

        self._write(encode(Failed(sentence)))

    @staticmethod
    def _write(line: bytes) -> None:
        if sys.stdout is not None:
            sys.stdout.buffer.write(line)
            sys.stdout.buffer.flush()


class Lines(_Quiet):
    """Plain lines, few enough for a log: each layer at every tenth and at its end, and one a minute at least.

    A silence is told once, when it has lasted for `SILENCE`; and what a pull waits for once, where it says that.

    With more than `MOST_ROWS` layers the lines are about all of them together.
    """

    SMALL = 10_000_000
    """Bytes up to which a layer has one line only, at its end."""

    QUIET = 60.0
    """Seconds without a line after which one comes anyway: log readers give up on silence."""

    SILENCE = 5.0
    """Seconds without a byte after which that is said: longer than the pauses of a registry that is only slow."""

    def __init__(self, name: str, clock: Clock = time.monotonic) -> None:
        self._name = name
        self._clock = clock
        self._tally = Tally(clock())
        self._silent = False
        self._waited = ""
        self._tenths: dict[Digest | WholeModel | None, int] = {}
        self._status = ""
        self._moving = False
        self._spoke = clock()

    def show(self, event: Event) -> None:
        now = self._clock()
        self._tally.take(event, now)
        if not isinstance(event, Progress):
            self._step(self._tally.status, now)
        elif event.completed > self._tally.layers[event.digest].here:
            self._moved(self._tally.layers[event.digest], now)
        self._tell_silence(now)
        if now - self._spoke >= self.QUIET:
            so_far = self._all(now) if self._tally.layers else self._status
            self._say(f"{self._name}: {', '.join(filter(None, (so_far, self._tally.waiting)))}", now)

    def _step(self, status: str, now: float) -> None:
        if status == self._status:
            return
        self._status = status
        self._say(
            outcome(self._name, self._tally, now) if status in (SUCCESS, DRY_RUN) else f"{self._name}: {status}", now
        )

    def _moved(self, layer: Layer, now: float) -> None:
        tally = self._tally
        if tally.here and not self._moving:
            self._say(f"{self._name}: {units.size(tally.here)} of {units.size(tally.total)} here already", now)
        self._moving = True
        if len(tally.layers) > MOST_ROWS:
            if self._is_further(None, tally.completed, tally.total):
                self._say(f"{self._name}: {self._all(now)}", now)
        elif (layer.done or layer.total > self.SMALL) and self._is_further(layer.digest, layer.completed, layer.total):
            so_far = "done" if layer.done else _so_far(layer.completed, layer.total, layer.speed(now))
            self._say(f"{layer.digest.short}: {units.size(layer.total)}, {so_far}", now)

    def _tell_silence(self, now: float) -> None:
        if self._tally.waiting:  # which says why
            if self._tally.waiting != self._waited:
                self._say(f"{self._name}: {self._tally.waiting}", now)
            self._waited = self._tally.waiting
            return
        if self._tally.moved == now:
            self._waited = ""
        silence = self._tally.silence(now)
        if silence >= self.SILENCE and not self._silent:
            self._say(f"{self._name}: no data for {units.span(int(silence))}", now)
        self._silent = silence >= self.SILENCE

    def _is_further(self, what: Digest | WholeModel | None, completed: int, total: int) -> bool:
        """Whether it has come to another tenth since this was asked last; None is all layers together."""
        tenth = units.percent(completed, total) // 10
        further = tenth > self._tenths.get(what, -1)
        self._tenths[what] = tenth
        return further

    def _all(self, now: float) -> str:
        tally = self._tally
        layers = f"{tally.finished_layers:,} of {len(tally.layers):,} layers, {units.size(tally.total)}"
        return f"{layers}, {_so_far(tally.completed, tally.total, tally.speed(now))}"

    def _say(self, line: str, now: float) -> None:
        self._spoke = now
        print(line, flush=True)


def _so_far(completed: int, total: int, speed: float | None) -> str:
    text = f"{units.percent(completed, total)} %"
    if speed:
        text += f", {units.rate(speed)}"
        left = time_left(total - completed, speed)
        if left is not None:
            text += f", {'more than a day' if left >= 86_400 else units.span(max(1, round(left)))} left"
    return text


class Bars:
    """A bar for each layer and one for all of them, drawn in place; they stay on the screen when the pull has ended."""

    def __init__(self, name: str, console: Console, clock: Clock = time.monotonic) -> None:
        self._name = name
        self._clock = clock
        self._console = console
        self._tally = Tally(clock())
        self._drawn = 0.0
        self._live = Live(console=console, auto_refresh=False, get_renderable=self._frame, vertical_overflow="crop")

    def __enter__(self) -> Self:
        self._live.start(refresh=True)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._live.refresh()
        self._live.stop()
        if self._tally.status == SUCCESS:
            self._console.print(Text(outcome(self._name, self._tally, self._clock())))

    def show(self, event: Event) -> None:
        now = self._clock()
        before = self._tally.status
        self._tally.take(event, now)
        if now - self._drawn >= _FRAME or self._tally.status != before:
            self._drawn = now
            self._live.refresh()

    def fail(self, _: str, /) -> None:
        return None

    def _frame(self) -> RenderableType:
        return Frame(self._name, self._tally, self._clock())
