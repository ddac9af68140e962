"""Pulling a model that is here: what is fetched, what is told, and what goes."""

from __future__ import annotations

import json
import os
from dataclasses import replace
from pathlib import Path

import pytest

from tests.conftest import DaemonFactory
from tests.support.exchanges import blob, manifest
from tests.support.faults import Flip, Status
from tests.support.models import Blob, Model, generate, tiny, weights
from tests.support.pulling import Pulling
from tests.support.registry import FaultRegistry
from towline.errors import TowlineError
from towline.model.digest import Digest
from towline.model.manifest import LICENSE_LAYER, TEMPLATE_LAYER

MIB = 1 << 20
OLD = generate(2 * MIB, seed=31)
NEW = OLD.with_layer(Blob.of(LICENSE_LAYER, "another license"))
REPLACED = {each.digest for each in OLD.blobs} - {each.digest for each in NEW.blobs}
REMOVING = "removing unused layers"
ALWAYS = ["pulling manifest", "pulling", "verifying sha256 digest", "writing manifest", "success"]


def stored_blobs(pulling: Pulling) -> set[Digest]:
    names = (path.name for path in pulling.layout.blobs.iterdir())
    return {Digest.parse(name.replace("-", ":", 1)) for name in names}


def digests(*models: Model) -> set[Digest]:
    return {each.digest for model in models for each in model.blobs}


class TestNothingNew:
    @pytest.mark.parametrize(
        "model",
        [
            OLD,
            Model.of([]),
            Model.of([weights(MIB), weights(MIB), *tiny().layers]),
            tiny().with_layer(Blob.of(LICENSE_LAYER, b"")),
            Model.of([Blob.of(LICENSE_LAYER, b""), Blob.of(TEMPLATE_LAYER, b"")]),
        ],
        ids=["usual", "no layers", "a layer twice", "an empty layer", "the empty layer twice"],
    )
    def test_the_same_events_come_and_no_blob_is_asked_for(
        self, registry: FaultRegistry, pulling: Pulling, model: Model
    ) -> None:
        name = registry.add(model, "library/model")
        assert pulling.pull(name, model).steps == ALWAYS
        registry.reset()
        again = pulling.pull(name, model)
        assert again.steps == ALWAYS
        assert again.completed == {str(each.digest): [each.size] for each in model.blobs}
        assert [exchange.kind for exchange in registry.exchanges()] == ["manifest"]

    def test_each_of_several_models_is_told_of_its_own_blobs(self, registry: FaultRegistry, pulling: Pulling) -> None:
        models = {"library/old": OLD, "library/new": NEW}
        names = {registry.add(model, path): model for path, model in models.items()}
        for name, model in names.items():
            pulling.pull(name, model)
        for name, model in [*names.items(), *names.items()]:
            again = pulling.pull(name, model)
            assert again.completed == {str(each.digest): [each.size] for each in model.blobs}

    def test_another_spelling_of_the_name_is_the_same_model(self, registry: FaultRegistry, pulling: Pulling) -> None:
        pulling.pull(registry.add(OLD, "library/Model", "Q4"), OLD)
        before = {path: path.stat().st_ino for path in pulling.models.rglob("*")}
        registry.reset()
        assert pulling.pull(f"{registry.host}/LIBRARY/modeL:q4", OLD).steps == ALWAYS
        assert not registry.blob_requests()
        assert {path: path.stat().st_ino for path in pulling.models.rglob("*")} == before

    def test_blobs_without_their_manifest_are_not_fetched_again(
        self, registry: FaultRegistry, pulling: Pulling
    ) -> None:
        name = registry.add(OLD, "library/model")
        pulling.pull(name, OLD)
        for path in pulling.layout.manifests.glob("*/*/*/*"):
            path.unlink()
        registry.reset()
        assert not pulling.pull(name, OLD).fetched
        assert not registry.blob_requests()

    def test_a_second_tag_of_the_same_model_costs_a_manifest(self, registry: FaultRegistry, pulling: Pulling) -> None:
        pulling.pull(registry.add(OLD, "library/model"), OLD)
        registry.reset()
        pulling.pull(registry.add(OLD, "library/model", "other"), OLD)
        assert not registry.blob_requests()
        assert len(pulling.puller.store.list()) == 2

    def test_a_registry_that_cannot_be_asked_changes_nothing(self, registry: FaultRegistry, pulling: Pulling) -> None:
        name = registry.add(OLD, "library/model")
        pulling.pull(name, OLD)
        registry.fail(manifest(), Status(403), times=None)
        pulling.fail(name, OLD)
        pulling.check_stored(name, OLD)

    def test_a_model_that_is_gone_from_the_registry_stays_here(self, registry: FaultRegistry, pulling: Pulling) -> None:
        name = registry.add(OLD, "library/model")
        pulling.pull(name, OLD)
        registry.fail(manifest(), Status(404), times=None)
        pulling.fail(name, OLD)
        pulling.check_stored(name, OLD)


class TestNewVersion:
    def test_only_what_changed_is_fetched_and_what_it_replaced_goes(
        self, registry: FaultRegistry, pulling: Pulling
    ) -> None:
        pulling.pull(registry.add(OLD, "library/model"), OLD)
        pulling.age(*REPLACED)
        registry.reset()
        pull = pulling.pull(registry.add(NEW, "library/model"), NEW)
        assert pull.fetched == digests(NEW) - digests(OLD)
        assert {exchange.digest for exchange in registry.blob_requests()} == pull.fetched
        assert pull.steps == [*ALWAYS[:-1], REMOVING, "success"]
        assert stored_blobs(pulling) == digests(NEW)

    def test_the_pull_after_it_has_nothing_left_to_remove(self, registry: FaultRegistry, pulling: Pulling) -> None:
        pulling.pull(registry.add(OLD, "library/model"), OLD)
        pulling.age(*REPLACED)
        pulling.pull(registry.add(NEW, "library/model"), NEW)
        assert pulling.pull(f"{registry.host}/library/model", NEW).steps == ALWAYS

    def test_under_another_spelling_it_replaces_the_old_one(self, registry: FaultRegistry, pulling: Pulling) -> None:
        pulling.pull(registry.add(OLD, "library/Model"), OLD)
        pulling.age(*REPLACED)
        registry.add(NEW, "library/Model")
        pulling.pull(f"{registry.host}/LIBRARY/model", NEW)
        assert [str(each.name.model) for each in pulling.puller.store.list()] == ["Model"]
        assert stored_blobs(pulling) == digests(NEW)

    def test_the_same_layers_in_another_order_are_not_fetched_and_nothing_of_them_goes(
        self, registry: FaultRegistry, pulling: Pulling
    ) -> None:
        pulling.pull(registry.add(OLD, "library/model"), OLD)
        layers = OLD.layers[::-1]
        turned = replace(OLD.with_manifest(layers=[layer.descriptor for layer in layers]), layers=layers)
        registry.reset()
        assert pulling.pull(registry.add(turned, "library/model"), turned).steps == ALWAYS
        assert not registry.blob_requests()

    def test_a_version_with_fewer_layers_fetches_nothing_and_drops_the_rest(
        self, registry: FaultRegistry, pulling: Pulling
    ) -> None:
        fewer = OLD.with_manifest(layers=[OLD.weights.descriptor])
        pulling.pull(registry.add(OLD, "library/model"), OLD)
        pulling.age(*digests(OLD) - {OLD.weights.digest, OLD.config.digest})
        registry.reset()
        name = registry.add(fewer, "library/model")
        assert REMOVING in pulling.start(name).finish().steps
        assert not registry.blob_requests()
        assert stored_blobs(pulling) == {OLD.weights.digest, OLD.config.digest}

    def test_layers_that_another_tag_of_the_model_names_stay(self, registry: FaultRegistry, pulling: Pulling) -> None:
        pulling.pull(registry.add(OLD, "library/model", "old"), OLD)
        pulling.pull(registry.add(OLD, "library/model"), OLD)
        pulling.age(*REPLACED)
        pull = pulling.pull(registry.add(NEW, "library/model"), NEW)
        assert REMOVING not in pull.steps
        assert stored_blobs(pulling) == digests(OLD, NEW)
        pulling.check_stored(f"{registry.host}/library/model:old", OLD)

    def test_of_several_replaced_layers_those_that_another_model_names_stay(
        self, registry: FaultRegistry, pulling: Pulling
    ) -> None:
        license_layer = next(each for each in OLD.layers if each.media_type == LICENSE_LAYER)
        other = Model.of([license_layer])
        pulling.pull(registry.add(other, "library/other"), other)
        pulling.pull(registry.add(OLD, "library/model"), OLD)
        pulling.age(*REPLACED)
        assert REMOVING in pulling.pull(registry.add(NEW, "library/model"), NEW).steps
        assert stored_blobs(pulling) == digests(NEW, other)

    def test_what_a_manifest_that_is_none_names_stays(self, registry: FaultRegistry, pulling: Pulling) -> None:
        pulling.pull(registry.add(OLD, "library/model"), OLD)
        pulling.age(*REPLACED)
        odd = pulling.layout.manifests / "host" / "some" / "odd" / "latest"
        odd.parent.mkdir(parents=True)
        odd.write_text("<html>" + json.dumps([str(digest) for digest in REPLACED]))
        assert REMOVING not in pulling.pull(registry.add(NEW, "library/model"), NEW).steps
        assert stored_blobs(pulling) == digests(OLD, NEW)

    @pytest.mark.parametrize("depth", [1, 2, 3, 6])
    def test_what_a_file_of_any_depth_among_the_manifests_names_stays(
        self, registry: FaultRegistry, pulling: Pulling, depth: int
    ) -> None:
        pulling.pull(registry.add(OLD, "library/model"), OLD)
        pulling.age(*REPLACED)
        odd = pulling.layout.manifests.joinpath(*"abcdef"[:depth])
        odd.parent.mkdir(parents=True, exist_ok=True)
        odd.write_bytes(OLD.manifest)
        pulling.pull(registry.add(NEW, "library/model"), NEW)
        assert stored_blobs(pulling) == digests(OLD, NEW)

    def test_a_stored_manifest_that_cannot_be_parsed_is_replaced(
        self, registry: FaultRegistry, pulling: Pulling
    ) -> None:
        name = registry.add(OLD, "library/model")
        pulling.pull(name, OLD)
        (path,) = pulling.layout.manifests.glob("*/*/*/*")
        path.write_bytes(OLD.manifest[:-20])
        registry.reset()
        assert not pulling.pull(name, OLD).fetched
        pulling.check_stored(name, OLD)

    def test_a_blob_that_nobody_ever_named_is_not_its_business(self, registry: FaultRegistry, pulling: Pulling) -> None:
        pulling.pull(registry.add(OLD, "library/model"), OLD)
        stranger = Blob.of("x", "created, and not named")
        Path(pulling.layout.blob(stranger.digest)).write_bytes(stranger.data)
        pulling.age(stranger.digest, *REPLACED)
        pulling.pull(registry.add(NEW, "library/model"), NEW)
        assert stored_blobs(pulling) == digests(NEW) | {stranger.digest}

    @pytest.mark.parametrize("value", ["1", "true"])
    def test_a_daemon_with_noprune_keeps_what_was_replaced(
        self, registry: FaultRegistry, daemon_factory: DaemonFactory, store_path: Path, value: str
    ) -> None:
        daemon = daemon_factory(environment={"OLLAMA_NOPRUNE": value})
        daemon.pull(registry.add(OLD, "library/model"), model=OLD)
        for digest in REPLACED:
            os.utime(store_path / "blobs" / digest.file_name, (1, 1))
        assert REMOVING not in daemon.pull(registry.add(NEW, "library/model"), model=NEW).steps
        assert {path.name for path in (store_path / "blobs").iterdir()} == {
            digest.file_name for digest in digests(OLD, NEW)
        }

    @pytest.mark.parametrize("fault", [Status(404), Flip(3)], ids=str)
    def test_one_that_cannot_be_had_leaves_the_old_one_whole(
        self, registry: FaultRegistry, pulling: Pulling, fault: Status | Flip
    ) -> None:
        name = registry.add(OLD, "library/model")
        pulling.pull(name, OLD)
        registry.add(NEW, "library/model")
        registry.fail(blob(NEW.config), fault, times=None)
        assert isinstance(pulling.fail(name, NEW), TowlineError)
        pulling.check_stored(name, OLD)
        registry.heal()
        pulling.age(*REPLACED)
        assert REMOVING in pulling.pull(name, NEW).steps


class TestDisk:
    """What is in the store is looked at, not remembered."""

    @pytest.mark.parametrize("by", [-1, 1])
    def test_a_blob_of_another_length_is_fetched_again_and_no_other(
        self, registry: FaultRegistry, pulling: Pulling, by: int
    ) -> None:
        name = registry.add(OLD, "library/model")
        pulling.pull(name, OLD)
        os.truncate(Path(pulling.layout.blob(OLD.weights.digest)), OLD.weights.size + by)
        registry.reset()
        assert pulling.pull(name, OLD).fetched == {OLD.weights.digest}
        assert registry.bytes_sent() == OLD.weights.size

    def test_an_empty_layer_that_is_gone_is_made_again_without_a_request(
        self, registry: FaultRegistry, pulling: Pulling
    ) -> None:
        empty = Blob.of(LICENSE_LAYER, b"")
        model = tiny().with_layer(empty)
        name = registry.add(model, "library/model")
        pulling.pull(name, model)
        Path(pulling.layout.blob(empty.digest)).unlink()
        registry.reset()
        pulling.pull(name, model)
        assert not registry.blob_requests()

    def test_a_dangling_link_in_the_place_of_a_blob_is_replaced(
        self, registry: FaultRegistry, pulling: Pulling
    ) -> None:
        name = registry.add(OLD, "library/model")
        pulling.pull(name, OLD)
        path = Path(pulling.layout.blob(OLD.config.digest))
        path.unlink()
        path.symlink_to("nowhere")
        pulling.pull(name, OLD)
        assert not path.is_symlink()

    def test_a_blob_that_is_a_link_to_another_disk_is_used_as_it_is(
        self, registry: FaultRegistry, pulling: Pulling, tmp_path: Path
    ) -> None:
        name = registry.add(OLD, "library/model")
        pulling.pull(name, OLD)
        path = Path(pulling.layout.blob(OLD.weights.digest))
        path.rename(tmp_path / "moved")
        path.symlink_to(tmp_path / "moved")
        registry.reset()
        pulling.pull(name, OLD)
        assert not registry.blob_requests()
        assert path.is_symlink()

    def test_a_store_that_is_a_link_works(self, registry: FaultRegistry, tmp_path: Path) -> None:
        (tmp_path / "elsewhere").mkdir()
        (tmp_path / "linked").symlink_to("elsewhere")
        with Pulling(tmp_path / "linked") as pulling:
            pulling.pull(registry.add(OLD, "library/model"), OLD)
            pulling.age(*REPLACED)
            pulling.pull(registry.add(NEW, "library/model"), NEW)
            assert stored_blobs(pulling) == digests(NEW)
