"""Whose the files are that towline makes, and who may do what with them: root pulls, and another user goes on."""

from __future__ import annotations

import errno
import os
import shutil
import stat
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.pull.process import ROOT
from tests.pull.test_adoption import PART, SIZE, leave_partial
from tests.support.components import lacking
from tests.support.exchanges import blob
from tests.support.faults import Stall
from tests.support.lacking import lacking_disk
from tests.support.models import Model, generate, tiny
from tests.support.mounts import small_disk
from tests.support.pulling import Pulling
from tests.support.registry import FaultRegistry
from towline.files import ownership
from towline.files.confined import create_file
from towline.store.layout import Layout
from towline.store.store import Store

USER, GROUP = 54321, 54321
MIB = 1 << 20


@pytest.fixture(autouse=True)
def only_root_gives_away() -> None:
    if os.geteuid() != 0:
        lacking("only root can give files away")


@pytest.fixture(scope="module")
def model() -> Model:
    return generate(3 * MIB, seed=95)


@pytest.fixture
def home() -> Iterator[Path]:
    """A folder of the other user's, in which everybody may look."""
    folder = Path(tempfile.mkdtemp(prefix="towline-test-"))
    folder.chmod(0o755)
    os.chown(folder, USER, GROUP)
    yield folder
    shutil.rmtree(folder)


def owners(folder: Path) -> dict[str, tuple[int, int]]:
    """Of a folder and all that is in it."""
    found = {str(path): os.lstat(path) for path in (folder, *folder.rglob("*"))}
    return {path: (there.st_uid, there.st_gid) for path, there in found.items()}


def work_as_user(models: Path, name: str) -> None:
    """What the service does after root was there; it has to succeed."""
    done = subprocess.run(
        [sys.executable, "-m", "tests.store.another_user", str(USER), models, name],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(("mode", "adopted"), [(0o644, PART + MIB), (0o600, 0)], ids=["readable", "unreadable"])
def test_a_user_who_may_not_write_to_what_an_ollama_left_pulls_all_the_same(
    registry: FaultRegistry, home: Path, mode: int, adopted: int
) -> None:
    model = generate(SIZE)
    models = home / "models"
    with Pulling(models) as pulling:
        partial = leave_partial(pulling, model.weights, [PART, MIB, 0])
    partial.chmod(mode)
    for folder in (models, models / "blobs"):
        os.chown(folder, USER, GROUP)
    work_as_user(models, registry.add(model, "library/model"))
    assert registry.bytes_sent(model.weights) == 2 * SIZE - adopted  # the second time it was cleared away


@pytest.mark.parametrize("made", ["by nobody yet", "empty", "with what an Ollama makes"])
def test_after_a_pull_as_root_everything_is_the_users(
    registry: FaultRegistry, home: Path, model: Model, made: str
) -> None:
    models = home / "models"
    if made != "by nobody yet":
        models.mkdir()
        os.chown(models, USER, GROUP)
    for name in ("blobs", "manifests") if made == "with what an Ollama makes" else ():
        (models / name).mkdir()
        os.chown(models / name, USER, GROUP)
    name = registry.add(model, "library/model")
    with Pulling(models) as pulling:
        pulling.pull(name, model)
    assert set(owners(models).values()) == {(USER, GROUP)}
    work_as_user(models, name)
    assert not list(models.iterdir())


def test_a_pull_that_root_left_in_its_middle_is_gone_on_with_by_the_user(
    registry: FaultRegistry, home: Path, model: Model
) -> None:
    name = registry.add(model, "library/model")
    registry.fail(blob(model.weights), Stall(after=2 * MIB), times=1)
    with Pulling(home / "models", connections_per_blob=1) as pulling:
        pulling.start(name).until_completed(model.weights, 2 * MIB).close()
    assert (pulling.staged(model.weights) / "journal").exists()
    assert set(owners(home).values()) == {(USER, GROUP)}
    work_as_user(home / "models", name)


def test_what_is_taken_over_from_an_ollama_is_the_users(registry: FaultRegistry, home: Path, model: Model) -> None:
    name = registry.add(model, "library/model")
    with Pulling(home / "models", connections_per_blob=1) as pulling:
        pulling.puller.store.prepare()
        partial = Path(f"{pulling.layout.blob(model.weights.digest)}-partial")
        partial.write_bytes(model.weights.data[:MIB] + bytes(model.weights.size - MIB))
        Path(f"{partial}-0").write_text(f'{{"N":0,"Offset":0,"Size":{model.weights.size},"Completed":{MIB}}}')
        registry.fail(blob(model.weights), Stall(after=MIB), times=1)
        pulling.start(name).until_completed(model.weights, 2 * MIB).close()
        folder = pulling.staged(model.weights)
    assert {"data", "leftover"} <= set(os.listdir(folder))
    assert set(owners(folder).values()) == {(USER, GROUP)}


def test_with_blobs_on_another_disk_it_is_the_same(registry: FaultRegistry, home: Path, model: Model) -> None:
    (home / "models").mkdir()
    os.chown(home / "models", USER, GROUP)
    with small_disk(home / "models/blobs", 32 * MIB):
        os.chown(home / "models/blobs", USER, GROUP)
        with Pulling(home / "models") as pulling:
            pulling.pull(registry.add(model, "library/model"), model)
        assert set(owners(home / "models").values()) == {(USER, GROUP)}


@pytest.mark.parametrize(
    ("folder", "file"), [(0o755, 0o644), (0o700, 0o600), (0o775, 0o664), (0o2775, 0o664), (0o750, 0o640)]
)
@pytest.mark.parametrize("mask", [0o022, 0o077, 0o000])
def test_modes_are_what_the_stores_folder_allows_whatever_the_mask(
    registry: FaultRegistry, home: Path, folder: int, file: int, mask: int
) -> None:
    models = home / "models"
    models.mkdir()
    models.chmod(folder)
    before = os.umask(mask)
    try:
        with Pulling(models) as pulling:
            pulling.pull(registry.add(tiny(), "library/tiny"), tiny())
    finally:
        os.umask(before)
    modes: dict[bool, set[int]] = {True: set(), False: set()}
    for path in models.rglob("*"):
        modes[path.is_dir()].add(stat.S_IMODE(path.stat().st_mode))
    assert modes == {True: {folder}, False: {file}}


def test_locks_are_the_users_while_root_holds_them(home: Path) -> None:
    layout = Layout(home / "models")
    Store(home / "models").prepare()
    os.close(create_file(layout.lock("some")))
    assert owners(layout.locks)[f"{layout.locks}/some"] == (USER, GROUP)


def test_what_was_there_before_is_nobodys_business(registry: FaultRegistry, home: Path) -> None:
    models = home / "models"
    (models / "blobs").mkdir(parents=True)
    foreign = models / "blobs/foreign"
    foreign.write_bytes(b"x")
    os.chown(models, USER, GROUP)
    with Pulling(models) as pulling:
        pulling.pull(registry.add(tiny(), "library/tiny"), tiny())
    assert owners(foreign)[str(foreign)] == (0, 0)


def test_an_owner_that_cannot_be_set_is_a_warning_and_no_failure(
    registry: FaultRegistry, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    ownership._warn.cache_clear()
    with lacking_disk(tmp_path / "disk") as disk:
        (disk.beneath / "models").mkdir()
        os.chown(disk.beneath / "models", USER, GROUP)
        disk.refuse(chown=errno.EPERM)
        with Pulling(disk.path / "models") as pulling:
            pulling.pull(registry.add(tiny(), "library/tiny"), tiny())
    assert len([each for each in caplog.records if "stays root's" in each.getMessage()]) == 1
