"""Callers that go away at random moments of a pull."""

from __future__ import annotations

import fcntl
import os
import threading
import time
from pathlib import Path

from tests.chaos.arena import Arena, check_model, check_store
from tests.chaos.outcome import Outcome
from tests.support.daemon import Daemon
from tests.support.exchanges import blob
from tests.support.faults import Slow
from tests.support.models import generate

MIB = 1 << 20
_CALLERS = 4
_CONNECTIONS = 4
_WARM_UP = 24
"""Cancels before the base line: by then every thread that lives as long as the daemon is there."""

_LONGEST = 0.25


def cancel(arena: Arena, times: int) -> Outcome:
    """Four callers side by side of two models, that come and go; then what the daemon holds is counted."""
    models = [generate(16 * MIB, layers=3, seed=seed) for seed in (41, 42)]
    names = [arena.registry.add(model, f"library/cancelled-{n}") for n, model in enumerate(models)]
    warm = arena.registry.add(generate(4 * MIB, layers=4, seed=43), "library/warm")
    store = arena.new_store()
    with arena.daemon(store, connections=str(_CONNECTIONS)) as daemon:
        daemon.pull(warm)
        rule = arena.registry.fail(blob(), Slow(2 * MIB), times=None)
        _all_come_and_go(daemon, names, [arena.random.uniform(0, _LONGEST) for _ in range(_WARM_UP)])
        before = _settled(daemon, arena)
        moments = [arena.random.uniform(0, _LONGEST) for _ in range(times)]
        _all_come_and_go(daemon, names, moments)
        assert rule.hits, "no cancel came while bytes flowed"
        after = _settled(daemon, arena)
        assert after[0] <= before[0], f"{before[0]} descriptors before and {after[0]} after"
        assert after[1] <= before[1], f"{before[1]} threads before and {after[1]} after"
        held = [path.name for path in (store / "towline/locks").iterdir() if _is_held(path)]
        assert not held, f"locks are held: {held}"
        assert not list((store / "towline/pins").iterdir()), "pins are left"
        check_store(store)
        arena.registry.heal()
        for name, model in zip(names, models, strict=True):
            daemon.pull(name, model=model)
            check_model(store, name, model)
    return Outcome(
        times,
        f"{before[0]} descriptors before and {after[0]} after, {before[1]} threads and {after[1]}, no lock held, "
        f"{rule.hits} requests were under way or cut off; the next pulls came whole",
    )


def _all_come_and_go(daemon: Daemon, names: list[str], moments: list[float]) -> None:
    for thread in [_come_and_go(daemon, names, moments[first::_CALLERS]) for first in range(_CALLERS)]:
        thread.join()


def _come_and_go(daemon: Daemon, names: list[str], moments: list[float]) -> threading.Thread:
    def run() -> None:
        for number, moment in enumerate(moments):
            connection = daemon.pulling(names[number % len(names)])
            with connection as stream:
                stop = time.monotonic() + moment
                for _ in stream:
                    if time.monotonic() >= stop:
                        break

    thread = threading.Thread(target=run)
    thread.start()
    return thread


def _settled(daemon: Daemon, arena: Arena) -> tuple[int, int]:
    """Descriptors and threads once it has come to rest. Connections kept for the next request are left out: of those
    it may have as many as it uses at once.
    """
    arena.registry.wait_idle()
    time.sleep(0.7)
    usage, kept = daemon.usage(), _links(daemon.pid, arena.registry.port)
    assert kept <= _CONNECTIONS + 1, f"{kept} connections to the registry are kept"
    return usage.descriptors - kept, usage.threads


def _links(pid: int, port: int) -> int:
    """How many connections to this port a process has."""
    held = {os.readlink(path) for path in Path(f"/proc/{pid}/fd").iterdir() if path.is_symlink()}
    rows = [line.split() for line in Path(f"/proc/{pid}/net/tcp").read_text().splitlines()[1:]]
    return sum(row[2].endswith(f":{port:04X}") and f"socket:[{row[9]}]" in held for row in rows)


def _is_held(path: Path) -> bool:
    try:
        with path.open("rb") as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except FileNotFoundError:
        return False
    return False
