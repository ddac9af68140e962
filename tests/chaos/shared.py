"""Two daemons over one store, ten pulls of one model in each, and a model that goes in the middle."""

from __future__ import annotations

import shutil
import threading
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

from tests.chaos import foreign
from tests.chaos.arena import Arena, check_model, check_store
from tests.chaos.outcome import Outcome
from tests.support.daemon import Daemon
from tests.support.exchanges import blob
from tests.support.faults import Slow
from tests.support.models import Blob, Model, generate
from tests.support.pulling import eventually

MIB = 1 << 20
_PULLS = 10


def share(arena: Arena, times: int) -> Outcome:
    """The model that goes shares a layer with the one that is pulled."""
    model = generate(12 * MIB, layers=3, seed=31)
    other = Model.of([model.layers[0], *generate(MIB, seed=32).layers])
    name = arena.registry.add(model, "library/shared")
    gone = arena.registry.add(other, "library/gone")
    arena.registry.fail(blob(), Slow(12 * MIB), times=None)
    most = 0
    for _ in range(times):
        store = arena.new_store()
        with arena.daemon(store, connections_per_blob="1") as one, arena.daemon(store, connections_per_blob="1") as two:
            one.pull(gone, model=other)
            arena.registry.reset()
            delete = partial(_delete, store, gone, model.layers[0], arena.random.uniform(0, 0.4))
            _pull_many((one, two), name, model, delete)
            check_store(store)
            check_model(store, name, model)
            needed = sum(each.size for each in set(model.blobs) - set(other.blobs))
            most = max(most, arena.registry.bytes_sent() - needed)
        shutil.rmtree(store)
    assert most <= 0, f"{most} bytes were fetched more than once"
    told = f"{times * 2 * _PULLS} pulls succeeded; each byte was fetched once, and what the other model shared never"
    return Outcome(times, told, most)


def _delete(store: Path, name: str, shared: Blob, after: float) -> None:
    """Once both daemons know that they need the layer; before that it would be theirs to fetch."""
    pins = store / "towline/pins"
    eventually(lambda: len(list(pins.glob(f"*/{shared.digest.file_name}"))) == 2, "both to hold the layer fast")
    time.sleep(after)
    foreign.remove(store, name)


def _pull_many(daemons: tuple[Daemon, ...], name: str, model: Model, in_the_middle: Callable[[], None]) -> None:
    failed: list[BaseException] = []

    def pull(daemon: Daemon) -> None:
        try:
            daemon.pull(name, model=model)
        except BaseException as error:
            failed.append(error)

    threads = [threading.Thread(target=pull, args=(daemon,)) for daemon in daemons for _ in range(_PULLS)]
    for thread in threads:
        thread.start()
    in_the_middle()
    for thread in threads:
        thread.join()
    assert not failed, failed[0]
