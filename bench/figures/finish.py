"""How long success takes after the last byte: on a real disk, with and without early writeback, and on tmpfs where the
bytes come slower than the hash can take them, so that what is left to do after the last one is all that shows.
"""

from __future__ import annotations

from collections.abc import Sequence

from bench.command import timed
from bench.machine import filesystem
from bench.origin import PACED_RATE, Origin
from bench.pull import pull_once
from bench.rounds import interleave
from bench.row import Row
from bench.workspace import Workspace, settle

REPOSITORY = "library/big"


def measure(work: Workspace) -> Sequence[Row]:
    """The wait and the whole pull, and `cp` with `sync` of the same file beside them."""
    model = work.big_model
    waits: dict[str, list[float]] = {"0": [], "1": [], "paced": []}
    with Origin(work) as origin:
        name = origin.hold(model, REPOSITORY)

        def pull(writeback: str) -> float:
            timing = pull_once(work, name, model, {"TOWLINE_WRITEBACK": writeback}, on_disk=True)
            waits[writeback].append((timing.ended_at - origin.last_sent(str(model.weights.digest))) * 1000)
            return timing.wall

        def paced() -> float:
            slow = name.replace(f":{origin.port}/", f":{origin.paced_port}/")
            timing = pull_once(work, slow, model, {"TOWLINE_CONNECTIONS_PER_BLOB": "1"})
            waits["paced"].append((timing.ended_at - origin.last_sent(str(model.weights.digest))) * 1000)
            return timing.wall

        contestants = {
            "paced": paced,
            "copy": lambda: _copy(work),
            "0": lambda: pull("0"),
            "1": lambda: pull("1"),
        }
        walls = interleave(contestants, work.scale.slow_rounds)
    disk = filesystem(work.disk)
    speed = f"one connection of {PACED_RATE / 1e6:.0f} MB/s"
    rows = [
        Row.of(f"last byte sent → success, tmpfs, {speed}", "ms", waits["paced"]),
        Row.of(f"pull to tmpfs, {speed}", "s", walls["paced"]),
        Row.of(f"`cp`, then `sync`, of the file to {disk}", "s", walls["copy"]),
    ]
    for writeback, words in (("0", "without"), ("1", "with")):
        rows += [
            Row.of(f"last byte sent → success, {disk}, {words} early writeback", "ms", waits[writeback]),
            Row.of(f"pull to {disk}, {words} early writeback", "s", walls[writeback]),
        ]
    return rows


def _copy(work: Workspace) -> float:
    folder = work.fresh("copy", on_disk=True)
    copy = folder / "copy"
    seconds = timed(["cp", work.big_file, copy], ["sync", copy])
    settle(folder)
    return seconds
