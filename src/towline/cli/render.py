"""How a pull looks: bars on a terminal, sparse lines elsewhere, the wire's own events for programs.

A view is told of every event by `show`, in the thread that reads them, and closed once, however the pull ended.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from types import TracebackType
from typing import Protocol, Self

from rich.console import Console, ConsoleOptions, RenderableType, RenderResult
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from towline.cli import units
from towline.cli.tally import SILENT, Layer, Tally, time_left
from towline.model.digest import Digest
from towline.model.events import SUCCESS, Event, Progress, encode

Clock = Callable[[], float]

MOST_ROWS = 12
"""Layers drawn with a bar of their own; of more, those that move are drawn and the others counted."""

_FRAME = 0.1
"""Seconds between two drawings. Events come at least every second, so none waits longer to be seen."""

_MOVING = 3.0
"""Seconds after its last byte that a layer still counts as moving."""


class View(Protocol):
    """What shows a pull while it runs."""

    def __enter__(self) -> Self: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...

    def show(self, event: Event) -> None:
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
    """What to say of a pull that worked, in one line."""
    if tally.fetched <= 0:
        return f"{name} is up to date"
    took = now - tally.started
    amount = units.size(tally.fetched)
    if tally.here:
        amount += f" of {units.size(tally.total)}"
    return f"pulled {name}: {amount} in {units.span(took)}, {units.rate(tally.fetched / max(took, 0.001))}"


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

    With more than `MOST_ROWS` layers the lines are about all of them together.
    """

    SMALL = 10_000_000
    """Bytes up to which a layer has one line only, at its end."""

    QUIET = 60.0
    """Seconds without a line after which one comes anyway: log readers give up on silence."""

    def __init__(self, name: str, clock: Clock = time.monotonic) -> None:
        self._name = name
        self._clock = clock
        self._tally = Tally(clock())
        self._tenths: dict[Digest | None, int] = {}
        self._status = ""
        self._moving = False
        self._spoke = clock()

    def show(self, event: Event) -> None:
        now = self._clock()
        self._tally.take(event, now)
        if not isinstance(event, Progress):
            self._step(event.status, now)
        elif event.completed > self._tally.layers[event.digest].here:
            self._moved(self._tally.layers[event.digest], now)
        if now - self._spoke >= self.QUIET:
            self._say(f"{self._name}: {self._all(now) if self._tally.layers else self._status}", now)

    def _step(self, status: str, now: float) -> None:
        if status == self._status:
            return
        self._status = status
        self._say(outcome(self._name, self._tally, now) if status == SUCCESS else f"{self._name}: {status}", now)

    def _moved(self, layer: Layer, now: float) -> None:
        tally = self._tally
        if tally.here and not self._moving:
            self._say(f"{self._name}: {units.size(tally.here)} of {units.size(tally.total)} here already", now)
        self._moving = True
        if len(tally.layers) > MOST_ROWS:
            if self._is_further(None, tally.completed, tally.total):
                self._say(f"{self._name}: {self._all(now)}", now)
        elif (layer.done or layer.total > self.SMALL) and self._is_further(layer.digest, layer.completed, layer.total):
            so_far = "done" if layer.done else _so_far(layer.completed, layer.total, layer.speed.at(now))
            self._say(f"{layer.digest.short}: {units.size(layer.total)}, {so_far}", now)

    def _is_further(self, what: Digest | None, completed: int, total: int) -> bool:
        """Whether it has come to another tenth since this was asked last; None is all layers together."""
        tenth = units.percent(completed, total) // 10
        further = tenth > self._tenths.get(what, -1)
        self._tenths[what] = tenth
        return further

    def _all(self, now: float) -> str:
        tally = self._tally
        layers = f"{tally.finished_layers:,} of {len(tally.layers):,} layers, {units.size(tally.total)}"
        return f"{layers}, {_so_far(tally.completed, tally.total, tally.speed.at(now))}"

    def _say(self, line: str, now: float) -> None:
        self._spoke = now
        print(line, flush=True)


def _so_far(completed: int, total: int, speed: float | None) -> str:
    text = f"{units.percent(completed, total)} %"
    if speed:
        text += f", {units.rate(speed)}"
        left = time_left(total - completed, speed)
        text += f", {units.span(max(1, round(left)))} left" if left is not None else ""
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
            self._console.print(Text(outcome(self._name, self._tally, self._clock())), soft_wrap=True)

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


class Frame:
    """One picture of a pull, for any width and height. A value: it draws the same every time."""

    def __init__(self, name: str, tally: Tally, now: float) -> None:
        self._name = name
        self._tally = tally
        self._now = now

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        room = max(1, min(MOST_ROWS, console.height - 5))
        layers = self._rows(room)
        yield Text.assemble(
            (self._name, "bold"), "  ", (self._headline(len(layers)), "dim"), no_wrap=True, overflow="crop"
        )
        if self._tally.layers:
            yield self._grid(layers, options.max_width)

    def _headline(self, drawn: int) -> str:
        tally = self._tally
        if tally.status == SUCCESS:
            return ""
        silent = self._now - tally.moved
        waits = f" for {silent:.0f} s" if silent >= SILENT else ""
        if not tally.layers or tally.waiting == 0:
            return tally.status + waits
        text = f"{tally.finished_layers:,} of {len(tally.layers):,} layers here"
        if len(tally.layers) > drawn and tally.waiting > drawn:
            text += f", {tally.waiting - drawn:,} waiting"
        return f"{text}, no data{waits}" if waits else text

    def _rows(self, room: int) -> list[Layer]:
        """Every layer while they fit; else those that move, or if none does, some that are not done."""
        layers = list(self._tally.layers.values())
        if len(layers) <= room:
            return layers
        missing = [layer for layer in layers if not layer.done]
        moving = [layer for layer in missing if self._now - layer.moved < _MOVING and layer.completed > layer.here]
        return (moving or missing)[:room]

    def _grid(self, layers: list[Layer], width: int) -> RenderableType:
        grid = Table.grid(padding=(0, 2, 0, 0), pad_edge=False)
        # A few columns stay free: the `^C` that a terminal echoes must not wrap, or the drawing is off by a line.
        columns = _columns(width - 3 if width > 40 else width)
        grid.add_column(no_wrap=True, overflow="crop", width=12)
        if "bar" in columns:
            grid.add_column(width=columns["bar"])
        for name in ("percent", "share", "speed", "left"):
            if name in columns:
                grid.add_column(justify="right", no_wrap=True, overflow="crop", width=columns[name])
        for layer in layers:
            speed = layer.speed.at(self._now) if layer.completed > layer.here else None
            waits = layer.waits(self._now)
            grid.add_row(*_Row(layer.digest.short, layer.completed, layer.total, speed, waits).cells(columns))
        tally = self._tally
        if len(tally.layers) > 1:
            row = _Row("total", tally.completed, tally.total, tally.speed.at(self._now))
            grid.add_row(*row.cells(columns), style="bold")
        return grid


_WIDTHS = {"percent": 5, "share": 13, "speed": 9, "left": 7}
"""Columns of a fixed width, in the order in which they are kept when the terminal gets narrower."""


def _columns(width: int) -> dict[str, int]:
    """The columns that fit, with their widths: twelve for the digest, and a bar of 8 to 48 where there is room."""
    columns: dict[str, int] = {}
    rest = width - 12
    for name, wide in _WIDTHS.items():
        if rest - wide - 2 < (10 if name != "percent" else 0):
            break
        columns[name] = wide
        rest -= wide + 2
    if rest >= 10:
        columns["bar"] = min(rest - 2, 48)
    return columns


class _Row:
    """One line of the grid."""

    def __init__(self, label: str, completed: int, total: int, speed: float | None, waits: str = "") -> None:
        self._label = label
        self._waits = waits
        self._completed = completed
        self._total = total
        self._speed = speed

    def cells(self, columns: dict[str, int]) -> list[RenderableType]:
        done = self._completed >= self._total
        left = time_left(self._total - self._completed, self._speed)
        cells: dict[str, RenderableType] = {
            "bar": _bar(self._completed, self._total),
            "percent": f"{units.percent(self._completed, self._total)} %",
            "share": units.size(self._total) if done else units.share(self._completed, self._total),
            "speed": self._waits or ("" if done or self._speed is None else units.rate(self._speed)),
            "left": "" if done or self._speed is None else units.clock(left) if left is not None else "-:--",
        }
        return [self._label, *(cell for name, cell in cells.items() if name in columns)]


def _bar(completed: int, total: int) -> ProgressBar:
    # An empty layer is a full bar; rich would draw none.
    return ProgressBar(
        total=max(total, 1), completed=completed if total else 1, complete_style="cyan", finished_style="green"
    )
