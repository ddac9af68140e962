"""A model comes into the store whole or not at all, whoever else is at work in it."""

from __future__ import annotations

import errno
import os
import shutil
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.support.events import check_sentence
from tests.support.models import Blob, Model, tiny
from tests.support.pulling import Pulling, eventually, open_files
from tests.support.registry import FaultRegistry
from towline.errors import NoSpace, StoreError
from towline.files.sync import sync_file
from towline.model.manifest import LICENSE_LAYER, Manifest
from towline.model.name import ModelName
from towline.store import durable, publication
from towline.store.locks import waiting_for
from towline.store.publication import Publication
from towline.store.store import Store

OLD = tiny()
NEW = OLD.with_layer(Blob.of(LICENSE_LAYER, "another license"))
OLD_LICENSE = next(layer for layer in OLD.layers if layer.media_type == LICENSE_LAYER)
UNUSED = {OLD_LICENSE.digest, OLD.config.digest}

Hook = Callable[..., None]


@pytest.fixture
def once(monkeypatch: pytest.MonkeyPatch) -> Hook:
    """`once(owner, name, before=…, after=…)`: the first call of a function has something happen before or after it."""

    def install(owner: Any, name: str, *, before: Hook | None = None, after: Hook | None = None) -> None:
        real = getattr(owner, name)
        calls: list[str] = []

        def hooked(*args: Any, **kwargs: Any) -> Any:
            first = not calls
            calls.append(name)
            if first and before:
                before()
            result = real(*args, **kwargs)
            if first and after:
                after()
            return result

        monkeypatch.setattr(owner, name, hooked)

    return install


def files_in(folder: Path) -> list[Path]:
    return [path for path in folder.iterdir() if path.is_file()]


def delete_blobs(pulling: Pulling) -> Hook:
    """What an Ollama does: every file in `blobs/` goes, folders stay."""

    def delete() -> None:
        for path in files_in(pulling.layout.blobs):
            path.unlink()

    return delete


class TestForeignDeletions:
    STEPS = (
        ("before", "missing"),
        ("after", "missing"),
        ("after", "check_space"),
        ("before", "fetched"),
        ("after", "fetched"),
        ("before", "publish"),
        ("before", "_place"),
        ("after", "_place"),
        ("before", "_put_manifest"),
        ("after", "_put_manifest"),
        ("before", "_absent"),
        ("before", "_placed"),
        ("after", "_placed"),
    )

    @pytest.mark.parametrize(("when", "step"), STEPS)
    def test_blobs_that_are_deleted_in_a_fresh_pull_are_put_back(
        self, registry: FaultRegistry, pulling: Pulling, once: Hook, when: str, step: str
    ) -> None:
        name = registry.add(OLD, "library/tiny")
        once(Publication, step, **{when: delete_blobs(pulling) if step != "missing" else lambda: None})
        pulling.pull(name, OLD)

    @pytest.mark.parametrize(("when", "step"), STEPS)
    def test_blobs_of_an_older_version_that_are_deleted_are_put_back_or_fetched_again(
        self, registry: FaultRegistry, pulling: Pulling, once: Hook, when: str, step: str
    ) -> None:
        pulling.pull(registry.add(OLD, "library/tiny"), OLD)
        name = registry.add(NEW, "library/tiny")
        once(Publication, step, **{when: delete_blobs(pulling)})
        pulling.pull(name, NEW)

    def test_the_pull_of_a_model_whose_blobs_are_here_puts_back_what_is_deleted_meanwhile(
        self, registry: FaultRegistry, pulling: Pulling, once: Hook
    ) -> None:
        pulling.pull(registry.add(OLD, "library/tiny"), OLD)
        name = registry.add(OLD, "library/other")
        registry.reset()
        once(Publication, "check_space", after=delete_blobs(pulling))
        pulling.pull(name, OLD)
        assert not registry.blob_requests()

    def test_a_model_that_is_here_manifest_and_all_is_held_by_that_and_by_nothing_else(
        self, registry: FaultRegistry, pulling: Pulling, once: Hook
    ) -> None:
        name = registry.add(OLD, "library/tiny")
        pulling.pull(name, OLD)
        held: list[Path] = []
        once(Publication, "check_space", after=lambda: held.extend(pulling.layout.pins.glob("*/*")))
        pulling.pull(name, OLD)
        assert held == []

    def test_a_blob_that_is_missing_from_a_model_that_is_here_is_fetched(
        self, registry: FaultRegistry, pulling: Pulling
    ) -> None:
        name = registry.add(OLD, "library/tiny")
        pulling.pull(name, OLD)
        Path(pulling.layout.blob(OLD.weights.digest)).unlink()
        assert pulling.pull(name, OLD).fetched == {OLD.weights.digest}

    def test_a_blob_of_another_size_is_fetched_and_replaced(self, registry: FaultRegistry, pulling: Pulling) -> None:
        name = registry.add(OLD, "library/tiny")
        pulling.pull(name, OLD)
        with open(Path(pulling.layout.blob(OLD.weights.digest)), "ab") as file:
            file.write(b"more")
        pulling.pull(name, OLD)

    @pytest.mark.parametrize("step", ["check_space", "fetched", "_put_manifest"])
    def test_a_model_whose_pins_and_blobs_are_all_deleted_is_fetched_again(
        self, registry: FaultRegistry, pulling: Pulling, once: Hook, step: str
    ) -> None:
        name = registry.add(OLD, "library/tiny")

        def delete() -> None:
            delete_blobs(pulling)()
            for path in pulling.layout.pins.glob("*/*"):
                path.unlink()
            for path in pulling.layout.staging.glob("*/whole"):
                path.unlink()

        once(Publication, step, after=delete)
        pulling.pull(name, OLD)

    def test_what_deletes_blobs_as_fast_as_they_come_is_an_error_in_the_end(
        self, registry: FaultRegistry, pulling: Pulling, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        name = registry.add(OLD, "library/tiny")
        real = Publication.publish

        def delete_first(self: Publication) -> Any:
            delete_blobs(pulling)()
            shutil.rmtree(pulling.layout.own, ignore_errors=True)
            return real(self)

        monkeypatch.setattr(Publication, "publish", delete_first)
        assert isinstance(pulling.fail(name), StoreError)

    @pytest.mark.parametrize(
        ("owner", "function"),
        [(publication, "make_folders"), (durable, "sync_folder"), (publication, "move")],
    )
    @pytest.mark.parametrize("when", ["before", "after"])
    def test_folders_of_manifests_that_are_removed_when_empty_are_made_again(
        self, registry: FaultRegistry, pulling: Pulling, once: Hook, owner: Any, function: str, when: str
    ) -> None:
        def remove_empty() -> None:
            for path in sorted(pulling.layout.manifests.rglob("*"), reverse=True):
                if path.is_dir() and not any(path.iterdir()):
                    path.rmdir()

        name = registry.add(OLD, "library/tiny")
        once(owner, function, **{when: remove_empty})
        pulling.pull(name, OLD)

    def test_a_blob_that_belongs_to_another_user_is_good_as_it_is(
        self, registry: FaultRegistry, pulling: Pulling, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        pulling.pull(registry.add(OLD, "library/tiny"), OLD)

        def refuse(*_: Any, **__: Any) -> None:
            raise PermissionError(errno.EPERM, os.strerror(errno.EPERM))

        monkeypatch.setattr(os, "utime", refuse)
        monkeypatch.setattr(os, "link", refuse)
        pulling.pull(registry.add(OLD, "library/other"), OLD)

    def test_a_folder_of_blobs_that_was_removed_is_made_again(
        self, registry: FaultRegistry, pulling: Pulling, once: Hook
    ) -> None:
        name = registry.add(OLD, "library/tiny")
        once(Publication, "publish", before=lambda: shutil.rmtree(pulling.layout.blobs))
        pulling.pull(name, OLD)

    def test_a_blob_that_two_pulls_wait_for_is_kept_for_the_slower_one(self, store_path: Path) -> None:
        """The quicker one has published and cleaned up, and somebody deletes the blobs, before the slower publishes."""
        store = Store(store_path)
        manifest = Manifest.parse(OLD.manifest)
        quick, slow = (store.publication(ModelName.parse(name), manifest) for name in ("quick", "slow"))
        with quick, slow:
            for blob, descriptor in zip(OLD.blobs, manifest.blobs, strict=True):
                Path(quick.staged(descriptor).whole_path).write_bytes(blob.data)
                quick.fetched(descriptor)
                slow.fetched(descriptor)
            assert quick.publish() == []
            for path in files_in(store_path / "blobs"):
                path.unlink()
            assert slow.publish() == []
        assert all(store.has_blob(blob.digest, blob.size) for blob in OLD.blobs)


class TestAtomicity:
    def test_the_manifest_comes_when_every_blob_is_there(
        self, registry: FaultRegistry, pulling: Pulling, once: Hook
    ) -> None:
        seen: list[bool] = []
        name = registry.add(OLD, "library/tiny")
        blobs = [Path(pulling.layout.blob(blob.digest)) for blob in OLD.blobs]
        once(publication, "move", before=lambda: seen.append(all(path.exists() for path in blobs)))
        pulling.pull(name, OLD)
        assert seen == [True]

    @pytest.mark.parametrize("call", ["rename", "fsync"])
    @pytest.mark.parametrize("number", [errno.ENOSPC, errno.EIO, errno.EDQUOT])
    def test_a_manifest_that_cannot_be_written_leaves_the_old_one(
        self, registry: FaultRegistry, pulling: Pulling, monkeypatch: pytest.MonkeyPatch, call: str, number: int
    ) -> None:
        name = registry.add(OLD, "library/tiny")
        pulling.pull(name, OLD)
        registry.add(NEW, "library/tiny")

        def refuse(*_: Any, **__: Any) -> None:
            raise OSError(number, os.strerror(number))

        with monkeypatch.context() as patched:
            patched.setattr(os, call, refuse)
            error = pulling.fail(name)
        assert isinstance(error, StoreError)
        assert isinstance(error, NoSpace) == (number != errno.EIO)
        pulling.check_stored(name, OLD)
        pulling.pull(name, NEW)

    def test_no_temporary_file_ever_stands_where_an_ollama_looks(
        self, registry: FaultRegistry, pulling: Pulling, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        name = registry.add(OLD, "library/tiny")
        tag = pulling.layout.manifest(ModelName.parse(name))
        known = {blob.digest.file_name for blob in OLD.blobs}
        strangers: list[Path] = []

        def look() -> None:
            found = files_in(pulling.layout.blobs) if pulling.layout.blobs.exists() else []
            strangers.extend(path for path in found if path.name not in known)
            if tag.parent.exists():
                strangers.extend(path for path in tag.parent.iterdir() if path != tag)

        def looking(real: Callable[..., Any]) -> Callable[..., Any]:
            def call(*args: Any, **kwargs: Any) -> Any:
                look()
                result = real(*args, **kwargs)
                look()
                return result

            return call

        for function in ("link", "rename", "fsync", "unlink", "mkdir"):
            monkeypatch.setattr(os, function, looking(getattr(os, function)))
        pulling.pull(name, OLD)
        assert strangers == []

    def test_a_folder_in_the_place_of_the_tag_is_one_sentence(self, registry: FaultRegistry, pulling: Pulling) -> None:
        name = registry.add(OLD, "library/tiny")
        (pulling.layout.manifest(ModelName.parse(name)) / "folder").mkdir(parents=True)
        assert isinstance(pulling.fail(name), StoreError)

    def test_a_file_in_the_place_of_a_folder_is_one_sentence(self, registry: FaultRegistry, pulling: Pulling) -> None:
        name = registry.add(OLD, "library/tiny")
        pulling.layout.manifests.mkdir(parents=True)
        (pulling.layout.manifests / registry.host).write_text("x")
        assert isinstance(pulling.fail(name), StoreError)

    def test_pins_that_cannot_be_made_leave_nothing_open(self, store_path: Path) -> None:
        store = Store(store_path)
        store.prepare()
        (store_path / "towline/pins").rmdir()
        (store_path / "towline/pins").write_text("in the way")
        opened = store.publication(ModelName.parse("tiny"), Manifest.parse(OLD.manifest))
        with pytest.raises(StoreError) as caught:
            opened.__enter__()
        check_sentence(str(caught.value))
        assert not open_files(store_path)
        assert not list((store_path / "towline/locks").iterdir())


class TestPruning:
    def test_layers_that_were_replaced_go(self, registry: FaultRegistry, pulling: Pulling) -> None:
        name = registry.add(OLD, "library/tiny")
        pulling.pull(name, OLD)
        pulling.age(*UNUSED)
        registry.add(NEW, "library/tiny")
        pull = pulling.pull(name, NEW)
        assert pull.steps[-2:] == ["removing unused layers", "success"]
        assert {path.name for path in files_in(pulling.layout.blobs)} == {blob.digest.file_name for blob in NEW.blobs}

    def test_nothing_is_said_of_it_where_nothing_goes(self, registry: FaultRegistry, pulling: Pulling) -> None:
        name = registry.add(OLD, "library/tiny")
        pulling.pull(name, OLD)
        assert "removing unused layers" not in pulling.pull(name, OLD).steps

    def test_with_noprune_they_stay(self, registry: FaultRegistry, store_path: Path) -> None:
        name = registry.add(OLD, "library/tiny")
        with Pulling(store_path, noprune=True) as pulling:
            pulling.pull(name, OLD)
            pulling.age(*UNUSED)
            registry.add(NEW, "library/tiny")
            pull = pulling.pull(name, NEW)
            assert "removing unused layers" not in pull.steps
            assert all(Path(pulling.layout.blob(digest)).exists() for digest in UNUSED)

    def test_those_of_another_model_stay(self, registry: FaultRegistry, pulling: Pulling) -> None:
        other = Model.of([OLD_LICENSE])
        pulling.pull(registry.add(other, "library/other"), other)
        name = registry.add(OLD, "library/tiny")
        pulling.pull(name, OLD)
        pulling.age(*UNUSED)
        registry.add(NEW, "library/tiny")
        pulling.pull(name, NEW)
        assert Path(pulling.layout.blob(OLD_LICENSE.digest)).exists()
        assert not Path(pulling.layout.blob(OLD.config.digest)).exists()

    @pytest.mark.parametrize(
        "raw",
        [
            b'{"layers":[{"digest":"%s"}]}',
            b"\xff %s nonsense",
            b'{"schemaVersion":7,"other":["%s"]}',
            b"[" * 100_000 + b'"%s"',
        ],
        ids=["old", "binary", "unknown", "nested"],
    )
    def test_those_of_a_manifest_that_cannot_be_read_stay(
        self, registry: FaultRegistry, pulling: Pulling, raw: bytes
    ) -> None:
        odd = pulling.layout.manifests / "host/some/odd/latest"
        odd.parent.mkdir(parents=True)
        odd.write_bytes(raw.replace(b"%s", str(OLD_LICENSE.digest).encode()))
        name = registry.add(OLD, "library/tiny")
        pulling.pull(name, OLD)
        pulling.age(*UNUSED)
        registry.add(NEW, "library/tiny")
        pulling.pull(name, NEW)
        assert Path(pulling.layout.blob(OLD_LICENSE.digest)).exists()

    def test_those_that_a_model_takes_into_use_at_the_last_moment_stay(
        self, registry: FaultRegistry, pulling: Pulling, once: Hook
    ) -> None:
        name = registry.add(OLD, "library/tiny")
        pulling.pull(name, OLD)
        pulling.age(*UNUSED)
        registry.add(NEW, "library/tiny")
        other = pulling.layout.manifests / "host/some/other/latest"

        def take_into_use() -> None:
            other.parent.mkdir(parents=True)
            other.write_bytes(OLD.manifest)

        once(Publication, "remove_unused", before=take_into_use)
        pulling.pull(name, NEW)
        assert all(Path(pulling.layout.blob(digest)).exists() for digest in UNUSED)

    def test_a_tag_moved_back_and_forth_keeps_exactly_what_it_needs(
        self, registry: FaultRegistry, pulling: Pulling
    ) -> None:
        for version, other in ((OLD, NEW), (NEW, OLD), (OLD, NEW), (NEW, OLD)):
            name = registry.add(version, "library/tiny")
            pulling.pull(name, version)
            pulling.age(*{blob.digest for blob in version.blobs} - {blob.digest for blob in other.blobs})
        assert {path.name for path in files_in(pulling.layout.blobs)} == {blob.digest.file_name for blob in NEW.blobs}

    def test_what_the_old_manifest_named_goes_also_where_the_new_one_had_to_be_published_twice(
        self, registry: FaultRegistry, pulling: Pulling, once: Hook
    ) -> None:
        name = registry.add(OLD, "library/tiny")
        pulling.pull(name, OLD)
        pulling.age(*UNUSED)
        registry.add(NEW, "library/tiny")

        def delete() -> None:
            Path(pulling.layout.blob(NEW.weights.digest)).unlink()
            for path in pulling.layout.pins.glob("*/*"):
                path.unlink()

        once(Publication, "_put_manifest", after=delete)
        pulling.pull(name, NEW)
        assert not any(Path(pulling.layout.blob(digest)).exists() for digest in UNUSED)


class TestWithoutHardLinks:
    @pytest.fixture(autouse=True, params=[errno.EPERM, errno.EOPNOTSUPP])
    def no_links(self, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
        def refuse(*_: Any, **__: Any) -> None:
            raise OSError(request.param, os.strerror(request.param))

        monkeypatch.setattr(os, "link", refuse)

    def test_a_model_is_pulled(self, registry: FaultRegistry, pulling: Pulling) -> None:
        pulling.pull(registry.add(OLD, "library/tiny"), OLD)
        assert not list(pulling.layout.staging.iterdir())

    def test_a_newer_version_is_pulled(self, registry: FaultRegistry, pulling: Pulling) -> None:
        pulling.pull(registry.add(OLD, "library/tiny"), OLD)
        pulling.pull(registry.add(NEW, "library/tiny"), NEW)

    @pytest.mark.parametrize("step", ["check_space", "fetched", "_place", "_put_manifest"])
    def test_blobs_that_are_deleted_meanwhile_are_fetched_again(
        self, registry: FaultRegistry, pulling: Pulling, once: Hook, step: str
    ) -> None:
        pulling.pull(registry.add(OLD, "library/tiny"), OLD)
        name = registry.add(NEW, "library/tiny")
        once(Publication, step, after=delete_blobs(pulling))
        pulling.pull(name, NEW)


class TestTheStoresLock:
    """Publications take turns, and no slow disk of one costs another its model."""

    def test_while_a_disk_takes_the_manifest_of_one_another_is_published(
        self, registry: FaultRegistry, pulling: Pulling, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        waits, goes_on, real = threading.Event(), threading.Event(), sync_file

        def slow_at_first(file: int) -> None:
            if not waits.is_set():
                waits.set()
                assert goes_on.wait(30)
            real(file)

        slow, other = registry.add(OLD, "library/slow"), Model.of([Blob.of(LICENSE_LAYER, "of another model")])
        monkeypatch.setattr(durable, "sync_file", slow_at_first)
        held = pulling.start(slow)
        assert waits.wait(30)
        pulling.pull(registry.add(other, "library/other"), other)
        goes_on.set()
        held.finish(OLD)

    def test_whoever_leaves_a_pull_that_waits_for_it_ends_that(self, registry: FaultRegistry, pulling: Pulling) -> None:
        pulling.puller.store.prepare()
        with waiting_for(pulling.layout.lock("store")):
            pulling.start(registry.add(OLD, "library/tiny")).until_said("writing manifest").close()
            eventually(lambda: not pulling.puller._running, "the pull to end")
        assert not list(pulling.layout.pins.iterdir())
