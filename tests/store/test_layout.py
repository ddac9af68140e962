"""Where everything lies: Ollama's own layout, and towline's folder beside it."""

from __future__ import annotations

import os
import stat
import time
from pathlib import Path

import pytest

from tests.support.models import tiny
from tests.support.pulling import Pulling
from tests.support.registry import FaultRegistry
from towline.errors import StoreError
from towline.model.digest import Digest
from towline.model.manifest import MODEL_LAYER, Manifest
from towline.model.name import ModelName
from towline.store.layout import Layout
from towline.store.store import Store

MODEL = tiny()


def keep(store: Path, name: str, raw: bytes = MODEL.manifest) -> Path:
    """Puts a manifest where Ollama would."""
    path = store / "manifests" / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(raw)
    return path


def names(store: Path) -> list[str]:
    return [model.name.full for model in Store(store).list()]


class TestAfterAPull:
    @pytest.fixture
    def name(self, registry: FaultRegistry, pulling: Pulling) -> str:
        name = registry.add(MODEL, "library/tiny", "1b")
        pulling.pull(name, MODEL)
        return name

    def test_exactly_the_files_of_ollamas_layout_are_there_and_a_record_of_what_was_verified(
        self, registry: FaultRegistry, pulling: Pulling, name: str
    ) -> None:
        files = {str(path.relative_to(pulling.models)) for path in pulling.models.rglob("*") if path.is_file()}
        blobs = {f"blobs/sha256-{blob.digest.hex}" for blob in MODEL.blobs}
        assert files == {*blobs, f"manifests/{registry.host}/library/tiny/1b", "towline/verified"}

    def test_what_towline_adds_is_in_one_folder_of_its_own(self, pulling: Pulling, name: str) -> None:
        assert sorted(os.listdir(pulling.models)) == ["blobs", "manifests", "towline"]

    def test_blobs_can_be_read_by_everybody_and_are_as_new_as_the_pull(self, pulling: Pulling, name: str) -> None:
        for blob in MODEL.blobs:
            status = Path(pulling.layout.blob(blob.digest)).stat()
            assert stat.S_IMODE(status.st_mode) == 0o644
            assert abs(time.time() - status.st_mtime) < 300

    def test_blobs_can_be_read_by_everybody_whatever_the_mask_of_the_process(
        self, registry: FaultRegistry, pulling: Pulling
    ) -> None:
        name = registry.add(MODEL, "library/tiny")
        pulling.models.mkdir(mode=0o755)
        before = os.umask(0o077)
        try:
            pulling.pull(name, MODEL)
        finally:
            os.umask(before)
        assert {stat.S_IMODE(Path(pulling.layout.blob(blob.digest)).stat().st_mode) for blob in MODEL.blobs} == {0o644}

    def test_a_blob_that_was_there_is_as_new_as_the_pull_that_uses_it(
        self, registry: FaultRegistry, pulling: Pulling, name: str
    ) -> None:
        for blob in MODEL.blobs:
            os.utime(Path(pulling.layout.blob(blob.digest)), (0, 0))
        pulling.pull(registry.add(MODEL, "library/again"), MODEL)
        assert all(Path(pulling.layout.blob(blob.digest)).stat().st_mtime > 1e9 for blob in MODEL.blobs)

    def test_no_pin_lock_or_staging_is_left(self, pulling: Pulling, name: str) -> None:
        layout = pulling.layout
        assert not [path for folder in (layout.staging, layout.locks, layout.pins) for path in folder.iterdir()]

    def test_a_blob_is_one_file_with_one_name(self, pulling: Pulling, name: str) -> None:
        assert {Path(pulling.layout.blob(blob.digest)).stat().st_nlink for blob in MODEL.blobs} == {1}


class TestListing:
    def test_an_empty_store_has_no_models(self, store_path: Path) -> None:
        assert Store(store_path).list() == []

    def test_models_come_newest_first(self, store_path: Path) -> None:
        for age, name in enumerate(["h/n/a/latest", "h/n/b/latest", "h/n/c/latest"]):
            os.utime(keep(store_path, name), (1000 - age, 1000 - age))
        assert names(store_path) == ["h/n/a:latest", "h/n/b:latest", "h/n/c:latest"]

    @pytest.mark.parametrize(
        "path",
        [
            "h/n/a",
            "h/n/.hidden/latest",
            "h/n/a/la test",
            "h/n.n/a/latest",
            "h/n/a/b/latest",
            ".towline/n/a/latest",
            "h/n/a/-latest",
        ],
    )
    def test_files_that_are_no_models_by_their_name_are_left_out(self, store_path: Path, path: str) -> None:
        keep(store_path, path)
        assert names(store_path) == []

    @pytest.mark.parametrize("raw", [b"", b"<html>", b"\xff", b"[" * 100_000, b"{" + b" " * (5 << 20)])
    def test_files_that_are_no_manifests_are_left_out(self, store_path: Path, raw: bytes) -> None:
        keep(store_path, "h/n/bad/latest", raw)
        keep(store_path, "h/n/good/latest")
        assert names(store_path) == ["h/n/good:latest"]

    def test_one_that_names_nothing_is_listed_as_an_ollama_lists_it(self, store_path: Path) -> None:
        keep(store_path, "h/n/empty/latest", b"{}")
        assert names(store_path) == ["h/n/empty:latest"]

    def test_a_folder_where_a_manifest_should_be_is_left_out(self, store_path: Path) -> None:
        (store_path / "manifests/h/n/a/latest").mkdir(parents=True)
        assert names(store_path) == []
        assert Store(store_path).find(ModelName.parse("h/n/a")) is None


class TestFinding:
    def test_case_is_no_matter_and_the_stores_spelling_is_told(self, store_path: Path) -> None:
        keep(store_path, "Host/Some/Model/Tag")
        found = Store(store_path).find(ModelName.parse("hOST/sOME/mODEL:tAG"))
        assert found is not None
        assert found.name.full == "Host/Some/Model:Tag"

    def test_the_exact_spelling_comes_before_another(self, store_path: Path) -> None:
        keep(store_path, "h/n/MODEL/latest")
        keep(store_path, "h/n/model/latest")
        found = Store(store_path).find(ModelName.parse("h/n/model"))
        assert found is not None
        assert found.name.model == "model"

    def test_each_part_is_spelled_as_it_stands_even_where_the_model_is_new(self, store_path: Path) -> None:
        keep(store_path, "Host/Some/Model/Tag")
        spelled = Store(store_path).spelled(ModelName.parse("host/some/other:tag"))
        assert spelled.full == "Host/Some/other:tag"

    @pytest.mark.parametrize("name", ["h/n/none", "h/none/a", "none/n/a", "h/n/a:none"])
    def test_what_is_not_here_is_not_found(self, store_path: Path, name: str) -> None:
        keep(store_path, "h/n/a/latest")
        assert Store(store_path).find(ModelName.parse(name)) is None

    def test_a_pin_has_to_be_the_manifests(self, store_path: Path) -> None:
        keep(store_path, "h/n/a/latest")
        store = Store(store_path)
        assert store.find(ModelName.parse(f"h/n/a@{MODEL.digest}")) is not None
        assert store.find(ModelName.parse(f"h/n/a@{tiny(seed=1).digest}")) is None

    def test_the_file_of_the_weights_is_told_if_it_is_here(self, store_path: Path) -> None:
        keep(store_path, "h/n/a/latest")
        store = Store(store_path)
        (model,) = store.list()
        assert store.weights_path(model) is None
        path = store.blob_path(MODEL.weights.digest)
        path.parent.mkdir(parents=True)
        path.write_bytes(MODEL.weights.data)
        assert store.weights_path(model) == path

    def test_a_model_without_weights_has_no_such_file(self, store_path: Path) -> None:
        bare = MODEL.with_manifest(layers=[]).manifest
        keep(store_path, "h/n/a/latest", bare)
        store = Store(store_path)
        (model,) = store.list()
        assert Manifest.parse(bare).layer(MODEL_LAYER) is None
        assert store.weights_path(model) is None

    def test_a_blob_is_here_in_its_size_only(self, store_path: Path) -> None:
        store = Store(store_path)
        digest = Digest.of(b"abc")
        path = store.blob_path(digest)
        path.parent.mkdir(parents=True)
        path.write_bytes(b"abc")
        assert store.has_blob(digest)
        assert store.has_blob(digest, 3)
        assert not store.has_blob(digest, 4)
        assert not store.has_blob(Digest.of(b"x"))


class TestPreparing:
    def test_the_folders_are_made(self, store_path: Path) -> None:
        Store(store_path / "deep" / "er").prepare()
        assert sorted(os.listdir(store_path / "deep" / "er")) == ["blobs", "manifests", "towline"]

    def test_it_may_be_done_again(self, store_path: Path) -> None:
        Store(store_path).prepare()
        Store(store_path).prepare()

    @pytest.mark.parametrize("path", ["", "sub/folder"])
    def test_a_store_in_the_place_of_a_file_is_one_sentence(self, tmp_path: Path, path: str) -> None:
        (tmp_path / "file").write_text("x")
        with pytest.raises(StoreError, match="set OLLAMA_MODELS"):
            Store(tmp_path / "file" / path).prepare()

    @pytest.mark.parametrize("name", ["blobs", "manifests"])
    def test_what_stands_in_the_place_of_a_folder_is_named(self, store_path: Path, name: str) -> None:
        store_path.mkdir()
        (store_path / name).symlink_to("nowhere")
        store, model = Store(store_path), tiny()
        for use in (store.prepare, lambda: store.outlook(ModelName.parse("x"), Manifest.parse(model.manifest))):
            with pytest.raises(StoreError, match=f"{store_path / name} is no folder"):
                use()

    def test_layouts_of_one_root_are_equal(self, store_path: Path) -> None:
        assert Layout(store_path) == Layout(store_path)
