"""One pull of a real daemon, timed from outside."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from tests.support.daemon import Daemon
from tests.support.models import Model

from bench.process import Stopwatch
from bench.workspace import Workspace, settle

PATIENCE = 120.0
"""Seconds without a line after which a pull is given up."""


@dataclass(frozen=True)
class Timing:
    """Seconds from the request to the line that says success, and what the daemon took in them."""

    wall: float
    cpu: float
    """CPU-seconds of the daemon, all threads."""
    ended_at: float
    """When success came, of `time.time`."""
    peak: int
    """VmHWM of the daemon since it began, in bytes."""


@contextlib.contextmanager
def fresh_daemon(
    work: Workspace, environment: Mapping[str, str] | None = None, *, on_disk: bool = False
) -> Iterator[Daemon]:
    """`towline serve` over an empty store, which is removed at the end. TOWLINE_* of this process goes to it too."""
    store = work.fresh("store", on_disk=on_disk)
    try:
        with Daemon(store, work.fresh("daemon"), environment={**inherited(), **(environment or {})}) as daemon:
            yield daemon
    finally:
        settle(store)


def timed_pull(daemon: Daemon, name: str, model: Model | None = None) -> Timing:
    """A streamed pull. Raises AssertionError when it fails or breaks the contract."""
    with contextlib.ExitStack() as stack:
        with Stopwatch(daemon.pid) as watch:
            stream = stack.enter_context(daemon.pulling(name, timeout=PATIENCE))
            stream.until(lambda line: line.get("status") == "success" or "error" in line)
        stream.finish(model=model)
    return Timing(watch.wall, watch.cpu, watch.ended_at, daemon.usage().peak_rss)


def pull_once(
    work: Workspace,
    name: str,
    model: Model | None = None,
    environment: Mapping[str, str] | None = None,
    *,
    on_disk: bool = False,
) -> Timing:
    """A pull into an empty store, of a daemon started for it."""
    with fresh_daemon(work, environment, on_disk=on_disk) as daemon:
        return timed_pull(daemon, name, model)


def inherited() -> dict[str, str]:
    """The settings that this process was started with, for the daemons: `TOWLINE_CONNECTIONS=4 make bench`."""
    return {name: value for name, value in os.environ.items() if name.startswith("TOWLINE_")}
