"""Every fault that `make chaos` makes, and how often."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from tests.chaos import cancelled, cleaned, killed, outage, power, shared, space, wrong
from tests.chaos.arena import Arena
from tests.chaos.outcome import Outcome


@dataclass(frozen=True)
class Scenario:
    """One fault. `full` and `short` are the times that it is made by `make chaos` and by `make test`."""

    name: str
    fault: str
    how: str
    make: Callable[[Arena, int], Outcome]
    full: int
    short: int
    mounts: bool = False
    """Whether it has to mount file systems."""


SCENARIOS = (
    Scenario(
        "killed",
        "`kill -9` at a random moment of a pull",
        "`towline serve` is killed 0–0.7 s into a pull from a registry that sends slowly, and started again",
        killed.kill,
        full=100,
        short=4,
    ),
    Scenario(
        "power",
        "power cut: un-synced writes dropped, torn, reordered",
        "every call that changes a file is recorded during two pulls, and the disk rebuilt as after a cut",
        power.cut,
        full=300,
        short=20,
    ),
    Scenario(
        "outage",
        "power cut of a real ext4",
        "ext4's own shutdown without a flush (a loop device), 0–0.25 s into a pull; then its journal is replayed",
        outage.cut,
        full=30,
        short=2,
        mounts=True,
    ),
    Scenario(
        "cleaned",
        "a foreign process deletes what no manifest names",
        "a process in a tight loop over `blobs/` and empty manifest folders, during the whole of each pull",
        cleaned.clean,
        full=15,
        short=2,
    ),
    Scenario(
        "shared",
        "two processes, ten pulls of one model in each, a delete in the middle",
        "two daemons over one store; a model that shares a layer is removed as `ollama rm` does it",
        shared.share,
        full=10,
        short=1,
    ),
    Scenario(
        "cancelled",
        "callers go away at random moments",
        "four at a time close their connection 0–0.25 s into a pull; then `/proc` is read",
        cancelled.cancel,
        full=200,
        short=16,
    ),
    Scenario(
        "wrong",
        "a blob that comes wrong, then three pulls more",
        "every answer for the blob is spoiled, in each of these ways; then the registry is healed",
        wrong.spoil,
        full=len(wrong.WAYS),
        short=4,
    ),
    Scenario(
        "refused",
        "disk full before",
        "a tmpfs of 8 MiB",
        space.refuse,
        full=3,
        short=1,
        mounts=True,
    ),
    Scenario(
        "filled",
        "disk full during",
        "a tmpfs of 20 MiB that somebody else fills",
        space.fill,
        full=5,
        short=1,
        mounts=True,
    ),
    Scenario(
        "read-only",
        "the disk turns read-only during a pull",
        "an error of an ext4 on a loop device (`trigger_fs_error`)",
        space.turn_read_only,
        full=3,
        short=1,
        mounts=True,
    ),
    Scenario(
        "removed",
        "the folder of the store is removed during a pull",
        "`rm -r`",
        space.remove,
        full=5,
        short=1,
    ),
)
