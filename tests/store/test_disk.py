"""Disks that are full, small, read-only, or several."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from tests.support.exchanges import blob
from tests.support.faults import Stall
from tests.support.models import Model, crowd, generate, tiny
from tests.support.mounts import make_read_only, small_disk
from tests.support.pulling import Pulling, eventually
from tests.support.registry import FaultRegistry
from towline.errors import NoSpace, StoreError
from towline.store.store import Store

MIB = 1 << 20


@pytest.fixture(scope="module")
def model() -> Model:
    return generate(12 * MIB, seed=31)


def fill(folder: Path) -> Path:
    """Takes all the space that is left."""
    path = folder / "filler"
    with open(path, "wb", buffering=0) as file:
        for size in (MIB, 4096):
            try:
                while file.write(bytes(size)) == size:
                    pass
            except OSError:
                continue
    return path


class TestSpace:
    def test_too_little_is_said_before_the_first_byte_with_what_is_needed_and_what_is_free(
        self, registry: FaultRegistry, store_path: Path, model: Model
    ) -> None:
        name = registry.add(model, "library/model")
        with small_disk(store_path, 8 * MIB), Pulling(store_path) as pulling:
            error = pulling.fail(name)
        assert isinstance(error, NoSpace)
        assert "12.6 MB are needed" in str(error)
        assert "8.4 MB are free" in str(error) or "8.3 MB are free" in str(error)
        assert not registry.blob_requests()

    def test_what_is_on_disk_already_is_not_needed_again(
        self, registry: FaultRegistry, store_path: Path, model: Model
    ) -> None:
        name = registry.add(model, "library/model")
        registry.fail(blob(model.weights), Stall(after=9 * MIB), times=1)
        with small_disk(store_path, 16 * MIB), Pulling(store_path, connections_per_blob=1) as pulling:
            pulling.start(name).until_completed(model.weights, 9 * MIB).close()
            eventually(lambda: not list(pulling.layout.locks.iterdir()), "the locks to be given back")
            pulling.pull(name, model)

    def test_a_disk_that_fills_up_in_the_middle_is_told_and_the_pull_goes_on_once_there_is_space(
        self, registry: FaultRegistry, store_path: Path, model: Model
    ) -> None:
        name = registry.add(model, "library/model")
        stall = Stall(after=4 * MIB)
        registry.fail(blob(model.weights), stall, times=1)
        with small_disk(store_path, 16 * MIB), Pulling(store_path, connections_per_blob=1) as pulling:
            following = pulling.start(name).until_completed(model.weights, 4 * MIB)
            filler = fill(store_path)
            stall.release()
            error = following.fail(model)
            assert isinstance(error, NoSpace)
            assert "what arrived is kept" in str(error)
            filler.unlink()
            registry.reset()
            again = pulling.pull(name, model)
        assert again.first(model.weights) >= 4 * MIB
        assert registry.bytes_sent(model.weights) == model.weights.size - again.first(model.weights)

    def test_a_disk_that_holds_no_more_files_is_told_so_and_the_pull_goes_on_once_it_does(
        self, registry: FaultRegistry, tmp_path: Path
    ) -> None:
        model = crowd(60, seed=8)
        name = registry.add(model, "library/crowd")
        with small_disk(tmp_path / "disk", 20 * MIB) as disk, Pulling(disk / "models") as pulling:
            subprocess.run(["mount", "-o", "remount,nr_inodes=40", disk], check=True, capture_output=True)
            assert "as many files as it can" in str(pulling.fail(name))
            subprocess.run(["mount", "-o", "remount,nr_inodes=1000", disk], check=True, capture_output=True)
            pulling.pull(name, model)

    def test_a_disk_that_is_full_to_the_last_byte_is_one_sentence(
        self, registry: FaultRegistry, store_path: Path
    ) -> None:
        small = tiny()
        name = registry.add(small, "library/tiny")
        with small_disk(store_path, 4 * MIB), Pulling(store_path) as pulling:
            filler = fill(store_path)
            assert isinstance(pulling.fail(name), StoreError)
            filler.unlink()
            pulling.pull(name, small)


class TestReadOnly:
    def test_a_store_that_cannot_be_written_is_told_at_the_start(self, store_path: Path) -> None:
        with small_disk(store_path, 4 * MIB):
            make_read_only(store_path)
            with pytest.raises(StoreError, match="read-only file system"):
                Store(store_path).prepare()

    def test_a_pull_into_it_is_one_sentence(self, registry: FaultRegistry, store_path: Path) -> None:
        name = registry.add(tiny(), "library/tiny")
        with small_disk(store_path, 4 * MIB), Pulling(store_path) as pulling:
            pulling.puller.store.prepare()
            make_read_only(store_path)
            assert "read-only file system" in str(pulling.fail(name))

    def test_what_is_in_it_can_be_listed(self, registry: FaultRegistry, store_path: Path) -> None:
        name = registry.add(tiny(), "library/tiny")
        with small_disk(store_path, 4 * MIB), Pulling(store_path) as pulling:
            pulling.pull(name, tiny())
            make_read_only(store_path)
            assert [each.name.full for each in Store(store_path).list()] == [name]


class TestBlobsElsewhere:
    """`blobs/` on a file system of its own: what towline adds stands there too."""

    def test_a_model_is_pulled(self, registry: FaultRegistry, store_path: Path, model: Model) -> None:
        name = registry.add(model, "library/model")
        with small_disk(store_path / "blobs", 32 * MIB), Pulling(store_path) as pulling:
            pulling.pull(name, model)
            assert pulling.layout.own == store_path / "blobs/towline"
            loose = [path.name for path in (store_path / "blobs").iterdir() if path.name != "towline"]
            assert sorted(loose) == sorted(each.digest.file_name for each in model.blobs)
            tag = store_path / "manifests" / registry.host / "library/model"
            assert os.listdir(tag) == ["latest"]
            assert [each.name.full for each in pulling.puller.store.list()] == [name]

    def test_an_interrupted_pull_goes_on(self, registry: FaultRegistry, store_path: Path, model: Model) -> None:
        name = registry.add(model, "library/model")
        registry.fail(blob(model.weights), Stall(after=4 * MIB), times=1)
        with small_disk(store_path / "blobs", 32 * MIB), Pulling(store_path, connections_per_blob=1) as pulling:
            pulling.start(name).until_completed(model.weights, 4 * MIB).close()
            assert pulling.pull(name, model).first(model.weights) == 4 * MIB
            assert registry.bytes_sent(model.weights) == model.weights.size

    def test_the_space_that_counts_is_the_blobs(self, registry: FaultRegistry, store_path: Path, model: Model) -> None:
        name = registry.add(model, "library/model")
        with small_disk(store_path / "blobs", 8 * MIB), Pulling(store_path) as pulling:
            assert isinstance(pulling.fail(name), NoSpace)
        assert not registry.blob_requests()

    def test_nothing_is_left_beside_the_manifests(self, registry: FaultRegistry, store_path: Path) -> None:
        name = registry.add(tiny(), "library/tiny")
        with small_disk(store_path / "blobs", 8 * MIB), Pulling(store_path) as pulling:
            pulling.pull(name, tiny())
        files = [path for path in (store_path / "manifests").rglob("*") if path.is_file()]
        assert files == [store_path / "manifests" / registry.host / "library/tiny/latest"]
