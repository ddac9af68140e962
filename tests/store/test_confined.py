"""Links, pipes and the like that somebody planted in towline's own folder: nothing outside of the store is touched."""

from __future__ import annotations

import contextlib
import errno
import os
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.api.test_fork import forked
from tests.store.test_claims import held_elsewhere
from tests.support.exchanges import blob
from tests.support.faults import Stall
from tests.support.models import Model, generate, tiny
from tests.support.pulling import Pulling, eventually
from tests.support.registry import FaultRegistry
from towline.errors import Obstructed, StoreError
from towline.files import confined
from towline.files.confined import Confined, held, make_folder, open_file, remove_tree
from towline.store.layout import Layout
from towline.store.locks import FileLock
from towline.store.store import Store

MIB = 1 << 20


@pytest.fixture(scope="module")
def model() -> Model:
    return generate(3 * MIB, seed=91)


class Outside:
    """A folder beside the store, with what nobody may touch."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        for each in ("data", "journal", "leftover", "file", "folder/file"):
            path = folder / each
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(b"precious")
        self._before = self._seen()

    def check(self) -> None:
        """Asserts that it is as it was."""
        assert self._seen() == self._before

    def _seen(self) -> dict[str, tuple[bytes, int, int]]:
        files = [path for path in self.folder.rglob("*") if path.is_file()]
        return {str(path): (path.read_bytes(), path.stat().st_mode, path.stat().st_mtime_ns) for path in files}


@pytest.fixture
def outside(tmp_path: Path) -> Outside:
    return Outside(tmp_path / "outside")


def replace_by_link(path: Path, target: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        for each in path.iterdir():
            each.rmdir()
        path.rmdir()
    path.symlink_to(target)


@pytest.mark.parametrize("planted", [".", "staging", "locks", "pins"])
def test_a_link_in_the_place_of_a_folder_of_towlines_is_refused(
    registry: FaultRegistry, pulling: Pulling, model: Model, outside: Outside, planted: str
) -> None:
    path = (pulling.models / "towline" / planted).resolve()
    Store(pulling.models).prepare()
    for each in ("staging", "locks", "pins") if planted == "." else ():
        (path / each).rmdir()
    replace_by_link(path, outside.folder)
    error = pulling.fail(registry.add(model, "library/model"))
    assert isinstance(error, StoreError)
    assert "link" in str(error)
    assert "towline" in str(error)
    outside.check()
    assert not registry.blob_requests()
    path.unlink()
    pulling.pull(registry.add(model, "library/model"), model)


@pytest.mark.parametrize("planted", ["data", "journal", "leftover"])
@pytest.mark.parametrize("how", [Path.symlink_to, Path.hardlink_to], ids=["symbolic", "hard"])
def test_a_link_in_the_place_of_a_staged_file_is_not_followed(
    registry: FaultRegistry,
    pulling: Pulling,
    model: Model,
    outside: Outside,
    planted: str,
    how: Callable[[Path, Path], None],
) -> None:
    Store(pulling.models).prepare()
    folder = pulling.staged(model.weights)
    folder.mkdir()
    if planted != "data":
        (folder / "data").write_bytes(b"")
    if planted == "leftover":
        (folder / "data").unlink()
        partial = Path(f"{pulling.layout.blob(model.weights.digest)}-partial")
        partial.write_bytes(model.weights.data)
        Path(f"{partial}-0").write_text(f'{{"N":0,"Offset":0,"Size":{model.weights.size},"Completed":{MIB}}}')
    how(folder / planted, outside.folder / planted)
    error = pulling.start(registry.add(model, "library/model")).until_over()
    # A journal that cannot be read is removed, and begun anew: what goes is the link.
    assert isinstance(error, StoreError) or (error is None and planted == "journal")
    outside.check()


def test_a_link_in_the_place_of_a_staged_folder_is_refused(
    registry: FaultRegistry, pulling: Pulling, model: Model, outside: Outside
) -> None:
    Store(pulling.models).prepare()
    pulling.staged(model.weights).symlink_to(outside.folder)
    error = pulling.fail(registry.add(model, "library/model"))
    assert f"towline/staging/{pulling.staged(model.weights).name} in the store is a link" in str(error)
    outside.check()


def test_a_link_to_a_file_of_the_blobs_size_is_not_the_whole_blob(
    registry: FaultRegistry, pulling: Pulling, model: Model, tmp_path: Path
) -> None:
    Store(pulling.models).prepare()
    secret = tmp_path / "secret"
    secret.write_bytes(b"s" * model.weights.size)
    pulling.staged(model.weights).mkdir()
    (pulling.staged(model.weights) / "whole").symlink_to(secret)
    pulling.pull(registry.add(model, "library/model"), model)
    assert not Path(pulling.layout.blob(model.weights.digest)).is_symlink()
    assert secret.read_bytes() == b"s" * model.weights.size


@pytest.mark.parametrize("how", [Path.symlink_to, Path.hardlink_to], ids=["symbolic", "hard"])
def test_a_link_in_the_place_of_a_lock_is_refused(
    registry: FaultRegistry, pulling: Pulling, model: Model, outside: Outside, how: Callable[[Path, Path], None]
) -> None:
    name = registry.add(model, "library/model")
    pulling.puller.store.prepare()
    how(pulling.layout.locks / "store", outside.folder / "file")
    assert "towline/locks/store" in str(pulling.fail(name))
    outside.check()
    (pulling.layout.locks / "store").unlink()
    pulling.pull(name, model)


@pytest.mark.parametrize("where", ["locks/store", "staging/{}/data", "staging/{}/journal"])
def test_a_pipe_there_blocks_nobody(registry: FaultRegistry, pulling: Pulling, model: Model, where: str) -> None:
    pulling.puller.store.prepare()
    path = pulling.models / "towline" / where.format(pulling.staged(model.weights).name)
    path.parent.mkdir(exist_ok=True)
    os.mkfifo(path)
    name = registry.add(model, "library/model")
    error = pulling.start(name).until_over()
    assert isinstance(error, StoreError) or (error is None and path.name == "journal")
    path.unlink(missing_ok=True)
    pulling.pull(name, model)


@pytest.mark.parametrize("part", ["/whole", "/journal", ".whole"])
def test_a_folder_in_the_place_of_a_staged_file_is_named(
    registry: FaultRegistry, pulling: Pulling, model: Model, part: str
) -> None:
    pulling.puller.store.prepare()
    blob = model.config if part == ".whole" else model.weights
    path = Path(f"{pulling.staged(blob)}{part}")
    path.mkdir(parents=True)
    name = registry.add(model, "library/model")
    assert str(path.relative_to(pulling.models)) in str(pulling.fail(name))
    path.rmdir()
    pulling.pull(name, model)


@pytest.mark.parametrize("room", ["pins", "staging", "locks"])
def test_a_sweep_empties_no_folder_that_a_link_leads_to(store_path: Path, outside: Outside, room: str) -> None:
    Store(store_path).prepare()
    (store_path / "towline" / room / "gone").symlink_to(outside.folder)
    Store(store_path, staging_ttl=0.0).prepare()
    outside.check()
    replace_by_link_and_all(store_path / "towline" / room, outside.folder)
    with pytest.raises(StoreError, match="is a link"):
        Store(store_path, staging_ttl=0.0).prepare()
    outside.check()


def replace_by_link_and_all(path: Path, target: Path) -> None:
    for each in path.iterdir():
        each.unlink()
    replace_by_link(path, target)


def test_a_link_planted_in_the_middle_of_a_download_gets_no_byte(
    registry: FaultRegistry, pulling: Pulling, model: Model, outside: Outside
) -> None:
    name = registry.add(model, "library/model")
    stall = Stall(after=MIB)
    registry.fail(blob(model.weights), stall, times=1)
    following = pulling.start(name).until_completed(model.weights, MIB)
    folder = pulling.staged(model.weights)
    folder.rename(folder.with_name("moved"))
    folder.symlink_to(outside.folder)
    stall.release()
    assert isinstance(following.fail(), StoreError)
    outside.check()


def test_whoever_changes_folders_for_links_all_the_time_gains_nothing(store_path: Path, outside: Outside) -> None:
    layout = Layout(store_path)
    Store(store_path).prepare()
    folder, moved, link = (layout.staging / name for name in ("x", "x-moved", "x-link"))
    link.symlink_to(outside.folder)
    folder.mkdir()
    over = threading.Event()

    def change() -> None:
        while not over.is_set():
            for source, target in ((folder, moved), (link, folder), (folder, link), (moved, folder)):
                with contextlib.suppress(OSError):
                    source.rename(target)

    changing = threading.Thread(target=change)
    changing.start()
    refused = done = 0
    try:
        while refused < 20 or done < 20:
            try:
                os.close(open_file(layout.inside("staging/x/data"), os.O_TRUNC))
                os.close(open_file(layout.inside("staging/x/other")))
                done += 1
            except OSError as error:
                refused += isinstance(error, Obstructed)
            remove_tree(layout.inside("staging/x"))
            with contextlib.suppress(OSError):
                make_folder(layout.inside("staging/x"))
            if not link.is_symlink() and not folder.is_symlink():
                with contextlib.suppress(OSError):
                    link.symlink_to(outside.folder)
    finally:
        over.set()
        changing.join()
    outside.check()
    assert sorted(os.listdir(outside.folder)) == ["data", "file", "folder", "journal", "leftover"]


def test_the_stores_folder_itself_may_be_reached_by_links(
    registry: FaultRegistry, tmp_path: Path, model: Model
) -> None:
    (tmp_path / "large disk").mkdir()
    (tmp_path / "blobs disk").mkdir()
    (tmp_path / "models").symlink_to(tmp_path / "large disk")
    (tmp_path / "models/blobs").symlink_to(tmp_path / "blobs disk")
    with Pulling(tmp_path / "models") as pulling:
        pulling.pull(registry.add(model, "library/model"), model)
        pulling.pull(registry.add(tiny(), "library/tiny"), tiny())


def test_a_lock_whose_holder_moved_the_folder_away_is_not_removed_elsewhere(store_path: Path, outside: Outside) -> None:
    Store(store_path).prepare()
    layout = Layout(store_path)
    lock = FileLock(layout.lock("file"))
    assert lock.acquire()
    layout.locks.rename(layout.own / "moved")
    layout.locks.symlink_to(outside.folder)
    lock.release()
    outside.check()


def test_an_ollamas_file_that_has_another_name_is_copied(
    registry: FaultRegistry, pulling: Pulling, model: Model, tmp_path: Path
) -> None:
    pulling.puller.store.prepare()
    partial = Path(f"{pulling.layout.blob(model.weights.digest)}-partial")
    partial.write_bytes(model.weights.data[:MIB] + bytes(model.weights.size - MIB))
    Path(f"{partial}-0").write_text(f'{{"N":0,"Offset":0,"Size":{model.weights.size},"Completed":{MIB}}}')
    for each in (partial, Path(f"{partial}-0")):
        os.utime(each, (1e9, 1e9))
    backup = tmp_path / "backup"
    backup.hardlink_to(partial)
    before = backup.read_bytes()
    pulling.pull(registry.add(model, "library/model"), model)
    eventually(lambda: not list(pulling.layout.locks.iterdir()), "the locks to be given back")
    assert backup.read_bytes() == before


def test_a_path_is_confined_to_what_is_inside() -> None:
    path = Confined("/srv/towline/models", "/srv/towline/models", "towline", "/srv/towline/models") / "staging" / "x"
    assert os.fspath(path) == "/srv/towline/models/towline/staging/x"
    assert (os.fspath(path.parent), path.name) == ("/srv/towline/models/towline/staging", "x")
    assert Obstructed("it is a link").errno == errno.ELOOP


def test_a_forked_child_keeps_folders_of_its_own_open(tmp_path: Path) -> None:
    folder = Confined(str(tmp_path), str(tmp_path), "towline", str(tmp_path))
    make_folder(folder)

    def work() -> None:
        assert not confined._open
        with held(folder):
            os.close(open_file(folder / "file"))
            assert confined._open
        assert not confined._open

    with held(folder):
        os.close(open_file(folder / "first"))
        with held_elsewhere(confined._holding):
            assert forked(work) == 0
