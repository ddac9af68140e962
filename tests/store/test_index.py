"""What the store knows of its manifests, and when it looks again."""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.server.support import keep
from tests.support.models import Model, tiny
from tests.support.mounts import small_disk
from tests.support.opened import opened
from tests.support.stores import LIBRARY, crowded
from towline.model.manifest import LICENSE_LAYER, MAX_MANIFEST_BYTES
from towline.model.name import ModelName
from towline.store import index
from towline.store.store import Store

LONG_AGO = 1_000_000_000


@pytest.fixture
def store(store_path: Path) -> Store:
    return Store(store_path)


def names(store: Store) -> list[str]:
    return [str(model.name) for model in store.list()]


def manifest_of(store: Store, name: str = "tiny") -> Path:
    return store.root / LIBRARY / name / "latest"


def test_a_second_look_at_five_thousand_models_opens_no_file(store: Store) -> None:
    everybody = crowded(store.root, 5000)
    time.sleep(2 * index.TICK / 1e9)  # what was written this very moment is not believed
    with opened(store.root / "manifests") as files:
        assert sorted(names(store)) == sorted(everybody)
        assert sum(path.endswith("/latest") and os.path.isfile(path) for path in files) == 5000
    taken = []
    with opened(store.root / "manifests") as files:
        for _ in range(3):
            started = time.thread_time()
            assert len(store.list()) == 5000
            taken.append(time.thread_time() - started)
        assert not [path for path in files if os.path.isfile(path)]
    assert min(taken) < 0.3  # of the processor; 0.14 on a slow one


def test_a_manifest_that_is_rewritten_in_place_is_read_again(store: Store) -> None:
    for seed, modified in ((1, LONG_AGO), (2, LONG_AGO + 1)):
        keep(store.root, "tiny", tiny(seed), modified=modified)
        (model,) = store.list()
        assert model.manifest.raw == tiny(seed).manifest
        found = store.find(ModelName.parse("tiny"))
        assert found == model


def test_a_manifest_that_is_rewritten_within_one_tick_of_the_clock_is_read_again(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(index, "TICK", 60_000_000_000)
    now = time.time()
    for seed in (1, 2):
        keep(store.root, "tiny", tiny(seed), modified=now)  # of the same length, under the same time
        assert store.list()[0].manifest.raw == tiny(seed).manifest


@pytest.mark.parametrize("content", [b"", b"<html>", b"[" * 100_000, b'{"schemaVersion":2,', b"[]"])
def test_what_is_no_manifest_is_read_once_and_again_when_it_changes(store: Store, content: bytes) -> None:
    keep(store.root, "tiny", tiny(), modified=LONG_AGO)
    path = manifest_of(store)
    path.write_bytes(content)
    os.utime(path, (LONG_AGO, LONG_AGO))
    assert not names(store)
    with opened(path.parent) as files:
        assert not names(store)
    assert not files
    keep(store.root, "tiny", tiny(), modified=LONG_AGO)
    assert names(store) == ["tiny:latest"]


def test_a_model_that_went_is_forgotten(store: Store) -> None:
    keep(store.root, "tiny", tiny(), modified=LONG_AGO)
    assert names(store) == ["tiny:latest"]
    manifest_of(store).rename(store.root / "elsewhere")
    assert not names(store)
    assert store.find(ModelName.parse("tiny")) is None
    (store.root / "elsewhere").rename(manifest_of(store))
    assert names(store) == ["tiny:latest"]


def test_the_tags_of_one_model_are_found_without_a_look_at_others(store: Store) -> None:
    crowded(store.root, 20)
    for tag in ("b", "a"):
        keep(store.root, f"tiny:{tag}", tiny())
    with opened(store.root / "manifests") as files:
        assert [model.name.tag for model in store.tags(ModelName.parse("tiny"))] == ["a", "b"]
    assert all("/tiny" in path for path in files)


def _socket(path: Path) -> None:
    os.chdir(path.parent)  # a socket's path is short
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(path.name)


def _sparse(path: Path) -> None:
    with path.open("wb") as file:
        file.write(tiny().manifest)
        file.truncate(2 << 30)


@pytest.mark.parametrize(
    "make",
    [
        os.mkfifo,
        os.mkdir,
        _socket,
        _sparse,
        lambda path: os.mknod(path, 0o020666, os.makedev(1, 5)),  # /dev/zero
        lambda path: os.symlink("latest", path),
        lambda path: os.symlink("/dev/zero", path),
        lambda path: os.symlink("nowhere", path),
        lambda path: path.write_bytes(tiny().manifest.ljust(MAX_MANIFEST_BYTES + 1)),
    ],
    ids=["fifo", "folder", "socket", "2 GiB", "device", "loop", "linked device", "dangling", "oversized"],
)
def test_what_stands_in_a_manifests_place_is_left_alone(
    store: Store, make: Callable[[Path], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(store.root.parent)
    keep(store.root, "good", tiny())
    path = manifest_of(store)
    path.parent.mkdir(parents=True)
    make(path)
    with opened(path) as inside, opened(path.parent) as files:
        assert names(store) == ["good:latest"]
        assert store.find(ModelName.parse("tiny")) is None
        assert store.tags(ModelName.parse("tiny")) == []
    assert not inside
    assert not [file for file in files if file == str(path)]


def test_a_link_to_a_manifest_is_read(store: Store) -> None:
    keep(store.root, "tiny", tiny())
    manifest_of(store, "linked").parent.mkdir()
    manifest_of(store, "linked").symlink_to(manifest_of(store))
    assert sorted(names(store)) == ["linked:latest", "tiny:latest"]


def test_a_file_at_the_wrong_depth_or_under_no_name_is_none(store: Store) -> None:
    keep(store.root, "tiny", tiny())
    for path in ("latest", "library/file", "library/tiny/.DS_Store", "library/tiny/folder/latest", "-x/tiny/latest"):
        file = store.root / "manifests/registry.ollama.ai" / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(tiny().manifest)
    assert names(store) == ["tiny:latest"]


def test_more_than_can_be_kept_is_read_at_each_look(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(index, "KEPT_BYTES", len(tiny().manifest) + 10)
    for name in ("a", "b", "c"):
        keep(store.root, name, tiny(), modified=LONG_AGO)
    for _ in range(2):
        assert sorted(names(store)) == ["a:latest", "b:latest", "c:latest"]
    with opened(store.root / "manifests") as files:
        names(store)
    assert sum(os.path.isfile(path) for path in files) == 2


@pytest.mark.parametrize("moment", [-(1 << 62), (1 << 63) - 1])
def test_a_time_that_no_date_has_is_the_nearest_one(store: Store, moment: int) -> None:
    with small_disk(store.root, 1 << 20):  # other file systems hold no such time
        keep(store.root, "tiny", tiny())
        os.utime(manifest_of(store), ns=(0, moment))
        assert store.list()[0].modified.year in range(1, 10_000)


def test_models_of_one_time_are_in_the_order_of_their_names(store: Store) -> None:
    for name in ("b", "a", "c"):
        keep(store.root, name, tiny(), modified=LONG_AGO)
    keep(store.root, "newer", tiny(), modified=LONG_AGO + 1)
    assert names(store) == ["newer:latest", "a:latest", "b:latest", "c:latest"]


def test_a_model_without_a_config_is_in_the_list(store: Store) -> None:
    keep(store.root, "bare", Model.of(tiny().layers).with_manifest(config=None))
    (model,) = store.list()
    assert model.manifest.config is None
    assert model.manifest.layer(LICENSE_LAYER) is not None
