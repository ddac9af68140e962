"""What else may stand in the place of a blob or a manifest: pipes, devices, folders, links, files without end."""

from __future__ import annotations

import os
import resource
import socket
import stat
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.conftest import DaemonFactory
from tests.support.models import Blob, Model, generate, tiny, weights
from tests.support.pulling import Pulling
from tests.support.registry import FaultRegistry
from towline.errors import StoreError
from towline.model.digest import Digest
from towline.store.layout import Layout
from towline.store.references import references
from towline.store.store import Store

Plant = Callable[[Path], None]


def pipe(path: Path) -> None:
    os.mkfifo(path)


def device(path: Path) -> None:
    os.mknod(path, stat.S_IFCHR | 0o644, os.makedev(1, 3))  # /dev/null


def unix_socket(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as listener:
        here = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
        listener.bind(f"/proc/self/fd/{here}/{path.name}")  # its whole path would be too long for a socket's
        os.close(here)


def link_to_a_pipe(path: Path) -> None:
    elsewhere = path.parent.parent / "pipe"
    os.mkfifo(elsewhere)
    path.symlink_to(elsewhere)


def link_to_nowhere(path: Path) -> None:
    path.symlink_to(path.parent.parent / "nowhere")


def link_to_itself(path: Path) -> None:
    path.symlink_to(path)


def link_through_a_file(path: Path) -> None:
    elsewhere = path.parent.parent / "file"
    elsewhere.touch()
    path.symlink_to(elsewhere / "inside")


IRREGULAR = pytest.mark.parametrize(
    "plant", [pipe, device, unix_socket, link_to_a_pipe, link_to_nowhere, link_to_itself, link_through_a_file]
)


def sized_like_a_folder(folder: Path) -> Blob:
    """Weights as large as a folder says that it is."""
    folder.mkdir(parents=True)
    size = folder.stat().st_size
    folder.rmdir()
    return weights(max(size, 4096), seed=77)


@IRREGULAR
def test_a_pull_puts_the_blob_where_something_else_stands(
    registry: FaultRegistry, pulling: Pulling, plant: Plant
) -> None:
    model = tiny()
    path = Path(pulling.layout.blob(model.weights.digest))
    path.parent.mkdir(parents=True)
    plant(path)
    pulling.pull(registry.add(model, "library/tiny"), model)
    assert stat.S_ISREG(os.lstat(path).st_mode)


@IRREGULAR
def test_a_pull_puts_the_manifest_where_something_else_stands(
    registry: FaultRegistry, pulling: Pulling, plant: Plant
) -> None:
    path = pulling.models / "manifests" / registry.host / "library/tiny/latest"
    path.parent.mkdir(parents=True)
    plant(path)
    assert pulling.puller.store.list() == []
    pulling.pull(registry.add(tiny(), "library/tiny"), tiny())
    assert stat.S_ISREG(os.lstat(path).st_mode)


@IRREGULAR
def test_what_an_ollama_left_is_adopted_from_files_alone(
    registry: FaultRegistry, pulling: Pulling, plant: Plant
) -> None:
    model = generate(2 << 20)
    partial = Path(f"{pulling.layout.blob(model.weights.digest)}-partial")
    partial.parent.mkdir(parents=True)
    plant(partial)
    if plant is not link_to_a_pipe:
        plant(Path(f"{partial}-0"))
    pulling.pull(registry.add(model, "library/model"), model)


def test_a_folder_of_the_blobs_size_is_not_the_blob(registry: FaultRegistry, pulling: Pulling) -> None:
    layer = sized_like_a_folder(pulling.models / "blobs/folder")
    model = Model.of([layer])
    folder = Path(pulling.layout.blob(layer.digest))
    folder.mkdir()
    error = pulling.fail(registry.add(model, "library/model"))
    assert isinstance(error, StoreError)
    assert f"blobs/{layer.digest.file_name}" in str(error)
    assert not registry.blob_requests()
    assert not pulling.puller.store.has_blob(layer.digest, layer.size)
    assert not pulling.puller.store.has_blob(layer.digest)
    folder.rmdir()
    pulling.pull(registry.add(model, "library/model"), model)


def test_a_link_to_the_whole_blob_elsewhere_is_the_blob(
    registry: FaultRegistry, pulling: Pulling, tmp_path: Path
) -> None:
    model = tiny()
    name = registry.add(model, "library/tiny")
    path = Path(pulling.layout.blob(model.weights.digest))
    path.parent.mkdir(parents=True)
    elsewhere = tmp_path / "large disk"
    elsewhere.write_bytes(model.weights.data)
    path.symlink_to(elsewhere)
    pulling.pull(name, model)
    assert path.is_symlink()
    assert elsewhere.read_bytes() == model.weights.data
    assert not registry.blob_requests(model.weights)


@IRREGULAR
def test_the_answers_of_a_daemon_never_wait_for_it(
    registry: FaultRegistry, pulling: Pulling, daemon_factory: DaemonFactory, plant: Plant
) -> None:
    pulling.pull(registry.add(tiny(), "library/tiny"), tiny())
    pulling.pull(registry.add(tiny(1), "library/other"), tiny(1))
    for digest in (tiny().weights.digest, tiny().config.digest):
        Path(pulling.layout.blob(digest)).unlink()
    plant(Path(pulling.layout.blob(tiny().weights.digest)))
    tag = pulling.models / "manifests" / registry.host / "library/other/latest"
    tag.unlink()
    if plant not in (link_to_a_pipe, link_through_a_file):
        plant(tag)
        plant(Path(pulling.layout.blob(tiny().config.digest)))
    daemon = daemon_factory(pulling.models)
    assert daemon.request("GET", "/api/tags").status == 200
    for digest in (tiny().weights.digest, tiny().config.digest):
        found = daemon.request("GET", f"/v2/library/tiny/blobs/{digest}?ns={registry.host}")
        assert found.status == 404


def test_a_folder_in_the_place_of_a_manifest_is_told_before_the_first_byte(
    registry: FaultRegistry, pulling: Pulling
) -> None:
    (pulling.models / "manifests" / registry.host / "library/tiny/latest").mkdir(parents=True)
    error = pulling.fail(registry.add(tiny(), "library/tiny"))
    assert f"manifests/{registry.host}/library/tiny/latest" in str(error)
    assert not registry.blob_requests()


@pytest.mark.parametrize("plant", [Path.touch, pipe, link_to_nowhere, link_to_itself])
def test_what_is_none_in_the_place_of_a_manifests_folder_is_told_before_the_first_byte(
    registry: FaultRegistry, pulling: Pulling, plant: Plant
) -> None:
    (pulling.models / "manifests").mkdir(parents=True)
    plant(pulling.models / "manifests" / registry.host)
    assert isinstance(pulling.fail(registry.add(tiny(), "library/tiny")), StoreError)
    assert not registry.blob_requests()


class TestFilesWithoutEnd:
    """A sparse file takes no disk, and all memory of whoever reads it whole."""

    @pytest.fixture
    def endless(self, pulling: Pulling, registry: FaultRegistry) -> Path:
        path = pulling.models / "manifests" / registry.host / "library/tiny/latest"
        path.parent.mkdir(parents=True)
        with path.open("wb") as file:
            file.truncate(2 << 30)
        return path

    @pytest.fixture(autouse=True)
    def little_memory(self) -> object:
        """More cannot be had than this process has, and a half of such a file."""
        now = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
        before = resource.getrlimit(resource.RLIMIT_AS)
        resource.setrlimit(resource.RLIMIT_AS, (now + (1 << 30), before[1]))
        yield
        resource.setrlimit(resource.RLIMIT_AS, before)

    def test_in_the_place_of_a_manifest_it_is_none(self, pulling: Pulling, endless: Path) -> None:
        assert pulling.puller.store.list() == []

    def test_a_pull_puts_the_manifest_in_its_place(
        self, registry: FaultRegistry, pulling: Pulling, endless: Path
    ) -> None:
        pulling.pull(registry.add(tiny(), "library/tiny"), tiny())

    def test_what_it_names_is_unknown_so_nothing_is_removed(self, pulling: Pulling, endless: Path) -> None:
        with pytest.raises(StoreError, match=r"nothing is removed.*\(file too large\)"):
            references(pulling.layout)


def test_what_is_no_file_among_the_manifests_names_nothing(store_path: Path) -> None:
    Store(store_path).prepare()
    os.mkfifo(store_path / "manifests/pipe")
    assert references(Layout(store_path)) == set[Digest]()
