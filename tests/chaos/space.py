"""A disk that fills, turns read-only or goes in the middle of a pull; the daemon stays."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

from tests.chaos.arena import Arena, check_model, check_store
from tests.chaos.mounts import Ext4
from tests.chaos.outcome import Outcome
from tests.support.daemon import Daemon
from tests.support.exchanges import blob
from tests.support.faults import Slow
from tests.support.models import Model, generate
from tests.support.mounts import small_disk

MIB = 1 << 20
_MODEL_SIZE = 12 * MIB


def fill(arena: Arena, times: int) -> Outcome:
    """A tmpfs is filled by someone else while the bytes come, and emptied after."""
    with small_disk(arena.folder / "small", 20 * MIB) as folder:
        filler = folder / "filler"

        def strike() -> None:
            with filler.open("wb", buffering=0) as file:
                try:
                    while True:
                        file.write(bytes(MIB))
                except OSError:
                    pass

        return _strike(arena, times, folder / "models", strike, filler.unlink, "the disk is full")


def refuse(arena: Arena, times: int) -> Outcome:
    """A tmpfs that is too small for the model from the beginning."""
    model = generate(_MODEL_SIZE, layers=2, seed=51)
    name = arena.registry.add(model, "library/large")
    with small_disk(arena.folder / "small", 8 * MIB) as folder, arena.daemon(folder / "models") as daemon:
        for _ in range(times):
            error = daemon.pull(name, success=False).error or ""
            assert "12.6 MB are needed" in error, error
            assert "MB are free" in error, error
    assert not arena.registry.blob_requests(), "bytes were asked for that have no place"
    return Outcome(times, f"refused before the first byte: “{error.partition(';')[0]}”", 0)


def turn_read_only(arena: Arena, times: int) -> Outcome:
    """An ext4 meets an error of its own and turns read-only while files are open; then it is checked and comes back."""
    disk = Ext4(arena.folder / "disk", 64 * MIB)
    model, name = _slow_model(arena)
    most = 0
    for _ in range(times):
        with disk.mounted() as folder, arena.daemon(folder / "models") as daemon:
            error = _pull_and_strike(arena, daemon, name, model, disk.fail)
            assert "read-only" in error, error
            again = daemon.pull(name, success=False).error or ""
            assert "read-only" in again, again
            assert daemon.request("GET", "/api/version").status == 200
        with disk.mounted() as folder, arena.daemon(folder / "models") as daemon:
            most = max(most, _go_on(arena, daemon, folder / "models", name, model))
            daemon.terminate()
            shutil.rmtree(folder / "models")
    return Outcome(
        times, f"“{error.partition(';')[0]}”; the daemon answered, and went on once it was mounted anew", most
    )


def remove(arena: Arena, times: int) -> Outcome:
    """The folder of the store is removed while bytes come."""
    store = arena.new_store()
    told = "a folder of the store was removed"
    return _strike(arena, times, store, lambda: shutil.rmtree(store, ignore_errors=True), lambda: None, told)


def _strike(
    arena: Arena, times: int, store: Path, strike: Callable[[], None], heal: Callable[[], None], told: str
) -> Outcome:
    model, name = _slow_model(arena)
    most = 0
    for _ in range(times):
        with arena.daemon(store) as daemon:
            error = _pull_and_strike(arena, daemon, name, model, strike)
            assert told in error, error
            assert daemon.request("GET", "/api/version").status == 200
            heal()
            most = max(most, _go_on(arena, daemon, store, name, model))
        shutil.rmtree(store)
    return Outcome(times, f"“{error.partition(';')[0]}”; the daemon answered, and went on once it was cured", most)


def _slow_model(arena: Arena) -> tuple[Model, str]:
    model = generate(_MODEL_SIZE, layers=2, seed=51)
    arena.registry.fail(blob(), Slow(4 * MIB), times=None)
    return model, arena.registry.add(model, "library/slow")


def _pull_and_strike(arena: Arena, daemon: Daemon, name: str, model: Model, strike: Callable[[], None]) -> str:
    """The error that the pull ends with."""
    arena.registry.reset()
    with daemon.pulling(name) as stream:
        stream.until_completed(arena.random.randint(MIB, 2 * MIB))
        strike()
        return stream.finish(success=False, model=model).error or ""


def _go_on(arena: Arena, daemon: Daemon, store: Path, name: str, model: Model) -> int:
    """The next pull; the bytes that went out twice."""
    daemon.pull(name, model=model)
    check_store(store)
    check_model(store, name, model)
    return max(0, arena.registry.bytes_sent() - model.size)
