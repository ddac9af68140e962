"""One picture of a pull on a terminal: a headline, a row for each layer, and one for all of them."""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import Console, ConsoleOptions, RenderableType, RenderResult
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from towline.cli import units
from towline.cli.tally import SILENT, VERIFYING, Layer, Tally, time_left
from towline.model.events import SUCCESS

MOST_ROWS = 12
"""Layers drawn with a bar of their own; of more, those that move are preferred and the others counted."""

SMALL_ROW = 1_000_000
"""Bytes below which a layer has no row beside others that have one: it is over before anyone has read it."""


class Frame:
    """The picture, for any width and height. A value: it draws the same every time."""

    def __init__(self, name: str, tally: Tally, now: float) -> None:
        self._name = name
        self._tally = tally
        self._now = now

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        layers = self._rows(max(1, min(MOST_ROWS, console.height - 5)))
        name, state = _headline(
            self._name, self._states(layers), options.max_width, "..." if options.ascii_only else "…"
        )
        yield Text.assemble((name, "bold"), "  " if name else "", (state, "dim"), no_wrap=True, overflow="crop")
        if self._tally.layers:
            yield self._grid(layers, options.max_width)

    def _states(self, drawn: Sequence[Layer]) -> list[str]:
        """How the pull stands, in words; the same in fewer words after it."""
        tally = self._tally
        if tally.status == SUCCESS:
            return [""]
        if not tally.layers or tally.unfinished_layers == 0:
            quiet = self._now - tally.moved
            if tally.waiting:
                return _shortened(tally.status, tally.waiting)
            return [tally.status + (f" for {units.span(int(quiet))}" if quiet >= SILENT else "")]
        here = f"{tally.finished_layers:,} of {len(tally.layers):,} layers here"
        if tally.waiting:
            return _shortened(here, tally.waiting)
        waiting = self._waiting(drawn)
        silence = tally.silence(self._now)
        stall = f"no data for {units.span(int(silence))}" if silence else ""
        most = ", ".join(filter(None, (here, waiting, stall)))
        return [most, f"{here}, {stall}", stall] if stall else [most, here]

    def _waiting(self, drawn: Sequence[Layer]) -> str:
        """How many layers wait, the drawn ones among them; empty where the rows tell all of it."""
        if sum(not layer.done for layer in drawn) == self._tally.unfinished_layers:
            return ""
        waiting = self._tally.waiting_layers(self._now)
        return f"{waiting:,} waiting" if waiting else ""

    def _rows(self, room: int) -> list[Layer]:
        """Every layer that is not small while they fit, else as many as fit: those that move, those that wait, the
        rest. So the number of rows stays what it is during the whole pull. Small ones only where no other is.
        """
        layers = list(self._tally.layers.values())
        large = [layer for layer in layers if layer.total >= SMALL_ROW]
        if not large:
            return layers if len(layers) <= room else []
        if len(large) <= room:
            return large
        chosen = {layer.digest for layer in sorted(large, key=self._rank)[:room]}
        return [layer for layer in large if layer.digest in chosen]

    def _rank(self, layer: Layer) -> tuple[int, float]:
        """Of done ones the latest comes first; the others keep their order."""
        if layer.done:
            return 3, -layer.moved
        if layer.verifying or layer.moves(self._now):
            return 0, 0.0
        return (1 if layer.completed > layer.here else 2), 0.0

    def _grid(self, layers: Sequence[Layer], width: int) -> RenderableType:
        grid = Table.grid(padding=(0, 2, 0, 0), pad_edge=False)
        # A few columns stay free: the `^C` that a terminal echoes must not wrap, or the drawing is off by a line.
        columns = _columns(width - 3 if width > 40 else width)
        grid.add_column(no_wrap=True, overflow="crop", width=_LABEL)
        if "bar" in columns:
            grid.add_column(width=columns["bar"])
        for name in ("percent", "share", "speed", "left"):
            if name in columns:
                grid.add_column(justify="right", no_wrap=True, overflow="crop", width=columns[name])
        tally, now = self._tally, self._now
        for layer in layers:
            state = tally.state(layer, now)
            row = _Row(layer.digest.short, layer.completed, layer.total, layer.speed(now), state)
            grid.add_row(*row.cells(columns))
        if len(tally.layers) > 1:
            grid.add_row(*_Row("total", tally.completed, tally.total, tally.speed(now)).cells(columns), style="bold")
        return grid


def _shortened(state: str, waiting: str) -> list[str]:
    """Why it waits, beside how it stands and in fewer and fewer words.

    >>> _shortened("pulling manifest", "waiting, as host:5000 is away; trying again")[1:]
    ['waiting, as host:5000 is away; trying again', 'waiting, as host:5000 is away', 'waiting']
    """
    return [f"{state}, {waiting}", waiting, waiting.partition(";")[0], "waiting"]


_LEAST_NAME = 8
"""Characters of the model's name that are shown rather than more of its state."""


def _headline(name: str, states: Sequence[str], width: int, ellipsis: str) -> tuple[str, str]:
    """The name and the state that fit: the state in as many words as leave room for the end of the name.

    >>> _headline("registry.example/team/model:v2", ["1 of 2 layers here", "1 of 2"], 40, "…")
    ('…ample/team/model:v2', '1 of 2 layers here')
    >>> _headline("registry.example/team/model:v2", ["1 of 2 layers here", "1 of 2"], 20, "…")
    ('…am/model:v2', '1 of 2')
    """
    least = min(len(name), _LEAST_NAME) + 2
    state = next((state for state in states if len(state) + least <= width), states[-1])
    room = width - len(state) - 2 if state else width
    if len(name) <= room:
        return name, state
    kept = room - len(ellipsis)
    return (ellipsis + name[-kept:] if kept > 0 else ""), state


_LABEL = 12
"""Columns of a digest's first digits."""

_WIDTHS = {"percent": 5, "speed": 12, "left": 8, "share": 13}
"""Columns of a fixed width, in the order in which they are kept when the terminal gets narrower; the bar goes first."""


def _columns(width: int) -> dict[str, int]:
    """The columns that fit, with their widths, and a bar of 8 to 48 where there is room for one beside all of them."""
    columns: dict[str, int] = {}
    rest = width - _LABEL
    for name, wide in _WIDTHS.items():
        if rest < wide + 2:
            return columns
        columns[name] = wide
        rest -= wide + 2
    if rest >= 10:
        columns["bar"] = min(rest - 2, 48)
    return columns


class _Row:
    """One line of the grid. `speed` is None where no byte comes, `state` is shown in its place."""

    def __init__(self, label: str, completed: int, total: int, speed: float | None, state: str = "") -> None:
        self._label = label
        self._state = state
        self._completed = completed
        self._total = total
        self._speed = speed

    def cells(self, columns: dict[str, int]) -> list[RenderableType]:
        done = self._completed >= self._total
        cells: dict[str, RenderableType] = {
            "bar": _bar(self._completed, self._total),
            "percent": f"{units.percent(self._completed, self._total)} %",
            "share": units.size(self._total) if done else units.share(self._completed, self._total),
            "speed": self._state or ("" if done or self._speed is None else units.rate(self._speed)),
            "left": "" if done or self._state == VERIFYING else self._left(),
        }
        return [self._label, *(cell for name, cell in cells.items() if name in columns)]

    def _left(self) -> str:
        left = time_left(self._total - self._completed, self._speed)
        return "-:--" if left is None else units.clock(left)


def _bar(completed: int, total: int) -> ProgressBar:
    # An empty layer is a full bar; rich would draw none.
    return ProgressBar(
        total=max(total, 1), completed=completed if total else 1, complete_style="cyan", finished_style="green"
    )
