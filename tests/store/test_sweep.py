"""What is cleared away at the start of a process, and what is not."""

from __future__ import annotations

import os
import threading
import time
from pathlib import Path

import pytest

from tests.support.exchanges import blob
from tests.support.faults import Stall
from tests.support.models import Model, generate, tiny
from tests.support.pulling import Pulling, eventually
from tests.support.registry import FaultRegistry
from towline.files.confined import AnyPath
from towline.model.digest import Digest
from towline.store.layout import Layout
from towline.store.locks import FileLock
from towline.store.staging import staging_of
from towline.store.store import Store

MIB = 1 << 20
DAY = 86400.0


@pytest.fixture(scope="module")
def model() -> Model:
    return generate(6 * MIB, seed=21)


@pytest.fixture
def layout(store_path: Path) -> Layout:
    Store(store_path).prepare()
    return Layout(store_path)


def staged(layout: Layout, name: str, *, age: float) -> Path:
    """A partial download that was last written to `age` seconds ago."""
    folder = layout.staging / name
    folder.mkdir()
    for file in ("data", "journal"):
        (folder / file).write_bytes(b"x")
        os.utime(folder / file, (time.time() - age,) * 2)
    os.utime(folder, (time.time() - age,) * 2)
    return folder


def test_pins_of_processes_that_are_gone_are_removed(layout: Layout) -> None:
    (layout.pins / "gone").mkdir()
    (layout.pins / "gone" / "sha256-x").write_bytes(b"x")
    (layout.locks / "pull-gone").touch()
    Store(layout.root).prepare()
    assert not list(layout.pins.iterdir())
    assert not list(layout.locks.iterdir())


def test_pins_of_a_pull_that_runs_stay(layout: Layout) -> None:
    (layout.pins / "alive").mkdir()
    lock = FileLock(layout.locks / "pull-alive")
    assert lock.acquire()
    Store(layout.root).prepare()
    lock.release()
    assert [path.name for path in layout.pins.iterdir()] == ["alive"]


def test_a_download_that_nobody_came_back_to_is_removed_after_its_time(layout: Layout) -> None:
    old, young = staged(layout, "old", age=15 * DAY), staged(layout, "young", age=13 * DAY)
    Store(layout.root).prepare()
    assert not old.exists()
    assert young.exists()


def test_the_time_is_a_setting(layout: Layout) -> None:
    old = staged(layout, "old", age=20.0)
    Store(layout.root, staging_ttl=3600.0).prepare()
    assert old.exists()
    Store(layout.root, staging_ttl=10.0).prepare()
    assert not old.exists()


@pytest.mark.parametrize("clock", [0.0, 946684800.0, time.time() + 400 * DAY], ids=["1970", "2000", "a year ahead"])
def test_one_that_was_written_under_a_wrong_clock_begins_to_age_now(layout: Layout, clock: float) -> None:
    """A small machine without a battery begins in 1970, and learns the time from the network later."""
    folder = staged(layout, "new", age=0.0)
    for path in (folder / "data", folder / "journal", folder):
        os.utime(path, (clock, clock))
    Store(layout.root).prepare()
    assert folder.exists()
    assert abs((folder / "data").stat().st_mtime - time.time()) < DAY
    for path in (folder / "data", folder / "journal", folder):
        os.utime(path, (time.time() - 15 * DAY,) * 2)
    Store(layout.root).prepare()
    assert not folder.exists()


def test_a_clock_that_was_not_set_sweeps_nothing(layout: Layout, monkeypatch: pytest.MonkeyPatch) -> None:
    old, future = staged(layout, "old", age=15 * DAY), staged(layout, "future", age=-15 * DAY)
    monkeypatch.setattr(time, "time", lambda: 300.0)
    Store(layout.root).prepare()
    assert old.exists()
    assert future.exists()


def test_one_that_was_written_to_lately_stays_however_old_its_folder_is(layout: Layout) -> None:
    folder = staged(layout, "old", age=15 * DAY)
    os.utime(folder / "data", None)
    Store(layout.root).prepare()
    assert folder.exists()


def test_one_that_somebody_works_in_stays(layout: Layout) -> None:
    folder = staged(layout, "busy", age=15 * DAY)
    lock = FileLock(layout.locks / "busy")
    assert lock.acquire()
    Store(layout.root).prepare()
    lock.release()
    assert folder.exists()


def test_one_whose_blob_is_in_the_store_is_removed(layout: Layout) -> None:
    folder = staged(layout, f"{'0' * 64}-{2 * MIB}", age=0)
    (layout.blobs / f"sha256-{'0' * 64}").write_bytes(bytes(2 * MIB))
    Store(layout.root).prepare()
    assert not folder.exists()


def test_what_is_left_of_small_blobs_goes_with_age_or_when_the_blob_is_in_the_store(layout: Layout) -> None:
    old, young, stored = (staging_of(layout, Digest(letter * 64), 1) for letter in "abc")
    for staging in (old, young, stored):
        for path in map(Path, (staging.data_path, staging.whole_path)):
            path.write_bytes(b"x")
            age = 15 * DAY if staging is old else 1 * DAY
            os.utime(path, (time.time() - age,) * 2)
    Path(layout.blob(Digest("c" * 64))).write_bytes(b"x")
    Store(layout.root).prepare()
    left = {path.name for path in layout.staging.iterdir()}
    assert left == {f"{'b' * 64}-1.data", f"{'b' * 64}-1.whole", f"{'c' * 64}-1.data"}
    assert not list(layout.locks.iterdir())


def test_blobs_and_manifests_are_not_its_business(layout: Layout) -> None:
    kept = [layout.blobs / f"sha256-{'0' * 64}", layout.manifests / "h/n/a/latest", layout.blobs / "foreign"]
    for path in kept:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"x")
        os.utime(path, (0, 0))
    Store(layout.root, staging_ttl=0).prepare()
    assert all(path.exists() for path in kept)


def test_a_sweep_in_the_middle_of_a_pull_takes_nothing_from_it(
    registry: FaultRegistry, pulling: Pulling, model: Model
) -> None:
    name = registry.add(model, "library/model")
    stall = Stall(after=2 * MIB)
    registry.fail(blob(model.weights), stall, times=1)
    following = pulling.start(name).until_completed(model.weights, 2 * MIB)
    Store(pulling.models, staging_ttl=0).prepare()
    stall.release()
    following.finish(model)
    pulling.check_stored(name, model)
    assert registry.bytes_sent() == model.size


def test_a_sweep_that_looks_at_a_lock_keeps_no_pull_from_starting(
    registry: FaultRegistry, pulling: Pulling, model: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, refused = FileLock.acquire, set[AnyPath]()

    def taken_for_a_moment(lock: FileLock) -> bool:
        if lock._path in refused:
            return real(lock)
        refused.add(lock._path)
        return False

    monkeypatch.setattr(FileLock, "acquire", taken_for_a_moment)
    pulling.pull(registry.add(model, "library/model"), model)


def test_many_processes_that_start_at_once_do_not_disturb_pulls(
    registry: FaultRegistry, pulling: Pulling, store_path: Path
) -> None:
    models = [tiny(seed) for seed in range(24)]
    names = [registry.add(each, f"library/tiny-{n}") for n, each in enumerate(models)]
    over = threading.Event()

    def start_again_and_again() -> None:
        while not over.is_set():
            Store(store_path).prepare()

    sweeper = threading.Thread(target=start_again_and_again)
    sweeper.start()
    try:
        followings = [pulling.start(name) for name in names]
        for following, each in zip(followings, models, strict=True):
            following.finish(each)
    finally:
        over.set()
        sweeper.join()


def test_a_pull_that_was_given_up_is_kept_by_a_sweep(registry: FaultRegistry, pulling: Pulling, model: Model) -> None:
    name = registry.add(model, "library/model")
    registry.fail(blob(model.weights), Stall(after=2 * MIB), times=1)
    pulling.start(name).until_completed(model.weights, 2 * MIB).close()
    eventually(lambda: not list(pulling.layout.locks.iterdir()), "the locks to be given back")
    Store(pulling.models).prepare()
    assert pulling.pull(name, model).first(model.weights) == 2 * MIB
