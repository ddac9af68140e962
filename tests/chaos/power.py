"""The power goes at a random moment of a pull, and whatever was not synced is lost, torn, or there in part."""

from __future__ import annotations

import shutil
from pathlib import Path

from tests.chaos.arena import Arena, check_model, check_store
from tests.chaos.cut import build
from tests.chaos.log import Log
from tests.chaos.outcome import Outcome
from tests.chaos.recorder import Recorder
from tests.support.exchanges import blob
from tests.support.faults import Slow
from tests.support.models import Model, generate, weights
from tests.support.pulling import Pulling

MIB = 1 << 20
_CUTS_EACH = 10
"""Moments of one recorded pull at which the power goes."""

_SETTINGS = {"stall_timeout": 10.0, "connections_per_blob": 4}


def cut(arena: Arena, times: int) -> Outcome:
    """Records pulls of a model and of its next version; cuts, looks, and pulls again on what is left."""
    arena.registry.fail(blob(), Slow(60 * MIB), times=None)
    cuts, kept, resumed = 0, 0, 0
    for number in range(-(-times // _CUTS_EACH)):
        size = arena.random.randint(3 * MIB, 6 * MIB)
        old = generate(size, layers=arena.random.randint(1, 3), seed=100 + number % 4)
        new = Model.of([*old.layers, weights(size // 3, 7000 + number % 4)])
        repository = f"library/power-{number}"
        log, through = record(arena, repository, old, new)
        for _ in range(min(_CUTS_EACH, times - cuts)):
            moment = arena.random.randint(0, len(log.operations))
            ordered = arena.random.random() < 0.5
            store = arena.new_store()
            where = f"cut after operation {moment} of {len(log.operations)}, {'ordered' if ordered else 'separate'}"
            build(log, moment, store, arena.random, ordered=ordered)
            kept += _check(store, where, old, new, [moment >= end for end in through])
            fetched = _go_on(arena, store, f"{arena.registry.host}/{repository}:latest", new)
            resumed += fetched < new.size
            shutil.rmtree(store)
            cuts += 1
    return Outcome(
        cuts,
        f"never a wrong blob, nor a manifest without its blobs; after a success ({kept} times) the model was there; "
        f"every next pull came whole, {resumed} of them from what was left",
    )


def record(arena: Arena, repository: str, old: Model, new: Model) -> tuple[Log, list[int]]:
    """What two pulls in a row did to an empty disk, and where in it each had said success."""
    disk = arena.new_store()
    disk.mkdir()
    recorder = Recorder(str(disk.resolve()))
    through = []
    with recorder:
        store = disk.resolve()
        for model in (old, new):
            name = arena.registry.add(model, repository)
            with Pulling(store, **_SETTINGS) as pulling:
                pulling.puller.store.prepare()
                pulling.start(name).finish(model)
                through.append(len(recorder.log.operations))
    check_model(disk, name, new)
    shutil.rmtree(disk)
    return recorder.log, through


def _check(store: Path, where: str, old: Model, new: Model, through: list[bool]) -> int:
    try:
        models = check_store(store)
        if any(through):
            (model,) = models
            raw = (store / "manifests" / model).read_bytes()
            assert raw == new.manifest or (raw == old.manifest and not through[1]), "an older manifest is back"
    except (AssertionError, ValueError) as error:
        raise AssertionError(f"{where}: {error}") from error
    return any(through)


def _go_on(arena: Arena, store: Path, name: str, model: Model) -> int:
    """Pulls on this disk; the bytes that it took."""
    arena.registry.wait_idle()
    arena.registry.reset()
    with Pulling(store, **_SETTINGS) as pulling:
        pulling.puller.store.prepare()
        pulling.pull(name, model)
    check_store(store)
    return arena.registry.bytes_sent()
