"""A foreign process cleans the store at every moment of a pull."""

from __future__ import annotations

import shutil

from tests.chaos.arena import Arena, check_model, check_store
from tests.chaos.foreign import Cleaner
from tests.chaos.outcome import Outcome
from tests.support.exchanges import blob
from tests.support.faults import Slow
from tests.support.models import generate

MIB = 1 << 20


def clean(arena: Arena, times: int) -> Outcome:
    """Each pull begins with a layer in `blobs/` that no manifest names: the cleaner would have it, the pull too."""
    model = generate(8 * MIB, layers=4, seed=21)
    name = arena.registry.add(model, "library/cleaned")
    rounds = files = folders = most = 0
    for number in range(times):
        store = arena.new_store()
        with arena.daemon(store) as daemon:
            daemon.pull(name, model=model)
            shutil.rmtree(store / "manifests")
            (store / "manifests").mkdir()
            for layer in model.layers[1:]:
                (store / "blobs" / layer.digest.file_name).unlink()
            arena.registry.reset()
            arena.registry.heal()
            if number % 2:
                arena.registry.fail(blob(), Slow(arena.random.uniform(5, 40) * MIB), times=None)
            with Cleaner(store) as cleaner:
                daemon.pull(name, model=model)
                check_model(store, name, model)
            rounds, files, folders = rounds + cleaner.rounds, files + cleaner.files, folders + cleaner.folders
            check_store(store)
            check_model(store, name, model)
            most = max(most, arena.registry.bytes_sent() - model.size)
        shutil.rmtree(store)
    assert files, "the cleaner never met a file"
    told = f"{rounds} rounds of cleaning deleted {files} files and {folders} folders; every model came whole"
    return Outcome(times, told, max(0, most))
