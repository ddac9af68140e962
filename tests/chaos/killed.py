"""`kill -9` of a daemon at random moments of a pull."""

from __future__ import annotations

import contextlib
import http.client
import shutil
import threading
import time

from tests.chaos.arena import Arena, check_model, check_store
from tests.chaos.outcome import Outcome
from tests.chaos.refetch import Refetch
from tests.support.daemon import Daemon
from tests.support.exchanges import blob
from tests.support.faults import Slow
from tests.support.models import generate

MIB = 1 << 20
ALLOWED = 16 * MIB
"""What one kill may cost, by the contract."""

_SIZE = 48 * MIB
_LAYERS = 4
_RATE = 5 * MIB
_LONGEST = 0.7
"""Seconds within which a kill comes: a pull takes about as long."""


def kill(arena: Arena, times: int) -> Outcome:
    """One pull after another, each killed again and again until it is done; the registry sends slowly."""
    model = generate(_SIZE, layers=_LAYERS, seed=11)
    name = arena.registry.add(model, "library/killed")
    arena.registry.fail(blob(), Slow(_RATE), times=None)
    refetch = Refetch(arena.registry)
    store, kills, finished = arena.new_store(), 0, 0
    while kills < times:
        with arena.daemon(store) as daemon:
            done = _pull_and_kill(daemon, name, arena.random.uniform(0, _LONGEST))
        refetch.ended()
        check_store(store)
        kills += not done
        if done:
            finished += 1
            check_model(store, name, model)
            shutil.rmtree(store)
            refetch.forget()
    with arena.daemon(store) as daemon:
        daemon.pull(name, model=model)
    refetch.ended()
    check_model(store, name, model)
    assert refetch.most <= ALLOWED, f"a kill had {refetch.most} bytes fetched again, of {ALLOWED}"
    mean = sum(refetch.charged) / kills / MIB
    return Outcome(
        kills,
        f"{finished + 1} models of {_SIZE // MIB} MiB in {_LAYERS} layers came whole through {kills} kills; "
        f"{mean:.1f} MiB fetched again on average",
        refetch.most,
    )


def _pull_and_kill(daemon: Daemon, name: str, after: float) -> bool:
    """Whether the pull was through before the kill."""
    ended = threading.Event()
    successes: list[bool] = []

    def pull() -> None:
        with contextlib.suppress(OSError, http.client.HTTPException, ValueError), daemon.pulling(name) as stream:
            successes.extend(line == {"status": "success"} for line in stream)
        ended.set()

    thread = threading.Thread(target=pull)
    started = time.monotonic()
    thread.start()
    ended.wait(max(0.0, after - (time.monotonic() - started)))
    done = bool(successes) and successes[-1]
    daemon.kill()
    thread.join()
    return done
