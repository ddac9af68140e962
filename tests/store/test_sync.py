"""Disks that say late, or after a while, or wrongly, that they keep the bytes."""

from __future__ import annotations

import errno
import os
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.models import Model, generate
from tests.support.mounts import thin_disk
from tests.support.pulling import Pulling, eventually
from tests.support.registry import FaultRegistry
from towline.errors import StoreError
from towline.transfer.syncing import MOST_THREADS

MIB = 1 << 20


@pytest.mark.parametrize("code", [errno.EIO, errno.ENOSPC, errno.EDQUOT], ids=errno.errorcode.get)
def test_after_a_sync_that_failed_what_came_is_kept_and_the_next_pull_asks_again(
    registry: FaultRegistry, pulling: Pulling, monkeypatch: pytest.MonkeyPatch, code: int
) -> None:
    model = generate(3 << 20)
    name = registry.add(model, "library/model")
    failing = str(pulling.growing(model.weights))
    real = os.fsync

    def fsync(file: int) -> None:
        if os.readlink(f"/proc/self/fd/{file}") == failing:
            raise OSError(code, os.strerror(code))
        real(file)

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", fsync)
        assert isinstance(pulling.fail(name, model), StoreError)
    assert not Path(pulling.layout.blob(model.weights.digest)).exists()
    registry.reset()
    assert pulling.pull(name, model).first(model.weights) == model.weights.size - 1
    assert registry.bytes_sent(model.weights) == 0


def test_what_a_disk_lost_when_it_had_to_keep_it_is_fetched_again_and_nothing_else(
    registry: FaultRegistry, tmp_path: Path
) -> None:
    """The system goes on showing such bytes: only a look at the disk itself tells."""
    model = generate(30 * MIB, seed=77)
    name = registry.add(model, "library/model")
    with thin_disk(tmp_path / "disk", promised=64 * MIB, size=16 * MIB) as disk:
        with Pulling(disk.mounted / "models", connections_per_blob=1) as pulling:
            assert isinstance(pulling.fail(name, model), StoreError)
            disk.grow(128 * MIB)
            registry.reset()
            pulling.pull(name, model)
        assert 10 * MIB < registry.bytes_sent(model.weights) < 20 * MIB
        _forget(pulling.layout.blob(model.weights.digest))
        pulling.check_stored(name, model)


def _forget(path: str) -> None:
    """Has the system read the file from its disk the next time."""
    file = os.open(path, os.O_RDONLY)
    os.posix_fadvise(file, 0, 0, os.POSIX_FADV_DONTNEED)
    os.close(file)


class SlowDisk:
    """Makes what is written to these files last only when the test says so."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.waiting: set[str] = set()
        self.slow: set[str] = set()
        self.gate = threading.Event()
        self._sync = os.fsync
        monkeypatch.setattr(os, "fsync", self)

    def __call__(self, file: int) -> None:
        path = os.readlink(f"/proc/self/fd/{file}")
        if path in self.slow:
            self.waiting.add(path)
            assert self.gate.wait(60)
        self._sync(file)


@pytest.fixture
def disk(monkeypatch: pytest.MonkeyPatch) -> Iterator[SlowDisk]:
    disk = SlowDisk(monkeypatch)
    yield disk
    disk.gate.set()


@pytest.mark.parametrize("size", [5 * MIB, 9000], ids=["hashed behind", "hashed at once"])
def test_blobs_that_wait_for_the_disk_hold_up_neither_bytes_nor_hashes_of_others(
    registry: FaultRegistry, store_path: Path, disk: SlowDisk, size: int
) -> None:
    slow = [generate(size, seed=seed) for seed in range(MOST_THREADS - 1)]
    names = [registry.add(model, f"library/slow-{seed}") for seed, model in enumerate(slow)]
    other = generate(20 * MIB, seed=99)
    with Pulling(store_path, connections=4) as pulling:
        disk.slow = {str(pulling.growing(model.weights)) for model in slow}
        followings = [pulling.start(name) for name in names]
        eventually(lambda: disk.waiting == disk.slow, "the disk to be waited for")
        pulling.pull(registry.add(other, "library/other"), other)
        assert not disk.gate.is_set()
        disk.gate.set()
        for following, model in zip(followings, slow, strict=True):
            following.finish(model)


def test_a_pull_that_is_given_up_while_the_disk_is_waited_for_has_its_blob_for_the_next(
    registry: FaultRegistry, pulling: Pulling, disk: SlowDisk
) -> None:
    model: Model = generate(5 * MIB)
    name = registry.add(model, "library/model")
    disk.slow = {str(pulling.growing(model.weights))}
    following = pulling.start(name)
    eventually(lambda: disk.waiting == disk.slow, "the disk to be waited for")
    following.close()
    disk.gate.set()
    registry.reset()
    pulling.pull(name, model)
    assert registry.bytes_sent(model.weights) == 0
