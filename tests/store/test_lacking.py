"""Stores on file systems that lack something: a real one each, which refuses what it is told to refuse."""

from __future__ import annotations

import contextlib
import errno
import logging
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.components import lacking, require
from tests.support.exchanges import blob
from tests.support.faults import Stall
from tests.support.lacking import LackingDisk, lacking_disk
from tests.support.models import Model, generate, tiny
from tests.support.pulling import Pulling, eventually
from tests.support.registry import FaultRegistry
from towline.errors import NoSpace, StoreError
from towline.files import sync
from towline.model.name import ModelName
from towline.store import abilities
from towline.store.store import Store

MIB = 1 << 20
MODEL = generate(3 * MIB, layers=2, seed=81)
LARGE = generate(4 * MIB, seed=86)


@pytest.fixture(autouse=True)
def nothing_was_said_before() -> None:
    abilities._warn.cache_clear()
    sync._warn.cache_clear()


@pytest.mark.parametrize(
    ("lack", "code", "said"),
    [
        ("flock", errno.ENOSYS, "no locks"),
        ("flock", errno.ENOLCK, "no locks"),
        ("flock", errno.EOPNOTSUPP, "no locks"),
        ("link", errno.EPERM, "no hard links"),
        ("link", errno.ENOSYS, "no hard links"),
        ("link", errno.EOPNOTSUPP, "no hard links"),
        ("utimens", errno.ENOSYS, "sets no times"),
        ("utimens", errno.EPERM, "sets no times"),
        ("chmod", errno.EPERM, "sets no modes"),
        ("chmod", errno.ENOSYS, "sets no modes"),
        ("space", 1, "does not tell how much is free"),
        ("statfs", errno.ENOSYS, "does not tell how much is free"),
        ("fsyncdir", errno.EINVAL, "names of files"),
        ("fsyncdir", errno.EBADF, "names of files"),
        ("fsyncdir", errno.EIO, "names of files"),
        ("fsync", errno.EINVAL, "make files last"),
        ("fsync", errno.EOPNOTSUPP, "make files last"),
    ],
    ids=lambda each: errno.errorcode.get(each, "") if isinstance(each, int) else None,
)
def test_a_pull_an_update_and_the_list_work_and_what_is_not_guaranteed_is_said_once(
    registry: FaultRegistry, tmp_path: Path, caplog: pytest.LogCaptureFixture, lack: str, code: int, said: str
) -> None:
    name = registry.add(MODEL, "library/model")
    with lacking_disk(tmp_path / "disk", **{lack: code}) as disk:
        with Pulling(disk.path / "models") as pulling:
            pulling.pull(name, MODEL)
            update = generate(3 * MIB, layers=2, seed=82)
            registry.add(update, "library/model")
            pulling.pull(name, update)
            assert [each.name.full for each in pulling.puller.store.list()] == [name]
            assert list((disk.path / "models/towline/locks").iterdir()) == []
        with Pulling(disk.path / "models") as pulling:
            pulling.pull(name, update)
    warnings = [each.getMessage() for each in caplog.records if each.levelno >= logging.WARNING]
    assert len([each for each in warnings if said in each]) == 1, warnings


class TestNamesWithoutColons:
    """The host of a registry is written with its port; a file system of Windows or of a memory card takes no colon."""

    @pytest.fixture
    def store(self, tmp_path: Path) -> Iterator[Path]:
        with lacking_disk(tmp_path / "disk", colon=errno.EINVAL) as disk:
            yield disk.path / "models"

    def test_the_model_is_found_and_listed_under_its_name(self, registry: FaultRegistry, store: Path) -> None:
        name = registry.add(MODEL, "library/model")
        with Pulling(store) as pulling:
            pulling.start(name).finish(MODEL)
            assert [each.name.full for each in pulling.puller.store.list()] == [name]
            found = pulling.puller.store.find(ModelName.parse(name))
            assert found is not None
            assert found.manifest.raw == MODEL.manifest
        assert os.listdir(store / "manifests") == [registry.host.replace(":", "__")]

    def test_a_process_that_only_looks_finds_it_too(self, registry: FaultRegistry, store: Path) -> None:
        name = registry.add(MODEL, "library/model")
        with Pulling(store) as pulling:
            pulling.start(name).finish(MODEL)
        looking = Store(store)
        assert [each.name.full for each in looking.list()] == [name]
        assert looking.find(ModelName.parse(name.upper().replace("LATEST", "latest"))) is not None

    def test_a_second_pull_and_an_update_go_where_the_first_went(self, registry: FaultRegistry, store: Path) -> None:
        name = registry.add(MODEL, "library/model")
        with Pulling(store) as pulling:
            pulling.start(name).finish(MODEL)
            registry.add(generate(3 * MIB, layers=2, seed=83), "library/model")
            registry.add(tiny(), "other/tiny")
            pulling.start(name).finish()
            pulling.start(f"{registry.host}/other/tiny").finish()
            assert len(pulling.puller.store.list()) == 2
        assert len(os.listdir(store / "manifests")) == 1


class TestALastStepThatFails:
    """Everything came, and the disk then refuses: what came stays, and the next pull begins at that step."""

    @pytest.fixture
    def disk(self, tmp_path: Path) -> Iterator[LackingDisk]:
        with lacking_disk(tmp_path / "disk") as disk:
            yield disk

    @pytest.mark.parametrize("code", [errno.EIO, errno.ENOSPC, errno.EDQUOT], ids=errno.errorcode.get)
    @pytest.mark.parametrize("step", ["fsync", "rename", "link"])
    def test_nothing_is_fetched_again(self, registry: FaultRegistry, disk: LackingDisk, step: str, code: int) -> None:
        name = registry.add(LARGE, "library/model")
        with Pulling(disk.path / "models", connections_per_blob=1) as pulling:
            pulling.puller.store.prepare()
            stall = Stall(after=2 * MIB)
            registry.fail(blob(LARGE.weights), stall, times=1)
            following = pulling.start(name).until_completed(LARGE.weights, 2 * MIB)
            disk.refuse(**{step: code})
            stall.release()
            assert isinstance(following.fail(), StoreError)
            eventually(lambda: not list(pulling.layout.locks.iterdir()), "the locks to be given back")
            disk.refuse()
            before = registry.bytes_sent(LARGE.weights)
            pulling.pull(name, LARGE)
            assert before == LARGE.weights.size
            assert registry.bytes_sent(LARGE.weights) == before

    def test_locks_that_are_always_gone_end_the_pull(self, registry: FaultRegistry, disk: LackingDisk) -> None:
        """As on a share whose server has restarted: each file that is opened anew is stale as well."""
        name = registry.add(tiny(), "library/tiny")
        with Pulling(disk.path / "models") as pulling:
            pulling.puller.store.prepare()
            disk.refuse(flock=errno.ESTALE)
            assert isinstance(pulling.fail(name), StoreError)
            disk.refuse()
            pulling.pull(name, tiny())

    @pytest.mark.parametrize("model", [tiny(), LARGE], ids=["small", "large"])
    def test_changed_bytes_are_found_also_where_the_pull_ended_before_the_model_stood(
        self, registry: FaultRegistry, disk: LackingDisk, model: Model
    ) -> None:
        name = registry.add(model, "library/model")
        with Pulling(disk.path / "models") as pulling:
            pulling.puller.store.prepare()
            disk.refuse(fsyncdir=errno.ENOSPC)
            assert isinstance(pulling.fail(name), NoSpace)
            disk.refuse()
            path = Path(pulling.layout.blob(model.weights.digest))
            assert path.exists()
            pulling.pull(name, model)
            path.write_bytes(bytes(model.weights.size))
            pulling.pull(name, model)

    def test_a_full_disk_is_still_a_full_disk(self, registry: FaultRegistry, disk: LackingDisk) -> None:
        name = registry.add(LARGE, "library/model")
        with Pulling(disk.path / "models") as pulling:
            pulling.puller.store.prepare()
            disk.refuse(write=errno.ENOSPC)
            assert isinstance(pulling.fail(name), NoSpace)
            disk.refuse()
            pulling.pull(name, LARGE)


@pytest.mark.parametrize(
    ("lack", "code", "said"),
    [
        ("create", errno.EROFS, "read-only"),
        ("create", errno.EACCES, "owner and the permissions"),
        ("rename", errno.ENOSYS, "cannot be used"),
        ("truncate", errno.EFBIG, "that large"),
    ],
)
def test_what_cannot_work_is_told_before_the_first_byte(
    registry: FaultRegistry, tmp_path: Path, lack: str, code: int, said: str
) -> None:
    name = registry.add(MODEL, "library/model")
    with lacking_disk(tmp_path / "disk") as disk, Pulling(disk.path / "models") as pulling:
        disk.refuse(**{lack: code})
        assert said in str(pulling.fail(name))
    assert not registry.blob_requests()


def test_a_store_on_exfat_works(registry: FaultRegistry, tmp_path: Path) -> None:
    """A memory card: no hard links, no owners, no modes, no colons."""
    name = registry.add(MODEL, "library/model")
    with memory_card(tmp_path) as store, Pulling(store) as pulling:
        pulling.start(name).finish(MODEL)
        registry.add(generate(3 * MIB, layers=2, seed=84), "library/model")
        pulling.start(name).finish()
        assert [each.name.full for each in pulling.puller.store.list()] == [name]


@contextlib.contextmanager
def memory_card(folder: Path) -> Iterator[Path]:
    """A new exFAT file system, mounted."""
    image, mountpoint = folder / "card", folder / "mounted"
    with image.open("wb") as file:
        file.truncate(64 * MIB)
    mountpoint.mkdir()
    subprocess.run([require("mkfs.exfat"), image], check=True, capture_output=True)
    loop = subprocess.run(["losetup", "--find", "--show", image], capture_output=True, text=True)
    if loop.returncode:
        lacking(f"an image cannot be mounted: {loop.stderr.strip()}")
    device = loop.stdout.strip()
    try:
        mounted = subprocess.run([require("mount.exfat-fuse"), device, mountpoint], capture_output=True, text=True)
        if not os.path.ismount(mountpoint):
            lacking(f"exFAT cannot be mounted: {mounted.stderr.strip()[-300:]}")
        yield mountpoint
        subprocess.run(["umount", "--lazy", mountpoint], check=True, capture_output=True)
    finally:
        subprocess.run(["losetup", "--detach", device], capture_output=True)


@pytest.mark.parametrize("folder", ["blobs", "manifests"])
def test_a_folder_that_is_mounted_from_elsewhere_on_the_same_disk_is_another_disk(
    registry: FaultRegistry, tmp_path: Path, store_path: Path, folder: str
) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (store_path / folder).mkdir(parents=True)
    done = subprocess.run(["mount", "--bind", elsewhere, store_path / folder], capture_output=True, text=True)
    if done.returncode:
        lacking(f"a folder cannot be mounted: {done.stderr.strip()}")
    try:
        with Pulling(store_path) as pulling:
            pulling.pull(registry.add(MODEL, "library/model"), MODEL)
            registry.add(update := generate(3 * MIB, layers=2, seed=85), "library/model")
            pulling.pull(f"{registry.host}/library/model:latest", update)
    finally:
        subprocess.run(["umount", "--lazy", store_path / folder], check=True, capture_output=True)
