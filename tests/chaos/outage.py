"""A real ext4 that is cut off from its disk in the middle of a pull, as when the power goes."""

from __future__ import annotations

import shutil
import threading

from tests.chaos.arena import Arena, check_model, check_store
from tests.chaos.mounts import Ext4
from tests.chaos.outcome import Outcome
from tests.support.exchanges import blob
from tests.support.faults import Slow
from tests.support.models import generate
from tests.support.pulling import Pulling

MIB = 1 << 20


def cut(arena: Arena, times: int) -> Outcome:
    """ext4's own shutdown, without a flush; then the journal is replayed and the pull goes on."""
    disk = Ext4(arena.folder / "disk", 64 * MIB)
    arena.registry.fail(blob(), Slow(20 * MIB), times=None)
    told = 0
    for number in range(times):
        model = generate(arena.random.randint(4 * MIB, 6 * MIB), layers=2, seed=400 + number % 3)
        repository = f"library/outage-{number}"
        name = arena.registry.add(model, repository)
        with disk.mounted() as folder:
            store = folder / f"models-{number}"
            with Pulling(store) as pulling:
                cut_off = threading.Timer(arena.random.uniform(0, 0.25), disk.cut)
                cut_off.start()
                succeeded = pulling.start(name).until_over() is None
                durable = succeeded and cut_off.is_alive()
                cut_off.join()
        with disk.mounted():
            models = check_store(store)
            if durable:
                told += 1
                assert f"{arena.registry.host}/{repository}/latest" in models, "a success was lost"
            with Pulling(store) as pulling:
                pulling.pull(name, model)
            check_model(store, name, model)
            shutil.rmtree(store)
    return Outcome(
        times,
        f"the journal was replayed, no blob was wrong, what had said success was there ({told} times), "
        "every next pull came whole",
    )
