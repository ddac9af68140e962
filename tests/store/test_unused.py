"""What an update removes, and when; and that nothing goes that any manifest names, in any layout."""

from __future__ import annotations

import json
import logging
import math
import os
import shutil
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.support.models import Blob, Model, tiny
from tests.support.pulling import Pulling
from tests.support.registry import FaultRegistry
from towline.errors import StoreError
from towline.model.digest import Digest
from towline.model.manifest import LICENSE_LAYER
from towline.store.unused import remove

OLD = tiny(1)
NEW = OLD.with_layer(Blob.of(LICENSE_LAYER, "another license"))
NEWEST = OLD.with_layer(Blob.of(LICENSE_LAYER, "a third license"))
UNUSED = {each.digest for each in OLD.blobs} - {each.digest for each in NEW.blobs}
REMOVING = "removing unused layers"
HOUR = 3600.0


@pytest.fixture
def name(registry: FaultRegistry, pulling: Pulling) -> str:
    """A model that was pulled hours ago, and of which there is a newer version."""
    name = registry.add(OLD, "library/model")
    pulling.pull(name, OLD)
    pulling.age(*UNUSED)
    registry.add(NEW, "library/model")
    return name


def here(pulling: Pulling, digests: set[Digest] = UNUSED) -> set[Digest]:
    return {digest for digest in digests if os.path.lexists(pulling.layout.blob(digest))}


class TestAge:
    def test_what_nothing_touched_for_an_hour_goes(self, pulling: Pulling, name: str) -> None:
        assert REMOVING in pulling.pull(name, NEW).steps
        assert not here(pulling)

    @pytest.mark.parametrize("age", [0.0, HOUR - 60, -HOUR], ids=["now", "almost an hour", "to come"])
    def test_what_is_younger_stays_and_nothing_is_said(self, pulling: Pulling, name: str, age: float) -> None:
        pulling.age(*UNUSED, by=age)
        assert REMOVING not in pulling.pull(name, NEW).steps
        assert here(pulling) == UNUSED

    def test_the_next_update_takes_it_of_whatever_model_that_is(
        self, registry: FaultRegistry, pulling: Pulling, name: str
    ) -> None:
        pulling.age(*UNUSED, by=0.0)
        pulling.pull(name, NEW)
        pulling.age(*UNUSED)
        other = Model.of([Blob.of(LICENSE_LAYER, "of another model")])
        assert REMOVING in pulling.pull(registry.add(other, "library/other"), other).steps
        assert not here(pulling)

    def test_the_next_update_takes_it_also_in_another_process(
        self, registry: FaultRegistry, pulling: Pulling, name: str
    ) -> None:
        pulling.age(*UNUSED, by=0.0)
        pulling.pull(name, NEW)
        pulling.age(*UNUSED)
        registry.add(NEWEST, "library/model")
        with Pulling(pulling.models) as another:
            assert REMOVING in another.pull(name, NEWEST).steps
        assert not here(pulling)

    def test_one_that_a_model_names_meanwhile_is_forgotten(
        self, registry: FaultRegistry, pulling: Pulling, name: str
    ) -> None:
        pulling.age(*UNUSED, by=0.0)
        pulling.pull(name, NEW)
        other = registry.add(OLD, "library/other")
        pulling.pull(other, OLD)
        pulling.age(*UNUSED)
        registry.add(NEWEST, "library/model")
        pulling.pull(name, NEWEST)
        pulling.check_stored(other, OLD)
        remembered = pulling.layout.own / "unused"
        assert not any(str(digest) in remembered.read_text() for digest in UNUSED)

    @pytest.mark.parametrize("garbage", [b"", os.urandom(5000), b"sha256:12\n" * 100])
    def test_what_is_remembered_may_be_garbage(self, pulling: Pulling, name: str, garbage: bytes) -> None:
        (pulling.layout.own / "unused").write_bytes(garbage)
        pulling.pull(name, NEW)
        assert not here(pulling)

    def test_nothing_is_remembered_where_nothing_is_left(self, pulling: Pulling, name: str) -> None:
        pulling.pull(name, NEW)
        assert not (pulling.layout.own / "unused").exists()

    def test_one_that_cannot_be_removed_fails_no_pull(
        self, pulling: Pulling, name: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        digest = sorted(UNUSED)[0]
        path = Path(pulling.layout.blob(digest))
        path.unlink()
        path.mkdir()
        os.utime(path, (1, 1))
        pulling.pull(name, NEW)
        assert here(pulling) == {digest}

    def test_to_remove_at_once_is_a_matter_of_the_time_that_is_given(self, pulling: Pulling, name: str) -> None:
        with pulling.puller.store.publication(
            pulling.puller.store.list()[0].name, pulling.puller.store.list()[0].manifest
        ):
            stranger = Blob.of("x", "nobody names it")
            path = Path(pulling.layout.blob(stranger.digest))
            path.write_bytes(stranger.data)
            os.utime(path, (time.time() + HOUR,) * 2)
            assert remove(pulling.layout, [stranger.digest], untouched_since=time.time()) == {stranger.digest}
            assert remove(pulling.layout, [stranger.digest], untouched_since=math.inf) == set()
        assert not path.exists()


def as_link(blob: Path, tag: Path) -> None:
    tag.symlink_to(blob)


def as_relative_link(blob: Path, tag: Path) -> None:
    tag.symlink_to(os.path.relpath(blob, tag.parent))


def as_hard_link(blob: Path, tag: Path) -> None:
    tag.hardlink_to(blob)


def as_copy(blob: Path, tag: Path) -> None:
    shutil.copy(blob, tag)


class TestNewerLayout:
    """`manifests-v2/`, as newer Ollamas keep it: a manifest is a blob there, and the tag leads to it."""

    @pytest.fixture(params=[as_link, as_relative_link, as_hard_link, as_copy], ids=lambda how: how.__name__)
    def tagged(self, request: pytest.FixtureRequest, pulling: Pulling, name: str) -> Path:
        """The manifest as a blob, which a newer Ollama names."""
        blob = Path(pulling.layout.blob(OLD.digest))
        blob.write_bytes(OLD.manifest)
        tag = pulling.models / "manifests-v2/ollama.com/library/model/latest"
        tag.parent.mkdir(parents=True)
        request.param(blob, tag)
        pulling.age(OLD.digest)
        return blob

    def test_what_it_names_stays(self, pulling: Pulling, name: str, tagged: Path) -> None:
        assert REMOVING not in pulling.pull(name, NEW).steps
        assert here(pulling) == UNUSED

    def test_the_manifest_itself_is_named_as_a_blob(self, pulling: Pulling, name: str, tagged: Path) -> None:
        assert remove(pulling.layout, {OLD.digest, *UNUSED}, untouched_since=math.inf) == set()
        assert tagged.exists()

    def test_what_it_does_not_name_goes(self, pulling: Pulling, name: str, tagged: Path) -> None:
        stranger = Blob.of("x", "nobody names it")
        Path(pulling.layout.blob(stranger.digest)).write_bytes(stranger.data)
        remove(pulling.layout, [stranger.digest], untouched_since=math.inf)
        assert not here(pulling, {stranger.digest})

    def test_a_tag_whose_manifest_is_gone_names_that_alone(self, pulling: Pulling, name: str) -> None:
        tag = pulling.models / "manifests-v2/ollama.com/library/gone/latest"
        tag.parent.mkdir(parents=True)
        tag.symlink_to(pulling.layout.blob(OLD.digest))
        pulling.pull(name, NEW)
        assert not here(pulling)


class TestWhatCannotBeTold:
    """Then nothing goes, it is said, and the pull succeeds all the same."""

    def break_off(self, models: Path) -> None:
        """An Ollama writes manifests in place."""
        path = models / "manifests/host/library/being-written/latest"
        path.parent.mkdir(parents=True)
        path.write_bytes(OLD.manifest[:100])

    def empty(self, models: Path) -> None:
        path = models / "manifests-v2/host/library/being-written/latest"
        path.parent.mkdir(parents=True)
        path.touch()

    def lead_away(self, models: Path) -> None:
        (models / "manifests/elsewhere").symlink_to("/mnt/a disk that is not mounted")

    def lead_the_root_away(self, models: Path) -> None:
        (models / "manifests-v2").symlink_to("/mnt/a disk that is not mounted")

    def be_without_end(self, models: Path) -> None:
        path = models / "manifests/host/library/large/latest"
        path.parent.mkdir(parents=True)
        with path.open("wb") as file:
            file.truncate(1 << 40)

    def be_new(self, models: Path) -> None:
        path = models / "manifests-v3/ollama.com/library/model/latest"
        path.parent.mkdir(parents=True)
        path.write_bytes(OLD.manifest)

    def be_new_and_empty(self, models: Path) -> None:
        (models / "manifests.next").mkdir()

    KINDS = (break_off, empty, lead_away, lead_the_root_away, be_without_end, be_new, be_new_and_empty)

    @pytest.mark.parametrize("spoil", KINDS, ids=lambda spoil: spoil.__name__)
    def test_nothing_goes_and_it_is_said_once(
        self,
        pulling: Pulling,
        registry: FaultRegistry,
        name: str,
        caplog: pytest.LogCaptureFixture,
        spoil: Callable[[TestWhatCannotBeTold, Path], None],
    ) -> None:
        spoil(self, pulling.models)
        caplog.set_level(logging.INFO, "towline")
        for model in (NEW, NEWEST):
            registry.add(model, "library/model")
            assert REMOVING not in pulling.pull(name, model).steps
        assert here(pulling) == UNUSED
        said = [record.levelno for record in caplog.records if "nothing is removed" in record.message]
        assert said == [logging.WARNING, logging.INFO]

    @pytest.mark.parametrize("spoil", KINDS, ids=lambda spoil: spoil.__name__)
    def test_whoever_asks_for_it_is_told(
        self, pulling: Pulling, name: str, spoil: Callable[[TestWhatCannotBeTold, Path], None]
    ) -> None:
        spoil(self, pulling.models)
        with pytest.raises(StoreError, match="nothing is removed"):
            remove(pulling.layout, UNUSED, untouched_since=math.inf)
        assert here(pulling) == UNUSED

    def test_it_goes_with_the_next_update_after_that(
        self, pulling: Pulling, registry: FaultRegistry, name: str
    ) -> None:
        (pulling.models / "manifests-v3").mkdir()
        pulling.pull(name, NEW)
        (pulling.models / "manifests-v3").rmdir()
        registry.add(NEWEST, "library/model")
        assert REMOVING in pulling.pull(name, NEWEST).steps
        assert not here(pulling)


class TestOtherFiles:
    """What stands among the manifests and is none."""

    def test_links_to_folders_are_followed_and_may_go_round(self, pulling: Pulling, name: str, tmp_path: Path) -> None:
        path = tmp_path / "elsewhere/library/model/latest"
        path.parent.mkdir(parents=True)
        path.write_bytes(OLD.manifest)
        (tmp_path / "elsewhere/round").symlink_to(pulling.layout.manifests)
        (pulling.layout.manifests / "linked").symlink_to(tmp_path / "elsewhere")
        pulling.pull(name, NEW)
        assert here(pulling) == UNUSED

    def test_pipes_and_old_garbage_name_nothing(self, pulling: Pulling, name: str) -> None:
        folder = pulling.layout.manifests / "host/library/odd"
        folder.mkdir(parents=True)
        os.mkfifo(folder / "pipe")
        (folder / "garbage").write_bytes(b"\xff{")
        os.utime(folder / "garbage", (1, 1))
        assert REMOVING in pulling.pull(name, NEW).steps
        assert not here(pulling)

    def test_a_file_beside_them_is_no_folder_of_manifests(self, pulling: Pulling, name: str) -> None:
        (pulling.models / "manifests.txt").write_text("a note")
        pulling.pull(name, NEW)
        assert not here(pulling)

    def test_digests_may_be_spelled_as_file_names(self, pulling: Pulling, name: str) -> None:
        odd = pulling.layout.manifests / "host/library/odd/latest"
        odd.parent.mkdir(parents=True)
        odd.write_text(json.dumps([digest.file_name for digest in UNUSED]))
        pulling.pull(name, NEW)
        assert here(pulling) == UNUSED
